"""Access networks for the lab: what stands between a host and the Internet.

Eleven kinds, each with the behaviour (RFC 4787) that `tests/lab/test_access.py` finds in it, and
what that behaviour allows two of them: see `directness`.
"""

from __future__ import annotations

import ipaddress
import itertools
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import lab_nat
from lab_nat import NatKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab import Host, Interface, Lab

OUTSIDE = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("fd00:192:0:2::/64"))
ROUTED = ("198.51.100.{}/28", "fd00:198:51:{:x}::/64")
PRIVATE = "10.{}.{}.0/24"


class Dependence(Enum):
    """On what of the remote endpoint a mapping or a filter depends (RFC 4787, 4.1 and 5)."""

    NONE = "none"  # no translation, or no filter
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS = "address-dependent"
    ADDRESS_AND_PORT = "address and port-dependent"


class Access(Enum):
    """What a host is behind."""

    NO_NAT = "no NAT"
    FULL_CONE = "full cone"
    ADDRESS_RESTRICTED = "address-restricted"
    PORT_RESTRICTED = "port-restricted"
    SYMMETRIC = "symmetric"
    SYMMETRIC_RANDOM = "symmetric, random ports"
    DOUBLE_NAT = "double NAT"
    IPV6_ONLY = "IPv6 only"
    IPV4_ONLY = "IPv4 only"
    OUTBOUND_ONLY = "firewall, outbound only"
    UDP_TO_SERVERS = "UDP to the servers only"


@dataclass(frozen=True)
class Behaviour:
    """Of an access network, by RFC 4787; ``families``: IP versions that leave it."""

    mapping: Dependence
    filtering: Dependence
    families: frozenset[int]
    only_servers: bool = False
    """UDP goes to the domain's servers and nowhere else."""


_V4, _V6, _BOTH = frozenset({4}), frozenset({6}), frozenset({4, 6})
_NO, _ANY = Dependence.NONE, Dependence.ENDPOINT_INDEPENDENT
_ADDRESS, _PORT = Dependence.ADDRESS, Dependence.ADDRESS_AND_PORT

BEHAVIOURS = {
    Access.NO_NAT: Behaviour(_NO, _NO, _BOTH),
    Access.FULL_CONE: Behaviour(_ANY, _ANY, _V4),
    Access.ADDRESS_RESTRICTED: Behaviour(_ANY, _ADDRESS, _V4),
    Access.PORT_RESTRICTED: Behaviour(_ANY, _PORT, _V4),
    Access.SYMMETRIC: Behaviour(_PORT, _PORT, _V4),
    Access.SYMMETRIC_RANDOM: Behaviour(_PORT, _PORT, _V4),
    Access.DOUBLE_NAT: Behaviour(_ANY, _PORT, _V4),
    Access.IPV6_ONLY: Behaviour(_NO, _NO, _V6),
    Access.IPV4_ONLY: Behaviour(_NO, _NO, _V4),
    Access.OUTBOUND_ONLY: Behaviour(_NO, _PORT, _BOTH),
    Access.UDP_TO_SERVERS: Behaviour(_NO, _PORT, _BOTH, only_servers=True),
}


class Directness(Enum):
    """Whether two nodes can exchange UDP without a relay."""

    ALWAYS = "direct"
    BY_PROBING = "direct by port probing"
    NEVER = "relayed"


def directness(a: Behaviour, b: Behaviour) -> Directness:
    """What RFC 4787 behaviour allows the two, each behind a network of its own; symmetric in them.

    Both know, by their servers, an outside endpoint of the other; both send at the same time.

    - No common family, or UDP to the servers only: no datagram of one reaches the other.
    - A mapping that does not depend on the remote endpoint: the endpoint that the servers saw is
      the one that the other has to send to. If both are so, each opens its own filter for the
      other's endpoint by sending to it, whatever the filter depends on: direct.
    - One mapping depends on the remote endpoint: what the servers saw of this (hard) side is a
      right address with a wrong port. The hard side's packets go to the right endpoint of the
      other (easy) side, and carry the right port in their source. So it is enough that the easy
      side lets them in: it does if it has no filter, if the filter is endpoint-independent, or if
      it is address-dependent and the easy side has sent to any port of the hard side's address
      (which needs "paired" address pooling, RFC 4787 REQ-2: a NAT with one address has it).
    - The easy side's filter depends on the port as well: it has to send to the very port, which
      has to be found by trying many (from many sockets of the hard side): by probing.
    - Both mappings depend on the remote endpoint: neither knows any right port of the other, and
      the pairs of ports to try are too many.
    """
    if not a.families & b.families or a.only_servers or b.only_servers:
        return Directness.NEVER
    hard = [each for each in (a, b) if each.mapping in (_ADDRESS, _PORT)]
    if not hard:
        return Directness.ALWAYS
    if len(hard) == 2:
        return Directness.NEVER
    easy = b if hard[0] is a else a
    return Directness.BY_PROBING if easy.filtering is _PORT else Directness.ALWAYS


