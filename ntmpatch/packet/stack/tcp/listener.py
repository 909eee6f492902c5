"""A listening port: connections that are being made, at most as many as the backlog."""

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
        self._service = service

    @property
    def is_full(self) -> bool:
        """Whether no further connection can begin."""
        return len(self.half_open) > max(1, min(self.backlog, MAX_BACKLOG))

    def close(self) -> None:
        """Listen no more; connections that are being made are reset."""
        self._service.remove_listener(self)
