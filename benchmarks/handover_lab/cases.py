"""What happens to the networks of a run, and who can be asked to survive it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from lab_nat import NatKind

from handover_lab.world import Step, World

if TYPE_CHECKING:
    from lab import Host

Switch: TypeAlias = Callable[[World], float]
"""Do it: the instant (CLOCK_MONOTONIC) of its end."""

OVERLAP = 0.3
"""Seconds in which both networks work, where the old one goes after the new one came."""
SETTLING = 10.0
"""Seconds to watch after a path became free, as a node may look for it only now and then."""
SETTLED = 6.0
"""Seconds for which a tunnel is in use before it loses the way for which it has an alternative."""
NAT_PORTS = ("20000-20999", "30000-30999")


def _arrive_first(world: World) -> None:
    world.arrive(world.mn, world.mn_places[0])
    world.arrive(world.cn, world.cn_places[0])


def _hard(world: World) -> float:
    old, new = world.mn_places
    return world.change((world.mn, [("ip", old.leave() + new.arrive())]))


def _overlap(world: World) -> float:
    """The new network is the preferred one from the start; the switch ends when the old goes."""
    old, new = world.mn_places
    steps: list[Step] = [("ip", new.arrive(metric=50)), ("wait", str(OVERLAP)), ("ip", old.leave())]
    return world.change((world.mn, steps))


def _arrive_both(world: World) -> None:
    _arrive_first(world)
    world.mn.run(["ip", "-batch", "-"], stdin=world.mn_places[1].arrive(metric=200).encode())


def _silence(world: World) -> float:
    """The access router of the preferred network drops everything; no host is told."""
    rules = "type filter hook forward priority -10; policy drop;"
    table = f"table inet silence {{\nchain forward {{\n{rules}\n}}\n}}\n"
    return world.change((world.mn_places[0].router, [("nft", table)]))


def nat_rules(ports: str) -> str:
    """Of a NAT whose outside is eth1: everything gets a port of these; afresh, if it was there."""
    rule = f"oifname eth1 meta l4proto {{ tcp, udp }} masquerade to :{ports}"
    chain = f"chain leaving {{ type nat hook postrouting priority srcnat;\n{rule}\n}}"
    afresh = "table ip rebinding { }\ndelete table ip rebinding\n"
    return f"{afresh}table ip rebinding {{\n{chain}\n}}\n"


def _arrive_behind_nat(world: World) -> None:
    """IPv4 only, as nobody translates IPv6 here; the NAT's outside is its second interface."""
    router = world.mn_places[0].router
    router.nat(NatKind.PORT_RESTRICTED, router.interfaces[1])
    router.nft("delete table ip lab_nat\n" + nat_rules(NAT_PORTS[0]))
    world.arrive(world.mn, world.mn_places[0], (4,))
    world.arrive(world.cn, world.cn_places[0])


def _rebind_nat(world: World) -> float:
    """The NAT forgets all mappings, and gives other ports from now on."""
    steps: list[Step] = [("nft", nat_rules(NAT_PORTS[1])), ("forget",)]
    return world.change((world.mn_places[0].router, steps))


def _arrive_blocked(world: World) -> None:
    _arrive_first(world)
    world.change((world.core, [world.block_direct()]))


def _free_direct(world: World) -> float:
    return world.change((world.core, [world.unblock_direct()]))


def _block_direct(world: World) -> float:
    return world.change((world.core, [world.block_direct()]))


def _both(world: World) -> float:
    moves: list[tuple[Host, list[Step]]] = []
    for host, (old, new) in ((world.mn, world.mn_places), (world.cn, world.cn_places)):
        moves.append((host, [("ip", old.leave() + new.arrive())]))
    return world.change(*moves)


def _arrive_ipv4(world: World) -> None:
    world.arrive(world.mn, world.mn_places[0], (4,))
    world.arrive(world.cn, world.cn_places[0])


def _to_ipv6(world: World) -> float:
    old, new = world.mn_places
    return world.change((world.mn, [("ip", old.leave((4,)) + new.arrive((6,)))]))


@dataclass(frozen=True)
class Case:
    """One kind of switch."""

    name: str
    title: str
    prepare: Callable[[World], None]
    switch: Switch
    needs_relay: bool = False
    """Only peers that have a relay of their own are asked."""
    tail: float = 0.5
    """Seconds to watch after the recovery."""
    warm_up: float = 1.5
    """Seconds of messages before the switch: round trips are known, slow starts are over."""


CASES = {
    case.name: case
    for case in (
        Case("hard", "hard switch", _arrive_first, _hard),
        Case("overlap", "new network before the old one goes", _arrive_first, _overlap),
        Case("silent", "silent death of the path", _arrive_both, _silence),
        Case("nat", "NAT rebinding", _arrive_behind_nat, _rebind_nat),
        Case("to-direct", "relay to direct", _arrive_blocked, _free_direct, True, SETTLING),
        Case(
            "to-relay",
            "direct to relay",
            _arrive_first,
            _block_direct,
            needs_relay=True,
            warm_up=SETTLED,
        ),
        Case("both", "both nodes at once", _arrive_first, _both, warm_up=SETTLED),
        Case("ipv6", "IPv4 to IPv6", _arrive_ipv4, _to_ipv6),
    )
}
