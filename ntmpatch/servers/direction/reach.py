"""Who calls whom: the paper's rule from what the coordinators know of both nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.base.addresses import Endpoint

MAX_CANDIDATES = 4
"""Endpoints of one node that a direction names."""


class Reach(NamedTuple):
    """How a node can be reached: candidate endpoints, best first."""

    endpoints: tuple[Endpoint, ...]
    behind_nat: bool

    def families(self) -> frozenset[bool]:
        """The address families of the endpoints: True is IPv6."""
        return frozenset(endpoint.is_ipv6 for endpoint in self.endpoints)


class Plan(NamedTuple):
    """How the tunnel comes up."""

    relayed: bool
    calling_initiates: bool
    called_initiates: bool


def is_behind_nat(seen: Endpoint | None, local: Sequence[Endpoint]) -> bool:
    """Whether a node is seen at an endpoint that it does not know as its own."""
    return seen is None or seen not in local


def reach_of(seen: Endpoint | None, local: Sequence[Endpoint]) -> Reach:
    """A node's candidates: where it was seen, then its own; and whether a NAT lies before it."""
    candidates = list(dict.fromkeys([*([seen] if seen is not None else []), *local]))
    return Reach(tuple(candidates[:MAX_CANDIDATES]), is_behind_nat(seen, local))


def plan(
    calling: Reach, called: Reach, *, relay_available: bool, is_direct_out: bool = False
) -> Plan | None:
    """Which end sends the tunnel request; None: no way is left.

    Who is not reachable calls who is; if both are reachable, CN calls as in Fig. 3 (17). Relayed
    when both are behind NATs or share no address family; MN calls then, Fig. 5 (25). Without a
    relay both call, which passes most pairs of NATs. ``is_direct_out``: it was tried so in vain,
    for a firewall may stand before who looks reachable.
    """
    common_family = bool(calling.families() & called.families())
    may_be_direct = common_family and not is_direct_out
    if may_be_direct and not calling.behind_nat:
        return Plan(relayed=False, calling_initiates=False, called_initiates=True)
    if may_be_direct and not called.behind_nat:
        return Plan(relayed=False, calling_initiates=True, called_initiates=False)
    if relay_available:
        return Plan(relayed=True, calling_initiates=True, called_initiates=False)
    if common_family:
        return Plan(relayed=False, calling_initiates=True, called_initiates=True)
    return None
