"""Names and addresses, found from either, and which names and addresses lie below another."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.wire.control_messages import Address


class NameIndex:
    """The addresses of each name; addresses are packed (4 or 16 bytes).

    ``changes`` counts the changes, so that who answers from it can tell that there was one.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._addresses: dict[str, tuple[bytes, ...]] = {}
        self._names: dict[bytes, str] = {}
        self._below: dict[str | bytes, int] = {}
        """How many there are one step below; what has none is not in it."""

    def put(self, name: str, addresses: Sequence[bytes]) -> None:
        """``name`` has these addresses from now on, and no others; empty ones are passed over."""
        fresh = tuple(address for address in addresses if address)
        if self._addresses.get(name) == fresh:
            return
        self.remove(name)
        self.changes += 1
        self._addresses[name] = fresh
        self._count(_above(name))
        for address in fresh:
            if address not in self._names:
                self._count(enclosing(address))
            self._names[address] = name

    def remove(self, name: str) -> None:
        """Forget a name and what addresses it still has."""
        addresses = self._addresses.pop(name, None)
        if addresses is None:
            return
        self.changes += 1
        self._uncount(_above(name))
        for address in addresses:
            if self._names.get(address) == name:
                del self._names[address]
                self._uncount(enclosing(address))

    def addresses_of(self, name: str) -> tuple[bytes, ...] | None:
        """The addresses of a name; None if there is no such name."""
        return self._addresses.get(name)

    def name_of(self, address: bytes) -> str | None:
        """The name that this address was last given to."""
        return self._names.get(address)

    def has_below(self, key: str | bytes) -> bool:
        """Whether there are names below the name, or addresses that begin so.

        The beginning of an IPv4 address is 1 to 3 bytes, that of an IPv6 address 1 to 31
        hexadecimal digits in a text of their own, which no name is: ``#fd00``.
        """
        return key in self._below

    def __iter__(self) -> Iterator[tuple[str, tuple[bytes, ...]]]:
        return iter(self._addresses.items())

    def _count(self, keys: Iterable[str | bytes]) -> None:
        """One more below the first of ``keys``, each of which is one step below the next."""
        for key in keys:
            count = self._below.get(key, 0)
            self._below[key] = count + 1
            if count:
                return  # it is counted above already

    def _uncount(self, keys: Iterable[str | bytes]) -> None:
        for key in keys:
            count = self._below[key] - 1
            if count:
                self._below[key] = count
                return
            del self._below[key]


def _above(name: str) -> Iterator[str]:
    """All names that ``name`` lies below, the nearest first."""
    while name := name.partition(".")[2]:
        yield name


def enclosing(address: bytes) -> Iterator[str | bytes]:
    """All that a packed address begins with, as `NameIndex.has_below` has it, the longest first."""
    if len(address) == 4:
        yield from (address[:size] for size in (3, 2, 1))
        return
    digits = f"#{address.hex()}"
    yield from (digits[:size] for size in range(32, 1, -1))


def packed_hosts(endpoints: Iterable[Endpoint | Address]) -> list[bytes]:
    """The addresses of endpoints, packed, each once; what is no address is passed over."""
    packed: dict[bytes, None] = {}
    for endpoint in endpoints:
        with suppress(ValueError):
            packed[ipaddress.ip_address(endpoint.host).packed] = None
    return list(packed)
