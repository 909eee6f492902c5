"""Who is called back by the stack: the owner of a connection or a UDP socket.

Callbacks run inside ``receive``, ``handle_timeout``, ``poll_transmit``, ``host_unreachable`` and
the calls that end a connection, and may call back into the stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class TcpHandler(Protocol):
    """Of one connection."""

    def established(self) -> None:
        """The handshake is complete."""

    def deliver(self, views: Sequence[memoryview]) -> int:
        """Take in-order data, not empty; returns how many bytes were taken.

        The views are valid during the call. What is not taken stays in the receive buffer, and
        shrinks the window, until ``TcpConnection.resume``.
        """

    def end_of_stream(self) -> None:
        """FIN: after everything before it was taken."""

    def writable(self) -> None:
        """The send buffer has room again, after ``send_space`` was empty."""

    def closed(self, error: int) -> None:
        """Say that the connection has ended, once: 0, or the errno that Linux would give."""


class UdpHandler(Protocol):
    """Of one UDP socket."""

    def datagram(
        self, payload: memoryview, source: tuple[bytes, int], destination: tuple[bytes, int]
    ) -> None:
        """Take one datagram; ``payload`` is valid during the call."""

    def error(self, error: int, remote: tuple[bytes, int]) -> None:
        """Learn from an ICMP error that what was sent to ``remote`` did not arrive."""
