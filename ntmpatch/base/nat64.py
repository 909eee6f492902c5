"""IPv4 addresses as a NAT64 has them: within IPv6 ones (RFC 6052), by a prefix that DNS tells."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, NamedTuple

from ntmpatch.base.addresses import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable

WELL_KNOWN_NAME = "ipv4only.arpa"
"""Has IPv4 addresses alone: an IPv6 one is made of them by who knows the prefix (RFC 7050)."""
_ITS_ADDRESSES = (bytes((192, 0, 0, 170)), bytes((192, 0, 0, 171)))
_LENGTHS = (96, 64, 56, 48, 40, 32)
_RESERVED_OCTET = 8
"""It is zero, and no part of an IPv4 address (RFC 6052, section 2.2)."""
_WELL_KNOWN_PREFIX = ipaddress.IPv6Address("64:ff9b::").packed


class Nat64Prefix(NamedTuple):
    """Where a NAT64 has the IPv4 Internet."""

    network: bytes
    """16 bytes; what is not of the prefix is zero."""
    length: int
    """Bits: one of those that RFC 6052 allows."""

    def embed(self, end: Endpoint) -> Endpoint | None:
        """An IPv4 endpoint, to be reached by IPv6; None if it must not be (section 3.1)."""
        address = ipaddress.IPv4Address(end.host)
        if self.network == _WELL_KNOWN_PREFIX and not address.is_global:
            return None
        octets = bytearray(self.network)
        for place, octet in zip(_places(self.length), address.packed, strict=True):
            octets[place] = octet
        return Endpoint(str(ipaddress.IPv6Address(bytes(octets))), end.port)

    def holds(self, end: Endpoint) -> bool:
        """Whether that is an endpoint of the NAT64's."""
        size = self.length // 8
        packed = ipaddress.ip_address(end.host).packed
        return end.is_ipv6 and packed[:size] == self.network[:size]

    def __str__(self) -> str:
        return f"{ipaddress.IPv6Address(self.network)}/{self.length}"


def _places(length: int) -> list[int]:
    """Which octets the four of an IPv4 address are."""
    free = [place for place in range(length // 8, 16) if place != _RESERVED_OCTET]
    return free[:4]


def find_prefix(hosts: Iterable[str]) -> Nat64Prefix | None:
    """From the IPv6 addresses of the well-known name; None if none is made of its IPv4 ones."""
    for host in hosts:
        packed = ipaddress.IPv6Address(host.partition("%")[0]).packed
        for length in _LENGTHS:
            if bytes(packed[place] for place in _places(length)) in _ITS_ADDRESSES:
                return Nat64Prefix(packed[: length // 8].ljust(16, b"\0"), length)
    return None
