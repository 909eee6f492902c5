"""Who has which port: one table a protocol, with the kernel's rules of who may share one.

Every socket that has a port is in it as a claim: bound, listening, or a connection, TIME-WAIT
included. What is being accepted has none yet, as in Linux.
"""

from __future__ import annotations

import enum
import errno
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

EPHEMERAL_PORTS = range(32768, 61000)
"""Linux's default net.ipv4.ip_local_port_range."""


def os_error(number: int) -> OSError:
    """An OSError as the kernel would raise it."""
    return OSError(number, os.strerror(number))


class Use(enum.Enum):
    """What a socket does with its port."""

    BOUND = "bound"
    """Or connected from a port that the program chose, or accepted."""
    LISTENING = "listening"
    AUTOMATIC = "automatic"
    """Connected from a port that ``connect`` chose: others may be connected from there as well."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One socket's claim of a port: ``families`` has 4, 6 or both; ``address`` None: all of them.

    Port 0 is any that is free.
    """

    families: tuple[int, ...]
    address: bytes | None
    port: int
    reuse_address: bool = False
    reuse_port: bool = False
    use: Use = Use.BOUND

    def excludes(self, other: Claim) -> bool:
        """Whether Linux refuses ``other`` the same port while this has it (inet_csk_get_port)."""
        if not set(self.families) & set(other.families):
            return False
        if self.address is not None and other.address is not None and self.address != other.address:
            return False
        if self.reuse_port and other.reuse_port:
            return False
        return not (self.reuse_address and other.reuse_address and self.use is not Use.LISTENING)


class PortTable:
    """All claims of one protocol; equal claims, which have to share, are counted."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._claims: dict[int, dict[Claim, int]] = {}

    def claim(self, wanted: Claim, *, instead_of: Claim | None = None) -> Claim:
        """Enter a claim, with its port; OSError EADDRINUSE.

        ``instead_of`` is the same socket's claim so far: it does not stand in the way, and ends.
        """
        if wanted.port:
            if not self._allows(wanted, instead_of):
                raise os_error(errno.EADDRINUSE)
        else:
            port = self._choose(
                lambda port: (
                    port not in self._claims or self._allows(replace(wanted, port=port), instead_of)
                ),
                exhausted=errno.EADDRINUSE,
            )
            wanted = replace(wanted, port=port)
        self.add(wanted)
        if instead_of is not None:
            self.release(instead_of)
        return wanted

    def add(self, claim: Claim) -> None:
        """Enter it, whoever else has the port."""
        claims = self._claims.setdefault(claim.port, {})
        claims[claim] = claims.get(claim, 0) + 1

    def release(self, claim: Claim) -> None:
        """One socket less has it."""
        claims = self._claims[claim.port]
        claims[claim] -= 1
        if not claims[claim]:
            del claims[claim]
            if not claims:
                del self._claims[claim.port]

    def choose_to_connect(self, is_free: Callable[[int], bool]) -> int:
        """A port that no program has chosen, and that ``is_free`` for what is connected to.

        OSError EADDRNOTAVAIL (__inet_hash_connect).
        """
        return self._choose(
            lambda port: (
                all(each.use is Use.AUTOMATIC for each in self._claims.get(port, ()))
                and is_free(port)
            ),
            exhausted=errno.EADDRNOTAVAIL,
        )

    def _allows(self, wanted: Claim, instead_of: Claim | None) -> bool:
        return not any(
            other.excludes(wanted)
            for other, count in self._claims.get(wanted.port, {}).items()
            if other != instead_of or count > 1
        )

    def _choose(self, is_free: Callable[[int], bool], *, exhausted: int) -> int:
        """At random (RFC 6056 section 3.3.1)."""
        count = len(EPHEMERAL_PORTS)
        start = self._rng.randrange(count)
        for step in range(count):
            port = EPHEMERAL_PORTS[(start + step) % count]
            if is_free(port):
                return port
        raise os_error(exhausted)


def flow_hash(remote: tuple[bytes, int]) -> int:
    """By which SO_REUSEPORT shares what comes from ``remote``; the same at every time."""
    return crc32(remote[0] + remote[1].to_bytes(2))


def family_of(address: bytes) -> int:
    """4 or 6, of a packed address."""
    return 4 if len(address) == 4 else 6
