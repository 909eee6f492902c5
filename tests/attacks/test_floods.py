"""Floods from sources that are not true: fewer bytes out than in, tables that stay small, service.

The answers to a flood go to whoever the attacker named as its source; so to an address that has not
shown that it can receive, no party ever sends more than came from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from attack_scene import VICTIMS, A, Scene, state

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop
from ntmpatch.crypto.noise import Initiator, StaticKey
from ntmpatch.packet.tunnel.constants import LOAD_RATE, MAX_SOURCES
from ntmpatch.packet.tunnel.cookie import CookieHolder
from ntmpatch.signalling.admission import PROVISIONAL_TIMEOUT
from ntmpatch.signalling.effects import Ready, Resolved
from ntmpatch.wire.control_messages import CertificateRenewal, DirectionRequest, RefusalCode
from ntmpatch.wire.relay import BIND_SIZE, bind_frame, data_header
from ntmpatch.wire.wireguard import COOKIE_REPLY_SIZE, INITIATION, INITIATION_LAYOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from wire_network import Seat

FLOOD_SIZE = 800
FLOOD_INTERVAL = 0.002
"""Seconds between two datagrams of a flood: 500 a second, eight times what asks for cookies."""
LONG = 400.0
"""Seconds after which nothing of a flood can still be on anybody's mind: all timers have passed."""


class Flood:
    """Datagrams to one party, each from another source; what was sent there is counted."""

    def __init__(self, scene: Scene, victim: str) -> None:
        self.scene = scene
        self.seat: Seat = scene.victims[victim]
        self.network = scene.domain.network
        self.rng = scene.domain.rng
        self.sent: dict[Endpoint, int] = {}

    def pour(self, make: Callable[[], bytes], count: int = FLOOD_SIZE) -> None:
        for number in range(count):
            source = Endpoint(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1024)
            data = make()
            self.sent[source] = self.sent.get(source, 0) + len(data)
            self.network.inject(source, self.seat.seen, data, number * FLOOD_INTERVAL)
        self.network.run(count * FLOOD_INTERVAL + 0.1)

    def amplified(self) -> dict[Endpoint, tuple[int, int]]:
        """Bytes in and out of the sources that got more than they gave."""
        return {
            source: (size, self.seat.bytes_out[source])
            for source, size in self.sent.items()
            if self.seat.bytes_out.get(source, 0) > size
        }

    def kept(self) -> tuple[int, ...]:
        """The sizes of all that a flood could fill."""
        tunnel, party = self.seat.tunnel, self.seat.party
        return (
            len(tunnel.peers),
            len(tunnel._handshakes),
            len(party.sources),
            len(party._names),
            len(party.admission._provisional),
            len(party.admission._known),
        )

    # --- what an attacker can make -------------------------------------------------------

    def noise(self) -> bytes:
        return self.rng.randbytes(self.rng.choice((1, 32, 148, 1200)))

    def looks_right(self) -> bytes:
        """Random, with a type, a size and the first MAC that are right."""
        body = bytes((INITIATION, 0, 0, 0)) + self.rng.randbytes(144)
        return self._stamped(body)

    def initiation(self) -> bytes:
        """A true one, by a key that nobody knows."""
        call = Initiator(
            StaticKey(self.rng.randbytes(32)),
            self.seat.party.public_key,
            self.rng.randbytes(32),
            self.rng.randbytes(12),
        )
        parts = call.message_parts
        return self._stamped(INITIATION_LAYOUT.pack(INITIATION, 7, *parts, b"", b""))

    def _stamped(self, message: bytes) -> bytes:
        return CookieHolder(self.seat.party.public_key, lifetime=1.0).stamp(message, 0.0)

    def replayed(self) -> Callable[[], bytes]:
        """What true peers have sent here before."""
        here = self.seat.seen
        seen = [each.data for each in self.network.wire if each.destination == here]
        return lambda: self.rng.choice(seen)


@pytest.mark.parametrize("victim", VICTIMS)
def test_no_flood_is_amplified_or_remembered(victim: str) -> None:
    scene = Scene()
    flood = Flood(scene, victim)
    before, kept = state(flood.seat), flood.kept()
    for make in (flood.noise, flood.looks_right, flood.initiation, flood.replayed()):
        flood.pour(make)
        assert flood.amplified() == {}
        # At most as many strangers as cookies are not asked for, while each has its few seconds.
        assert len(flood.seat.tunnel.peers) <= kept[0] + LOAD_RATE * (PROVISIONAL_TIMEOUT + 4)
        assert len(flood.seat.tunnel._checker._sources) <= MAX_SOURCES
    assert flood.seat.drops[Drop.TUNNEL_COOKIE_WANTED] > FLOOD_SIZE
    out = sum(flood.seat.bytes_out.get(source, 0) for source in flood.sent)
    assert out < sum(flood.sent.values()) / 2
    assert max(flood.seat.bytes_out.get(source, 0) for source in flood.sent) >= COOKIE_REPLY_SIZE
    scene.domain.network.run(LONG)
    assert flood.amplified() == {}
    assert all(now <= then for now, then in zip(flood.kept(), kept, strict=True))
    assert state(flood.seat) == before
    assert isinstance(scene.domain.resolve(scene.a, "b"), Resolved)


