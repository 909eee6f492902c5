"""TCP ports that are bound but neither listened on nor connected from yet.

The stack knows listeners and connections; between ``bind()`` and ``listen()`` a port is only
reserved, and a second ``bind()`` must already fail with EADDRINUSE.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

EPHEMERAL_PORTS = range(32768, 61000)
"""Linux's default net.ipv4.ip_local_port_range."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One port, as bound: by whom, for which families, at which address (None: all)."""

    id: int
    families: tuple[int, ...]
    address: bytes | None
    port: int
    reuse_address: bool
    reuse_port: bool
    listening: bool = False

    def excludes(self, other: Claim) -> bool:
        """Whether Linux would refuse ``other`` while this is bound (inet_csk_get_port)."""
        if self.port != other.port or not set(self.families) & set(other.families):
            return False
        if self.address is not None and other.address is not None and self.address != other.address:
            return False
        if self.reuse_port and other.reuse_port:
            return False
        return not (self.reuse_address and other.reuse_address and not self.listening)


class PortTable:
    """All claims of one node."""

    def __init__(
        self, rng: random.Random, users: Callable[[int], Iterable[Claim]] = lambda _: ()
    ) -> None:
        """``users`` tells of the connections that have a port."""
        self._rng = rng
        self._users = users
        self._claims: dict[int, Claim] = {}

    def get(self, id_: int) -> Claim | None:
        """The claim of one socket, or None."""
        return self._claims.get(id_)

    def claim(self, claim: Claim, *, instead_of: int = 0) -> Claim:
        """Enter ``claim``, with a free port if its port is 0; OSError(EADDRINUSE).

        ``instead_of`` is the id of the claim that it takes over, which the caller releases.
        """
        others = [
            other for other in self._claims.values() if other.id not in (claim.id, instead_of)
        ]
        if claim.port:
            candidates: Iterable[int] = (claim.port,)
        else:
            start = self._rng.randrange(len(EPHEMERAL_PORTS))
            count = len(EPHEMERAL_PORTS)
            candidates = (EPHEMERAL_PORTS[(start + step) % count] for step in range(count))
        for port in candidates:
            candidate = Claim(
                claim.id,
                claim.families,
                claim.address,
                port,
                claim.reuse_address,
                claim.reuse_port,
                claim.listening,
            )
            if not any(other.excludes(candidate) for other in others) and not any(
                user.excludes(candidate) for user in self._users(port)
            ):
                self._claims[candidate.id] = candidate
                return candidate
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    def release(self, id_: int) -> None:
        """Forget the claim of one socket; harmless if it has none."""
        self._claims.pop(id_, None)
