"""One seed: nodes that meet and talk while everything around them changes, and what must hold.

After every event both directions of every pair deliver again within `BOUNDS`, and stay so; the
paths in use come to rest; nothing arrives twice or at somebody else; no table grows.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

from mobility_access import allows_direct, make_access
from mobility_node import LOOKUP_INTERVAL, MobileNode
from mobility_world import RELAYS, WorldDomain

from ntmpatch.handover.bindings import MAX_SESSIONS, RelayedEndpoint
from ntmpatch.handover.pace import MAX_PATIENCE, MAX_UNREACHABLE_INTERVAL, MAX_WAYS
from ntmpatch.handover.ways import MAX_REMOTES, UNREACHABLE_AFTER, Alarm
from ntmpatch.negotiation.node import LOOKUP_TIMEOUT
from ntmpatch.negotiation.redirection import FIRST_INTERVAL
from ntmpatch.negotiation.registration import FIRST_RETRY_INTERVAL, REGISTRATION_TIMEOUT
from ntmpatch.packet.tunnel.peer import Alarm as TunnelAlarm
from ntmpatch.runtime.station import FIRST_RETRIES
from ntmpatch.servers.direction.directing import DIRECTION_TIMEOUT
from ntmpatch.signalling.effects import Ready

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mobility_access import Access

SETTLING_TIME = 6.0
"""Seconds after recovery in which better paths may yet be found: RTT, candidates, punching (3.1 s),
and a direction that is still under way."""
QUIET_TIME = 8.0
"""Seconds of talk after that, in which paths are to stay."""
MAX_QUIET_CHANGES = 6
"""Of one end's path to one peer in these, the hysteresis (handover/ways.py): left in a burst of
losses and returned to at once; left again, which may be for a second path, and followed by the
other end's own; and one turn of a node with two networks."""
"""Relay sessions of one peer that are kept at a time."""

# Sums of the timers that can be waited for, one after the other; all in seconds.
TOLD = REGISTRATION_TIMEOUT + FIRST_RETRY_INTERVAL + DIRECTION_TIMEOUT + sum(FIRST_RETRIES)
"""A node knows that it has moved, or nothing has to be found out: one registration that is lost, a
direction that waits for the other end, and all quick tries of the handshake."""
NOT_TOLD = TOLD + MAX_PATIENCE + UNREACHABLE_AFTER + FIRST_INTERVAL
"""Nobody is told: suspicion, the vain probes of all paths, and one direction in vain besides."""
AWAY = TOLD + MAX_UNREACHABLE_INTERVAL
"""Somebody was away for so long that the other asks at the longest interval."""
BOUNDS = {
    "first contact": LOOKUP_TIMEOUT + LOOKUP_INTERVAL + sum(FIRST_RETRIES),
    "hard move": TOLD,
    "make before break": TOLD,
    "double jump": TOLD,
    "both move": TOLD,
    "other family": TOLD,
    "NAT restarts": TOLD,
    "pause": TOLD,
    "DC restarts": TOLD,
    "black-out": NOT_TOLD,
    "path dies": NOT_TOLD,
    "relay dies": NOT_TOLD,
    "network dies": AWAY,
    "move, DC away": AWAY,
    "sleep": AWAY,
}
"""By kind of event: seconds from it, or from its end, until both directions deliver again."""


class Recovery(NamedTuple):
    """How long one event kept one pair from talking."""

    seed: int
    kind: str
    seconds: float
    """Until messages sent after the event (or after its end) had arrived in both directions."""
    changes: int
    """Of paths in use, both ends together, until the next event."""
    is_direct: bool
    could_be_direct: bool


class StoryError(AssertionError):
    """Something that must hold does not."""


class Pair:
    """Two nodes that talk."""

    def __init__(self, a: MobileNode, b: MobileNode) -> None:
        self.ends = (a, b)
        self.sent: dict[int, tuple[float, int]] = {}
        """By number: when, and from which end."""
        self.arrived: dict[int, float] = {}

    def recovered_at(self, since: float) -> float | None:
        """When a message of each direction that was sent since then had arrived."""
        first: list[float | None] = [None, None]
        for number, at in self.arrived.items():
            sent_at, end = self.sent[number]
            if sent_at >= since and (first[end] is None or at < (first[end] or at)):
                first[end] = at
        if first[0] is None or first[1] is None:
            return None
        return max(first[0], first[1])

    def forget_messages(self, before: float) -> None:
        """They are of no interest any more, but for whether they come twice."""
        self.sent = {n: sent for n, sent in self.sent.items() if sent[0] >= before}
        self.arrived = {n: at for n, at in self.arrived.items() if n in self.sent}


