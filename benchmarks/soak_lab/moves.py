"""What happens to the networks of a soak: moves of either end, and deaths of the relay."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import lab_nat
from handover_lab.cases import nat_rules
from handover_lab.world import FAMILIES
from lab_nat import NatKind

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from handover_lab.world import Place, Step, World
    from lab import Host

    from soak_lab.servers import Servers

INTERVAL = (5.0, 15.0)
"""Seconds between two moves of one end."""
RELAY_INTERVAL = (60.0, 180.0)
"""Seconds between two deaths of the relay."""
FILTER_INTERVAL = (20.0, 60.0)
"""Seconds for which UDP between the ends is filtered, and for which it is not."""
OVERLAP = 0.3
"""Seconds in which both networks work, where the old one goes after the new one came."""
FAMILY_SETS = ((4,), (6,), FAMILIES)
NO_NAT = "table ip lab_nat {}\ndelete table ip lab_nat\n"
NO_PORTS = "table ip rebinding {}\ndelete table ip rebinding\n"

HARD, OVERLAPPING, FAMILY, NAT, REBINDING = "hard", "overlap", "family", "nat", "rebinding"
FILTER, RELAY_DEATH = "filter", "relay"
NEVER = float("inf")
OF_AN_END = (HARD, OVERLAPPING, FAMILY, NAT, REBINDING)
KINDS = {
    HARD: "the address goes, another network comes at once",
    OVERLAPPING: "another network comes before the old one goes",
    FAMILY: "a network of other IP versions: IPv4, IPv6 or both",
    NAT: "a network behind a NAT of some kind (IPv4), with its mappings empty",
    REBINDING: "the NAT forgets its mappings and gives other ports; without a NAT, as hard",
    FILTER: "UDP between the ends is filtered for a while, so that only the relay is left",
    RELAY_DEATH: "the relay is killed, and started again",
}


class Mobile:
    """One end: where it is, and by which IP versions."""

    def __init__(self, world: World, host: Host, places: Sequence[Place]) -> None:
        self.host = host
        self._world = world
        self._places = places
        self._at = places[0]
        self._families: tuple[int, ...] = FAMILIES
        self._is_behind_nat = False
        self.moves: Counter[str] = Counter()
        world.arrive(host, self._at)

    @property
    def place(self) -> str:
        """For people."""
        versions = "+".join(f"v{family}" for family in self._families)
        return f"{self._at.number} {versions}{' NAT' if self._is_behind_nat else ''}"

    def move(self, kind: str, rng: random.Random) -> None:
        """Be elsewhere; LabError if a tool of the system refuses."""
        self.moves[kind] += 1
        if kind == REBINDING and self._is_behind_nat:
            first = 1024 * rng.randrange(20, 60)
            rules = NO_NAT + nat_rules(f"{first}-{first + 999}")
            self._world.change((self._at.router, [("nft", rules), ("forget",)]))
            return
        new = rng.choice([place for place in self._places if place is not self._at])
        families, nat = self._families, None
        if kind == FAMILY:
            families = rng.choice([each for each in FAMILY_SETS if each != self._families])
        elif kind == NAT:
            families, nat = (4,), rng.choice(list(NatKind))
        self._prepare(new, nat)
        if kind == OVERLAPPING:
            steps: list[Step] = [
                ("ip", new.arrive(families, metric=50)),
                ("wait", str(OVERLAP)),
                ("ip", self._at.leave(self._families)),
                # What comes next may be preferred by the same metric.
                ("ip", _change_metric(new, families)),
            ]
        else:
            steps = [("ip", self._at.leave(self._families) + new.arrive(families))]
        self._world.change((self.host, steps))
        self._at, self._families, self._is_behind_nat = new, families, nat is not None

    def _prepare(self, place: Place, nat: NatKind | None) -> None:
        """The router of a place that nobody is at."""
        rules = NO_NAT + NO_PORTS
        if nat is not None:
            rules += lab_nat.nat(nat, place.router.interfaces[1].name)
        self._world.change((place.router, [("nft", rules), ("forget",)]))


def _change_metric(place: Place, families: tuple[int, ...]) -> str:
    """For ``ip -batch``: the ordinary metric for the default routes of an overlap."""
    lines = []
    for version in families:
        way = f"default via {place.gateway(version)} dev {place.device} metric"
        lines += [f"route add {way} 100", f"route del {way} 50"]
    return "\n".join(lines) + "\n"


class Mischief:
    """All that happens, by a seeded plan: what is next, and when."""

    def __init__(
        self,
        world: World,
        ends: dict[str, Mobile],
        servers: Servers,
        kinds: Sequence[str],
        rng: random.Random,
        now: float,
    ) -> None:
        self._world = world
        self._ends = ends
        self._servers = servers
        self._kinds = [kind for kind in kinds if kind in OF_AN_END]
        self._is_filtered = False
        self._rng = rng
        self.relay_deaths = 0
        self.causes: tuple[str, ...] = ()
        """What happened last, for who counts pauses."""
        self._due = dict.fromkeys(ends if self._kinds else (), 0.0)
        for name in self._due:
            self._due[name] = now + rng.uniform(*INTERVAL)
        self._filter_due_at = now + rng.uniform(*FILTER_INTERVAL) if FILTER in kinds else NEVER
        self._relay_due_at = now + rng.uniform(*RELAY_INTERVAL) if RELAY_DEATH in kinds else NEVER

    @property
    def moves(self) -> int:
        """Of both ends."""
        return sum(end.moves.total() for end in self._ends.values())

    @property
    def due_at(self) -> float:
        """When something happens next."""
        return min(*self._due.values(), self._filter_due_at, self._relay_due_at)

    def happen(self, now: float) -> str:
        """Do what is due, and say what that was; empty if nothing was."""
        said, causes = [], []
        for name, due_at in self._due.items():
            if due_at <= now:
                kind = self._rng.choice(self._kinds)
                self._ends[name].move(kind, self._rng)
                self._due[name] = now + self._rng.uniform(*INTERVAL)
                causes.append(kind)
                said.append(f"{name} {kind} -> {self._ends[name].place}")
        if self._filter_due_at <= now:
            self._is_filtered = not self._is_filtered
            change = self._world.block_direct if self._is_filtered else self._world.unblock_direct
            self._world.change((self._world.core, [change()]))
            self._filter_due_at = now + self._rng.uniform(*FILTER_INTERVAL)
            causes.append(FILTER)
            said.append("filtered" if self._is_filtered else "no filter")
        if self._relay_due_at <= now:
            self._servers.restart("rs")
            self.relay_deaths += 1
            self._relay_due_at = now + self._rng.uniform(*RELAY_INTERVAL)
            causes.append(RELAY_DEATH)
            said.append("relay restarted")
        self.causes = tuple(causes)
        return ", ".join(said)
