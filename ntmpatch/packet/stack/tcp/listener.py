"""A listening port: connections that are being made, and how many may wait to be accepted.

As in Linux the backlog bounds two things by themselves: half-open connections, beyond which SYNs
are answered with cookies, and established ones that the program has not accepted, beyond which
SYNs and the handshakes' last ACKs are dropped until it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
        self.count_unaccepted: Callable[[], int] | None = None
        """Tells how many connections the program has not accepted; None: it accepts at once."""
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
        self._service.remove_listener(self)