class Story:
    """What happens under one seed. `run` raises StoryError."""

    def __init__(self, seed: int, *, records: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.domain = WorldDomain(seed)
        self.world = self.domain.network
        self.world.records = records
        self.nodes: list[MobileNode] = []
        self.pairs: list[Pair] = []
        self.recoveries: list[Recovery] = []
        self.is_talking = False
        self._number = 0
        self._events: dict[str, Callable[[], float]] = {
            "hard move": self._hard_move,
            "make before break": self._make_before_break,
            "double jump": self._double_jump,
            "both move": self._both_move,
            "other family": self._other_family,
            "NAT restarts": self._nat_restarts,
            "pause": self._pause,
            "path dies": self._path_dies,
            "network dies": self._network_dies,
            "black-out": self._blackout,
            "relay dies": self._relay_dies,
            "DC restarts": self._dc_restarts,
            "move, DC away": self._move_without_dc,
            "sleep": self._sleep,
        }

    def run(self) -> None:
        """Play it."""
        self._begin()
        for _ in range(self.rng.randint(3, 8)):
            kind = self.rng.choice(list(self._events))
            self.world.tell("story", kind)
            self._repair()
            self._after(kind, self._events[kind]())

    # --- the beginning ---------------------------------------------------------------------

    def _begin(self) -> None:
        rng, world = self.rng, self.world
        self.domain.begin()
        for number in range(rng.randint(5, 7)):
            # Both families are always to be found somewhere.
            world.add(make_access(rng, number, ("4", "6")[number] if number < 2 else None))
        for host in range(rng.choice((2, 2, 2, 3))):
            attached = [rng.choice(world.accesses)]
            if rng.random() < 0.2:
                attached.append(self._another(attached))
            node = MobileNode(self.domain, host, attached, keeps_warm=rng.random() < 0.3)
            self.nodes.append(node)
            world.tell(node.name, f"is at {', '.join(map(str, attached))}")
        ready = world.run(30.0, lambda: all(node.of(Ready) for node in self.nodes))
        self._check(ready, "a node does not register")
        self.pairs = [Pair(self.nodes[0], other) for other in self.nodes[1:]]
        self.is_talking = True
        for pair in self.pairs:
            for end in (0, 1):
                self._talk(pair, end, rng.uniform(0.05, 0.2))
        self._after("first contact", world.now)

    def _talk(self, pair: Pair, end: int, interval: float) -> None:
        """One direction, for as long as the story goes."""
        world = self.world

        def say() -> None:
            if self.is_talking:
                self._number += 1
                pair.sent[self._number] = (world.now, end)
                pair.ends[end].say(pair.ends[1 - end], self._number)
            world.at(world.now + interval, say)

        say()

    # --- events: each returns the instant from which recovery counts -----------------------------

    def _another(self, than: Sequence[Access], families: frozenset[bool] | None = None) -> Access:
        fitting = [
            access
            for access in self.world.accesses
            if access not in than and (families is None or families & access.gateways.keys())
        ]
        return self.rng.choice(fitting or self.world.accesses)

    def _notice(self) -> float:
        """Seconds until the handover module has told: netlink, and its debouncing."""
        return self.rng.uniform(0.0, 0.1)

    def _move(self, node: MobileNode, access: Access | None = None) -> None:
        access = access or self._another(node.attached)
        self.world.tell(node.name, f"moves to {access}")
        node.move([access], self._notice())

    def _hard_move(self) -> float:
        self._move(self.rng.choice(self.nodes))
        return self.world.now

    def _make_before_break(self) -> float:
        node = self.rng.choice(self.nodes)
        old = node.attached[0]
        new = self._another([old])
        attached = [new, old] if self.rng.random() < 0.5 else [old, new]
        self.world.tell(node.name, f"moves to {new}, make before break")
        node.move(attached, self._notice())
        self.world.run(self.rng.uniform(0.5, 4.0))
        node.move([new], self._notice())
        return self.world.now

    def _double_jump(self) -> float:
        node = self.rng.choice(self.nodes)
        self._move(node)
        self.world.run(self.rng.uniform(0.0, 0.5))
        self._move(node)
        return self.world.now

    def _both_move(self) -> float:
        for node in self.nodes[:2]:
            self._move(node)
        return self.world.now

    def _other_family(self) -> float:
        node = self.rng.choice(self.nodes)
        families = {family for access in node.attached for family in access.gateways}
        others = frozenset({False, True} - families) or frozenset({self.rng.random() < 0.5})
        fitting = [a for a in self.world.accesses if a.gateways.keys() == others]
        self._move(node, self.rng.choice(fitting) if fitting else None)
        return self.world.now

    def _nat_restarts(self) -> float:
        node = self.rng.choice(self.nodes)
        for access in node.attached:
            self.world.tell("story", f"the router of {access} restarts")
            for gateway in access.gateways.values():
                gateway.forget()
        return self.world.now

    def _pause(self) -> float:
        self.is_talking = False
        self.world.run(self.rng.choice((20.0, 70.0, 150.0, 320.0)) * self.rng.uniform(1.0, 1.3))
        self.is_talking = True
        return self.world.now

    def _path_dies(self) -> float:
        """Between two access networks nothing passes any more, and nobody is told."""
        pair = self.rng.choice(self.pairs)
        for one in pair.ends[0].attached:
            for other in pair.ends[1].attached:
                if one is not other:
                    self.world.severed.add(frozenset((one.number, other.number)))
        return self.world.now

    def _network_dies(self) -> float:
        """The preferred network of a node with two carries nothing any more."""
        node = self.rng.choice(self.nodes)
        if len(node.attached) < 2:
            node.move([*node.attached, self._another(node.attached)], self._notice())
            self.world.run(self.rng.uniform(2.0, 5.0))
        dying = node.attached[0]
        for other in self.nodes:
            if other is not node and dying in other.attached:
                return self.world.now
        self.world.tell("story", f"{dying} of {node.name} dies")
        dying.is_dead = True
        return self.world.now

    def _blackout(self) -> float:
        node = self.rng.choice(self.nodes)
        ends_at: float = self.world.now + 10.0 ** self.rng.uniform(-1.0, 1.0)
        for access in node.attached:
            access.weather.blackout_until = ends_at
        self.world.run(ends_at - self.world.now)
        return ends_at

    def _relay_dies(self) -> float:
        label = self.rng.choice(RELAYS)
        in_use = self.pairs[0].ends[0].path_to(self.pairs[0].ends[1])
        if isinstance(in_use, RelayedEndpoint):
            for each, seat in self.domain.relays.items():
                if in_use.relay in seat.endpoints.values():
                    label = each
        self.world.tell("story", f"{label} dies")
        self.domain.relays[label].up = False
        return self.world.now

    def _dc_restarts(self) -> float:
        self.domain.coordinator.up = False
        self.world.run(self.rng.uniform(0.0, 3.0))
        self.domain.coordinator = self.domain.start_coordinator()
        return self.world.now

    def _move_without_dc(self) -> float:
        self.domain.coordinator.up = False
        self._move(self.rng.choice(self.nodes))
        return self._dc_restarts()

    def _sleep(self) -> float:
        node = self.rng.choice(self.nodes)
        seconds = 10.0 ** self.rng.uniform(0.3, 2.5)
        node.sleep(seconds)
        if self.rng.random() < 0.5:  # carried elsewhere meanwhile
            self._move(node)
        self.world.run(seconds)
        return self.world.now

    def _repair(self) -> None:
        """What the last event broke for good is whole again."""
        world = self.world
        world.severed.clear()
        for access in world.accesses:
            access.is_dead = False
        for label, seat in self.domain.relays.items():
            if not seat.up:
                self.domain.relays[label] = self.domain.start_relay(label)

    # --- what must hold ----------------------------------------------------------------------

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            self.world.tell("story", f"FAILED: {what}")
            raise StoryError(f"{what} (at {self.world.now:.3f})")

    def _after(self, kind: str, since: float) -> None:
        world = self.world
        bound = BOUNDS[kind]
        before = {node.name: len(node.changes) for node in self.nodes}
        recovered: dict[int, float] = {}

        def all_talk() -> bool:
            if not self._hear():
                return False
            for index, pair in enumerate(self.pairs):
                if index not in recovered:
                    at = pair.recovered_at(since)
                    if at is None:
                        return False
                    recovered[index] = at - since
            return True

        talks = world.run(since + bound - world.now, all_talk)
        self._check(talks, f"after '{kind}' a pair does not talk within {bound:.1f} s")
        for node in self.nodes:
            self._check(node.is_asleep is False, "a node sleeps on")
        world.tell("story", f"all talk again {max(recovered.values()):.3f} s after '{kind}'")
        world.run(SETTLING_TIME)
        settled = {node.name: len(node.changes) for node in self.nodes}
        world.run(QUIET_TIME)
        self._hear()
        for index, pair in enumerate(self.pairs):
            stays = pair.recovered_at(world.now - QUIET_TIME / 2)
            self._check(stays is not None, f"after '{kind}' a pair fell silent again")
            changes = sum(
                len([1 for _, key, _ in node.changes[before[node.name] :] if key == other])
                for node, other in self._sides(pair)
            )
            quiet = [
                len([1 for _, key, _ in node.changes[settled[node.name] :] if key == other])
                for node, other in self._sides(pair)
            ]
            self._check(
                max(quiet) <= MAX_QUIET_CHANGES,
                f"after '{kind}' {quiet} changes of path in {QUIET_TIME} quiet seconds",
            )
            self.recoveries.append(
                Recovery(
                    self.seed,
                    kind,
                    recovered[index],
                    changes,
                    not any(isinstance(a.path_to(b), RelayedEndpoint) for a, b in _both(pair)),
                    self._may_be_direct(pair),
                )
            )
            pair.forget_messages(world.now - 30.0)
        self._check_tables()

    @staticmethod
    def _sides(pair: Pair) -> list[tuple[MobileNode, bytes]]:
        return [(a, b.tunnel.public_key) for a, b in _both(pair)]

    def _hear(self) -> bool:
        """Take what arrived; whether anything did."""
        has_arrived = False
        for node in self.nodes:
            has_arrived = has_arrived or bool(node.received)
            for at, key, number in node.received:
                pair = next((p for p in self.pairs if number in p.sent), None)
                if pair is None:
                    continue  # of long ago: it was staged while nobody could be reached
                _, end = pair.sent[number]
                self._check(
                    pair.ends[1 - end] is node and pair.ends[end].tunnel.public_key == key,
                    f"message {number} is delivered to the wrong node",
                )
                self._check(number not in pair.arrived, f"message {number} is delivered twice")
                pair.arrived[number] = at
            node.received.clear()
        return has_arrived

    def _may_be_direct(self, pair: Pair) -> bool:
        """Whether the borders let them meet: the truth, which no node knows."""
        for one in pair.ends[0].attached:
            for other in pair.ends[1].attached:
                if one.is_dead or other.is_dead:
                    continue
                if frozenset((one.number, other.number)) in self.world.severed:
                    continue
                for family, gateway in one.gateways.items():
                    theirs = other.gateways.get(family)
                    if theirs is not None and (
                        one is other or allows_direct(gateway.border, theirs.border)
                    ):
                        return True
        return False

    def _check_tables(self) -> None:
        for node in self.nodes:
            timers = 0
            for key in node.tunnel.peers:
                known = node.paths.of(key)
                timers += len(TunnelAlarm)
                if known is None:
                    continue
                timers += len(Alarm) + len(known.ways)
                self._check(len(known.ways) <= MAX_WAYS, "too many ways")
                self._check(len(known.remotes) <= MAX_REMOTES, "too many remotes")
                sessions = len(node.relays.describe(key))
                self._check(sessions <= MAX_SESSIONS, f"{sessions} relay sessions with one peer")
            armed = len(node.tunnel.timers) + len(node.paths._timers)
            self._check(armed <= timers, f"{armed} timers")


def _both(pair: Pair) -> tuple[tuple[MobileNode, MobileNode], tuple[MobileNode, MobileNode]]:
    a, b = pair.ends
    return (a, b), (b, a)
