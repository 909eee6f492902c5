"""ICMP and ICMPv6 of one stack: echo and errors, at a bounded rate (RFC 1812 4.3.2.8)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire import icmp, ip
from ntmpatch.wire.segments import SuperSegment

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.base.drops import DropCounter

RATE = 1000.0
BURST = 50.0

ERRORS = {
    icmp.Kind.PORT_UNREACHABLE: errno.ECONNREFUSED,
    icmp.Kind.HOST_UNREACHABLE: errno.EHOSTUNREACH,
    icmp.Kind.PROHIBITED: errno.EACCES,
    icmp.Kind.TIME_EXCEEDED: errno.EHOSTUNREACH,
}


class IcmpService:
    """Answers echo requests, and turns errors into errnos for ``on_error(quote, errno)``."""

    def __init__(
        self,
        *,
        now: float,
        drops: DropCounter,
        emit: Callable[[SuperSegment], None],
        on_error: Callable[[icmp.Quote, int], None],
    ) -> None:
        self._drops = drops
        self._emit = emit
        self._on_error = on_error
        self._tokens = BURST
        self._at = now

    def arrive(self, packet: ip.Packet, now: float, *, verify: bool) -> None:
        """Take one message."""
        try:
            message = icmp.parse_untrusted(
                packet.payload, packet.source, packet.destination, verify=verify
            )
        except UntrustedError as error:
            self._drops.drop(error.drop)
            return
        if message.kind is icmp.Kind.ECHO_REQUEST:
            if self._may_answer(now):
                reply = icmp.build_echo_reply(
                    packet.destination, packet.source, message.rest, message.body
                )
                self._send(packet.destination, packet.source, reply)
        elif message.quote is not None and message.kind in ERRORS:
            self._on_error(message.quote, ERRORS[message.kind])
        else:
            self._drops.drop(Drop.ICMP_UNKNOWN_TYPE)

    def port_unreachable(self, packet: ip.Packet, whole: memoryview, now: float) -> None:
        """Answer a datagram that nobody is bound for; ``whole`` is it from its IP header on."""
        if self._may_answer(now):
            message = icmp.build_port_unreachable(packet.destination, packet.source, whole)
            self._send(packet.destination, packet.source, message)

    def _may_answer(self, now: float) -> bool:
        self._tokens = min(BURST, self._tokens + (now - self._at) * RATE)
        self._at = now
        if self._tokens < 1.0:
            self._drops.drop(Drop.ICMP_RATE_LIMIT)
            return False
        self._tokens -= 1.0
        return True

    def _send(self, source: bytes, destination: bytes, message: bytes) -> None:
        protocol = ip.ICMP if len(source) == 4 else ip.ICMPV6
        head = ip.build(source, destination, protocol, len(message))
        body = memoryview(message)
        self._emit(SuperSegment(destination, head, body, max(1, len(body)), ip.header_size(source)))
