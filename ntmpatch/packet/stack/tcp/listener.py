"""A listening port: connections that are being made, and how many may wait to be accepted.

As in Linux the backlog bounds two things by themselves: half-open connections, beyond which SYNs
are answered with cookies, and established ones that the program has not accepted, beyond which
SYNs and the handshakes' last ACKs are dropped until it has.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ntmpatch.packet.stack.ports import addresses_overlap, choose_ephemeral, flow_hash, os_error

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from ntmpatch.packet.stack.handlers import TcpHandler
    from ntmpatch.packet.stack.tcp.connection import TcpConnection
    from ntmpatch.packet.stack.tcp.service import TcpService

MAX_BACKLOG = 4096
"""Linux's somaxconn."""


class TcpListener:
    """Accepts connections to ``local``; its address is None for all of the family."""

    def __init__(
        self,
        service: TcpService,
        local: tuple[bytes | None, int],
        *,
        family: int,
        backlog: int,
        accept: Callable[[TcpConnection], TcpHandler],
        reuse_address: bool,
        reuse_port: bool,
    ) -> None:
        self.local = local
        self.family = family
        self.accept = accept
        self.reuse_address = reuse_address
        self.reuse_port = reuse_port
        self.half_open: set[TcpConnection] = set()
        self.backlog = backlog
        self.is_closed = False
        self.count_unaccepted: Callable[[], int] | None = None
        """Tells how many connections the program has not accepted; None: it accepts at once.

        Asked before a connection is let in; it may close the listener.
        """
        self._service = service

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

    def close(self) -> None:
        """Listen no more; connections that are being made are reset."""
        self.is_closed = True
        self._service.remove_listener(self)


class ListenerTable:
    """Who listens where."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._listeners: dict[tuple[int, int], list[TcpListener]] = {}

    def choose_port(self, family: int) -> int:
        """A port at which nobody of ``family`` listens."""
        return choose_ephemeral(self._rng, lambda each: (family, each) not in self._listeners)

    def has(self, family: int, port: int) -> bool:
        """Whether anybody of ``family`` listens there."""
        return (family, port) in self._listeners

    def add(self, listener: TcpListener) -> None:
        """OSError EADDRINUSE if somebody else listens there and both do not share."""
        address, port = listener.local
        others = self._listeners.get((listener.family, port), [])
        for other in others:
            shared = other.reuse_port and listener.reuse_port
            if addresses_overlap(other.local[0], address) and not shared:
                raise os_error(errno.EADDRINUSE)
        self._listeners[listener.family, port] = [*others, listener]

    def remove(self, listener: TcpListener) -> None:
        """Harmless if it is not there."""
        key = (listener.family, listener.local[1])
        left = [each for each in self._listeners.get(key, ()) if each is not listener]
        if left:
            self._listeners[key] = left
        else:
            self._listeners.pop(key, None)

    def find(self, local: tuple[bytes, int], remote: tuple[bytes, int]) -> TcpListener | None:
        """Whoever listens there; one that is bound to the address before one bound to all."""
        address, port = local
        candidates = self._listeners.get((4 if len(address) == 4 else 6, port))
        if not candidates:
            return None
        exact = [each for each in candidates if each.local[0] == address]
        chosen = exact or [each for each in candidates if each.local[0] is None]
        if not chosen:
            return None
        # SO_REUSEPORT shares the load; a SYN that is sent again finds the same listener.
        return chosen[flow_hash(remote) % len(chosen)]
