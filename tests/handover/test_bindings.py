"""Bindings at relay servers: what proves that one lives, and how soon a dead one is known."""

from __future__ import annotations

import heapq
import itertools
import random
from typing import TYPE_CHECKING

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.handover.bindings import (
    BIND_INTERVAL,
    MAX_SESSIONS,
    RETIREMENT,
    RelayBindings,
    RelayedEndpoint,
    RelayFailed,
    Released,
)
from ntmpatch.servers.relay.table import ForwardingTable, Grant
from ntmpatch.signalling.effects import RelayRoute
from ntmpatch.wire.relay import bind_frame, data_header

if TYPE_CHECKING:
    from collections.abc import Callable

RELAY, OTHER = Endpoint("203.0.113.9", 3473), Endpoint("203.0.113.10", 3473)
HOME, AWAY = Endpoint("192.0.2.1", 4460), Endpoint("198.51.100.1", 4460)
PEER = bytes(31) + b"p"
DELAY = 0.02


class Scene:
    """A node's bindings, and real relays' tables behind a network that may lose frames."""

    def __init__(self, seed: int = 1, *, loss: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.loss = loss
        self.now = 1000.0
        self.source = HOME
        self.drops = DropCounter()
        self.used: set[RelayedEndpoint] = set()
        self.is_active = True
        self.bindings = RelayBindings(
            is_used=lambda _, path: path in self.used,
            is_active=lambda _: self.is_active,
            drops=self.drops,
        )
        self.tables = {
            relay: ForwardingTable[Endpoint](
                entropy=self.rng.randbytes, drops=DropCounter(), now=self.now
            )
            for relay in (RELAY, OTHER)
        }
        self.dead: set[Endpoint] = set()
        self.sent: list[tuple[float, Endpoint, bytes]] = []
        self.answers: list[bytes] = []
        self.events: list[tuple[float, RelayFailed | Released]] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = itertools.count()

    def grant(self, relay: Endpoint = RELAY, side: int = 0) -> RelayRoute:
        grant = self.tables[relay].grant(lifetime=1e6, byte_quota=0, now=self.now)
        assert isinstance(grant, Grant)
        key = relay.host.encode().ljust(32, b"\0")
        return RelayRoute(key, (relay,), grant.session_id, side, grant.capabilities[side])

    def take(self, relay: Endpoint = RELAY) -> RelayedEndpoint:
        return self.bindings.take(PEER, self.grant(relay), relay, self.now)

    def facts(self) -> list[dict[str, object]]:
        return self.bindings.describe(PEER)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(100_000):
            while (transmit := self.bindings.poll_transmit()) is not None:
                self._send(*transmit)
            while (event := self.bindings.poll_event()) is not None:
                self.events.append((self.now, event))
            due_at = self.bindings.poll_timeout()
            instants = [self._queue[0][0]] if self._queue else []
            instants += [due_at] if due_at is not None else []
            self.now = max(min(instants, default=end), self.now)
            if self.now >= end:
                self.now = end
                return
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
            due_at = self.bindings.poll_timeout()
            if due_at is not None and due_at <= self.now:
                self.bindings.handle_timeout(self.now)
        raise AssertionError("the bindings do not come to rest")

    def _later(self, action: Callable[[], None]) -> None:
        if self.rng.random() >= self.loss:
            heapq.heappush(self._queue, (self.now + DELAY, next(self._counter), action))

    def _send(self, relay: Endpoint, frame: bytes) -> None:
        self.sent.append((self.now, relay, frame))
        source = self.source

        def arrive() -> None:
            answer = self.tables[relay].bind(source, frame, self.now)
            if answer is not None and relay not in self.dead:
                self.answers.append(answer)
                if source == self.source:
                    self._later(lambda: self.bindings.receive(answer, relay, self.now))

        self._later(arrive)


def test_a_binding_lasts_over_a_bad_network_and_measures_the_way_to_its_relay() -> None:
    for seed in range(20):
        scene = Scene(seed, loss=0.2)
        scene.used.add(scene.take())
        scene.run(600.0)
        (facts,) = scene.facts()
        # A series is lost once in sixty times; it is told, and the next one sets it right.
        assert len(scene.events) <= 4
        assert facts["round_trip_ms"] == 2000 * DELAY
        assert 600 / BIND_INTERVAL <= len(scene.sent) <= 4 * 600 / BIND_INTERVAL
        relay_drops = scene.tables[RELAY].drops
        assert not relay_drops, relay_drops


def test_only_the_relays_own_answer_to_the_very_frame_counts() -> None:
    scene = Scene()
    scene.dead.add(RELAY)
    route = scene.grant()
    path = scene.bindings.take(PEER, route, RELAY, scene.now)
    scene.run(0.01)
    (_, _, asked) = scene.sent[0]
    counter = int.from_bytes(asked[8:16])

    def bound(**changes: object) -> bytes:
        fields = {
            "session_id": route.session_id,
            "side": 0,
            "capability": route.capability,
            "counter": counter,
            "bound": True,
        }
        return bind_frame(**{**fields, **changes})  # type: ignore[arg-type]  # one call for all fields

    good = bound()
    refused = [
        (bound(capability=bytes(32)), RELAY, Drop.RELAY_BAD_CAPABILITY),
        (bound(side=1), RELAY, Drop.RELAY_BAD_CAPABILITY),
        (bound(counter=counter + 1), RELAY, Drop.RELAY_REPLAYED_BIND),
        (asked, RELAY, Drop.RELAY_UNKNOWN_FRAME),  # our own frame, thrown back
        (good, OTHER, Drop.RELAY_UNKNOWN_SESSION),
        (bound(session_id=route.session_id ^ 1), RELAY, Drop.RELAY_UNKNOWN_SESSION),
        (good[:-1], RELAY, Drop.RELAY_RUNT),
    ]
    for frame, source, drop in refused:
        before = scene.drops[drop]
        scene.bindings.receive(frame, source, scene.now)
        assert scene.drops[drop] == before + 1, drop
        assert scene.facts()[0]["bound"] is False
    scene.bindings.receive(good, RELAY, scene.now)
    assert scene.facts()[0]["bound"] is True
    scene.bindings.receive(good, RELAY, scene.now)
    assert scene.drops[Drop.RELAY_REPLAYED_BIND] == 2
    # What proved it once does not prove it again: it is asked anew, and found to be dead.
    scene.used.add(path)
    scene.bindings.check(PEER, scene.now)
    scene.bindings.receive(good, RELAY, scene.now)
    scene.run(1.0)
    assert [event for _, event in scene.events] == [RelayFailed(PEER, route.relay_key, True)]


def test_a_relay_that_dies_is_known_to_be_dead_half_a_second_after_the_suspicion() -> None:
    scene = Scene()
    path = scene.take()
    scene.used.add(path)
    scene.run(20.0)
    scene.dead.add(RELAY)
    scene.run(3.0)
    assert not scene.events, "nobody suspects it"
    suspected_at = scene.now
    for _ in range(10):  # however often
        scene.bindings.check(PEER, scene.now)
        scene.run(0.02)
    scene.run(1.0)
    ((failed_at, event),) = scene.events
    assert event == RelayFailed(PEER, RELAY.host.encode().ljust(32, b"\0"), True)
    assert failed_at - suspected_at < 0.5
    # Nobody asks, and it is known at the next binding; the session is kept, for it may come back.
    scene.used.clear()
    scene.run(BIND_INTERVAL + 2.0)
    assert scene.events[-1][1] == RelayFailed(PEER, RELAY.host.encode().ljust(32, b"\0"), False)
    scene.dead.clear()
    scene.bindings.check(PEER, scene.now)
    scene.run(0.1)
    assert scene.facts()[0]["bound"] is True


def test_who_moves_binds_at_once_from_there_and_trusts_no_answer_of_before() -> None:
    scene = Scene()
    path = scene.take()
    scene.used.add(path)
    scene.run(1.0)
    scene.bindings.check(PEER, scene.now)
    scene.run(1.5 * DELAY)  # the answer is under way
    scene.source = AWAY
    scene.bindings.refresh(scene.now)
    scene.run(0.0)
    assert scene.sent[-1][0] == scene.now
    scene.bindings.receive(scene.answers[-1], RELAY, scene.now)
    assert scene.drops[Drop.RELAY_REPLAYED_BIND] == 1
    scene.run(3 * DELAY)
    ours = memoryview(path.header + b"packet")
    table = scene.tables[RELAY]
    assert not table.forward(HOME, ours, len(ours), scene.now)
    assert table.drops == {Drop.RELAY_WRONG_SOURCE: 1}
    table.forward(AWAY, ours, len(ours), scene.now)
    assert table.drops[Drop.RELAY_UNBOUND] == 1, "we are; the far end never was"


def test_a_session_is_kept_while_data_goes_by_it_and_given_up_when_it_is_idle() -> None:
    scene = Scene()
    first = scene.take()
    scene.used.add(first)
    scene.run(1.0)
    second = scene.take(OTHER)
    assert scene.bindings.replaced(PEER) == [first]
    scene.run(4 * RETIREMENT)
    assert scene.bindings.accepts(first), "data goes by it: the new one was never proven"
    scene.used = {second}
    moved_at = scene.now
    scene.run(2 * RETIREMENT)
    ((released_at, event),) = scene.events
    assert isinstance(event, Released)
    assert (event.path, event.replaced) == (first, True)
    assert released_at - moved_at <= RETIREMENT
    assert not scene.bindings.accepts(first)
    # In reserve: kept while the tunnel is active, and no longer.
    scene.used.clear()
    scene.run(100.0)
    assert scene.bindings.accepts(second)
    scene.is_active = False
    scene.run(BIND_INTERVAL)
    event = scene.events[-1][1]
    assert isinstance(event, Released)
    assert (event.path, event.replaced) == (second, False)
    count = len(scene.sent)
    scene.run(100.0)
    assert len(scene.sent) == count
    assert scene.bindings.poll_timeout() is None


def test_a_session_at_another_address_of_its_relay_is_not_taken_back_by_the_first() -> None:
    scene = Scene()
    scene.tables[OTHER] = scene.tables[RELAY]
    route = scene.grant()
    first = scene.bindings.take(PEER, route, RELAY, scene.now)
    scene.used.add(first)
    scene.run(1.0)
    second = scene.bindings.take(PEER, route, OTHER, scene.now)
    assert first != second
    scene.bindings.refresh(scene.now)
    scene.bindings.check(PEER, scene.now)
    scene.run(1.0)
    scene.used = {second}
    moved_at = scene.now
    scene.run(60.0)
    assert {relay for at, relay, _ in scene.sent if at >= moved_at - 1.0} == {OTHER}
    assert not scene.bindings.accepts(first)
    assert len(scene.facts()) == 1
    # And back again, with greater counters than ever before.
    scene.bindings.take(PEER, route, RELAY, scene.now)
    scene.run(1.0)
    assert scene.facts()[-1]["bound"] is True
    assert not scene.tables[RELAY].drops


def test_the_same_session_again_is_no_other_one() -> None:
    scene = Scene()
    route = scene.grant()
    path = scene.bindings.take(PEER, route, RELAY, scene.now)
    scene.run(1.0)
    assert scene.bindings.take(PEER, route, RELAY, scene.now) == path
    assert path == RelayedEndpoint(RELAY, data_header(route.session_id))
    scene.run(0.01)
    assert len(scene.sent) == 1
    scene.bindings.forget(PEER)
    assert not scene.bindings.accepts(path)
    assert scene.bindings.poll_timeout() is None


def test_directions_that_come_many_at_a_time_leave_no_more_sessions_than_are_needed() -> None:
    scene = Scene()
    in_use = scene.take()
    scene.used.add(in_use)
    scene.run(1.0)
    paths = [scene.take() for _ in range(2 * MAX_SESSIONS)]
    scene.run(1.0)
    assert len(scene.facts()) == MAX_SESSIONS
    kept = {in_use, *paths[1 - MAX_SESSIONS :]}
    assert {path for path in (in_use, *paths) if scene.bindings.accepts(path)} == kept
    released = {event.path for _, event in scene.events if isinstance(event, Released)}
    assert released == {*paths} - kept