class Internet:
    """A switch on which servers, strangers and access routers meet, with both IP versions."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._switch = lab.switch([str(network) for network in OUTSIDE])
        self._numbers = itertools.count(1)
        self._places = itertools.count(1)
        self._members: list[Host] = []
        self._routes: list[tuple[str, str]] = []
        self.servers: list[Host] = []

    def server(self, name: str) -> Host:
        """A host with both IP versions, to which every kind of access lets UDP through.

        Make the servers before the access networks that have to know them."""
        host = self.host(name)
        self.servers.append(host)
        return host

    def host(self, name: str, versions: frozenset[int] = _BOTH) -> Host:
        """A host on the switch itself."""
        host = self.lab.host(name)
        self._join(host, versions)
        return host

    def behind(self, access: Access, name: str) -> Host:
        """A host behind an access network of its own, and the routers ``NAME-router…``."""
        match access:
            case Access.NO_NAT | Access.IPV4_ONLY | Access.IPV6_ONLY:
                return self.host(name, BEHAVIOURS[access].families)
            case Access.OUTBOUND_ONLY:
                return self._firewalled(name, ())
            case Access.UDP_TO_SERVERS:
                return self._firewalled(
                    name, [each.address(version) for each in self.servers for version in (4, 6)]
                )
            case Access.DOUBLE_NAT:
                return self._translated(name, [NatKind.PORT_RESTRICTED] * 2)
            case _:
                return self._translated(name, [NatKind[access.name]])

    def _join(self, host: Host, versions: frozenset[int]) -> Interface:
        number = next(self._numbers)
        addresses = [
            f"{network[number]}/{network.prefixlen}"
            for network in OUTSIDE
            if network.version in versions
        ]
        interface = self._switch.join(host, *addresses)
        for prefix, via in self._routes:
            if ipaddress.ip_address(via).version in versions:
                host.route(prefix, via)
        self._members.append(host)
        return interface

    def _translated(self, name: str, kinds: list[NatKind]) -> Host:
        """Behind NATs in a row, the outermost first; IPv4 alone."""
        place = next(self._places)
        outside = self._join(self.lab.host(f"{name}-router"), _V4)
        for depth, kind in enumerate(kinds, 1):
            router = outside.host
            router.nat(kind, outside)
            is_last = depth == len(kinds)
            inner = self.lab.host(name if is_last else f"{name}-router-{depth + 1}")
            near, outside = self.lab.link(router, inner, [PRIVATE.format(place, depth)])
            inner.route("default", near.address())
        return outside.host

    def _firewalled(self, name: str, udp_only_to: Sequence[str]) -> Host:
        """Behind a router that lets in only answers; its network is routed to by all others."""
        place = next(self._places)
        router, host = self.lab.host(f"{name}-router"), self.lab.host(name)
        outside = self._join(router, _BOTH)
        router.forward()
        router.nft(lab_nat.outbound_only(outside.name, udp_only_to=udp_only_to))
        prefixes = [ROUTED[0].format(16 * place), ROUTED[1].format(place)]
        near, _ = self.lab.link(router, host, prefixes)
        for version, prefix in zip((4, 6), prefixes, strict=True):
            host.route("default", near.address(version))
            self._route(prefix, outside.address(version))
        return host

    def _route(self, prefix: str, via: str) -> None:
        version = ipaddress.ip_address(via).version
        for member in self._members:
            addresses = [each for i in member.interfaces for each in i.addresses]
            has_version = any(each.version == version for each in addresses)
            if has_version and all(str(each.ip) != via for each in addresses):
                member.route(prefix, via)
        self._routes.append((prefix, via))