def test_frames_to_a_relay_that_nobody_was_given_are_answered_by_nothing() -> None:
    scene = Scene()
    flood = Flood(scene, "rs")
    table = flood.seat.party.table
    grant = table.grant(lifetime=900.0, byte_quota=0, now=scene.domain.network.now)
    here, there = Endpoint("198.51.100.9", 1), Endpoint("198.51.100.10", 1)
    binds = [bind_frame(grant.session_id, side, grant.capabilities[side], 9) for side in (0, 1)]
    for source, frame in zip((here, there), binds, strict=True):
        scene.domain.network.inject(source, flood.seat.seen, frame)
    scene.domain.network.run(1.0)
    assert flood.seat.bytes_out[here] == flood.seat.bytes_out[there] == BIND_SIZE
    drops = flood.seat.drops
    flood.pour(lambda: flood.rng.choice(binds))
    flood.pour(lambda: bind_frame(grant.session_id, 0, flood.rng.randbytes(32), 10))
    flood.pour(lambda: data_header(grant.session_id) + bytes(flood.rng.randrange(1, 1400)))
    flood.pour(lambda: data_header(flood.rng.randrange(1 << 32)) + bytes(100))
    assert not any(source in flood.seat.bytes_out for source in flood.sent)
    assert flood.seat.bytes_out[here] == flood.seat.bytes_out[there] == BIND_SIZE
    assert flood.seat.drops - drops == {
        Drop.RELAY_REPLAYED_BIND: FLOOD_SIZE,
        Drop.RELAY_BAD_CAPABILITY: FLOOD_SIZE,
        Drop.RELAY_WRONG_SOURCE: FLOOD_SIZE,
        Drop.RELAY_UNKNOWN_SESSION: FLOOD_SIZE,
    }
    assert len(table) == 1


def test_an_old_tunnel_request_does_not_draw_a_restarted_server_to_where_it_came_from() -> None:
    """After a restart a server cannot know that it has seen the request before."""
    scene = Scene()
    domain, network = scene.domain, scene.domain.network
    old: Any = scene.victims["dc"]
    recorded = [
        each.data
        for each in network.wire
        if (each.source, each.destination) == (A, old.seen) and each.data[0] == INITIATION
    ]
    old.up = False
    scene.a.up = False  # it does not help out by calling in its turn
    network.run(1.0)
    coordinator: Any = domain.start_coordinator()
    scene.victims["dc"] = coordinator
    victim = Endpoint("203.0.113.99", 99)
    network.inject(victim, coordinator.seen, recorded[-1])
    assert network.run(5.0, lambda: bool(coordinator.of(Ready)))
    for _ in range(3):
        domain.resolve(scene.b, "a", seconds=60.0)
    network.run(LONG)
    assert coordinator.bytes_out.get(victim, 0) <= len(recorded[-1])


def test_one_nodes_flood_of_requests_leaves_room_for_others() -> None:
    scene = Scene()
    domain, network = scene.domain, scene.domain.network
    eve = domain.member("eve")
    dc: Any = scene.victims["dc"]
    scene.victims["node"].up = False
    for _ in range(400):
        eve.say(dc, DirectionRequest("a.home.example"))
    network.run(0.5)
    assert dc.party._running < 100
    node: Any = domain.start_node("c", Endpoint("198.51.100.3", 1000))
    domain.register(node)
    assert isinstance(domain.resolve(node, "b"), Resolved)
    network.run(20.0)
    refused = [
        getattr(envelope.message, "reason", None) for _, envelope in eve.heard if envelope.kind == 3
    ]
    assert {RefusalCode.BUSY, RefusalCode.TOO_FAST} <= set(refused)
    assert dc.party._running < 10
    # Where the answers wait for the store, as many as one peer may have under way are begun.
    server: Any = scene.victims["as"]
    assert eve.meet(server)
    for _ in range(400):
        eve.say(server, CertificateRenewal())
    network.run(5.0)
    assert server.drops[Drop.CONTROL_TOO_MANY] > 200
