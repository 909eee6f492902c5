"""A listening port: connections that are being made, and how many may wait to be accepted.

As in Linux the backlog bounds two things by themselves: half-open connections, beyond which SYNs
are answered with cookies, and established ones that the program has not accepted, beyond which
SYNs and the handshakes' last ACKs are dropped until it has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ntmpatch.packet.stack.ports import Claim, Use, family_of, flow_hash

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.packet.stack.handlers import TcpHandler
    from ntmpatch.packet.stack.tcp.connection import TcpConnection
    from ntmpatch.packet.stack.tcp.service import TcpService

MAX_BACKLOG = 4096
"""Linux's somaxconn."""


class TcpListener:
    """Accepts connections to what it has claimed."""

    def __init__(
        self,
        service: TcpService,
        claim: Claim,
        *,
        backlog: int,
        accept: Callable[[TcpConnection], TcpHandler],
    ) -> None:
        self.claim = claim
        self.accept = accept
        self.half_open: set[TcpConnection] = set()
        self.backlog = backlog
        self.is_closed = False
        self.count_unaccepted: Callable[[], int] | None = None
        """Tells how many connections the program has not accepted; None: it accepts at once.

        Asked before a connection is let in; it may close the listener.
        """
        self._service = service
        self._accepted: dict[bytes, Claim] = {}

    @property
    def is_full(self) -> bool:
        """Whether no further connection is kept half open (inet_csk_reqsk_queue_is_full)."""
        return len(self.half_open) >= max(1, self._limit)

    @property
    def is_unattended(self) -> bool:
        """Whether so many wait for the program that no further one may (sk_acceptq_is_full)."""
        return self.count_unaccepted is not None and self.count_unaccepted() > self._limit

    @property
    def _limit(self) -> int:
        return max(0, min(self.backlog, MAX_BACKLOG))

    def claim_at(self, address: bytes) -> Claim:
        """What a connection claims that it accepts at ``address``: one for them all."""
        claim = self._accepted.get(address)
        if claim is None:
            families = (family_of(address),)
            claim = replace(self.claim, families=families, address=address, use=Use.BOUND)
            self._accepted[address] = claim
        return claim

    def close(self) -> None:
        """Listen no more; connections that are being made are reset."""
        if not self.is_closed:
            self.is_closed = True
            self._service.remove_listener(self)


class ListenerTable:
    """Who listens where."""

    def __init__(self) -> None:
        self._listeners: dict[tuple[int, int], list[TcpListener]] = {}

    def add(self, listener: TcpListener) -> None:
        """Whether it may listen there, its claim has decided."""
        for key in self._keys(listener):
            self._listeners.setdefault(key, []).append(listener)

    def remove(self, listener: TcpListener) -> None:
        """One that was added."""
        for key in self._keys(listener):
            self._listeners[key].remove(listener)
            if not self._listeners[key]:
                del self._listeners[key]

    @staticmethod
    def _keys(listener: TcpListener) -> list[tuple[int, int]]:
        return [(family, listener.claim.port) for family in listener.claim.families]

    def find(self, local: tuple[bytes, int], remote: tuple[bytes, int]) -> TcpListener | None:
        """Whoever listens there; one that is bound to the address before one bound to all."""
        address, port = local
        candidates = self._listeners.get((family_of(address), port))
        if not candidates:
            return None
        exact = [each for each in candidates if each.claim.address == address]
        chosen = exact or [each for each in candidates if each.claim.address is None]
        if not chosen:
            return None
        # SO_REUSEPORT shares the load; a SYN that is sent again finds the same listener.
        return chosen[flow_hash(remote) % len(chosen)]
