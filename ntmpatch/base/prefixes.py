"""Something for each network of addresses, where whoever sends may be a stranger or lie."""

from __future__ import annotations

import ipaddress
from hashlib import blake2s
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

IPV6_PREFIX_SIZE = 7
"""Bytes of an IPv6 address that count: a /56 is what one site has."""
PLACES = 4096
"""All prefixes share so many, by a keyed hash: strangers get no memory."""


def prefix_of(host: str) -> bytes:
    """What addresses of one network have in common: IPv4 /24, IPv6 /56."""
    if ":" in host:
        return ipaddress.IPv6Address(host).packed[:IPV6_PREFIX_SIZE]
    return host.rpartition(".")[0].encode()


class ByPrefix(Generic[T]):
    """One ``T`` for each prefix, made when it is first met; some prefixes share theirs."""

    def __init__(self, key: bytes, make: Callable[[float], T]) -> None:
        """``key``: so that nobody knows whom he shares with. ``make(now)`` makes one."""
        self._key = key
        self._make = make
        self._places: list[T | None] = [None] * PLACES

    def of(self, host: str, now: float) -> T:
        """What the network of ``host`` has."""
        digest = blake2s(prefix_of(host), digest_size=4, key=self._key).digest()
        index = int.from_bytes(digest) % PLACES
        found = self._places[index]
        if found is None:
            found = self._places[index] = self._make(now)
        return found
