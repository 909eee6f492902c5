"""ICMP and ICMPv6 of one stack: echo and errors, at a bounded rate (RFC 1812 4.3.2.8)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.packet.stack.fragments import packets
from ntmpatch.wire import icmp

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from ntmpatch.base.drops import DropCounter
    from ntmpatch.wire import ip
    from ntmpatch.wire.segments import SuperSegment

RATE = 1000.0
BURST = 50.0

UNREACHABLE_V4 = {
    0: (errno.ENETUNREACH, False),
    1: (errno.EHOSTUNREACH, False),
    2: (errno.ENOPROTOOPT, True),
    3: (errno.ECONNREFUSED, True),
    4: (errno.EMSGSIZE, True),
    5: (errno.EOPNOTSUPP, False),
    6: (errno.ENETUNREACH, True),
    7: (errno.EHOSTDOWN, True),
    8: (errno.ENONET, True),
    9: (errno.ENETUNREACH, True),
    10: (errno.EHOSTUNREACH, True),
    11: (errno.ENETUNREACH, False),
    12: (errno.EHOSTUNREACH, False),
    13: (errno.EHOSTUNREACH, True),
    14: (errno.EHOSTUNREACH, True),
    15: (errno.EHOSTUNREACH, True),
}
"""By code: the errno, and whether it is hard; as Linux's icmp_err_convert."""

UNREACHABLE_V6 = {
    0: (errno.ENETUNREACH, False),
    1: (errno.EACCES, True),
    2: (errno.EHOSTUNREACH, False),
    3: (errno.EHOSTUNREACH, False),
    4: (errno.ECONNREFUSED, True),
    5: (errno.EACCES, True),
    6: (errno.EACCES, True),
}
"""The same of ICMPv6: icmpv6_err_convert."""


def errno_of(message: icmp.Message, *, is_ipv4: bool) -> tuple[int, bool] | None:
    """The errno that Linux makes of an error, and whether it is hard; None: it is ignored."""
    match message.kind:
        case icmp.Kind.PORT_UNREACHABLE | icmp.Kind.UNREACHABLE:
            return (UNREACHABLE_V4 if is_ipv4 else UNREACHABLE_V6).get(message.code)
        case icmp.Kind.PACKET_TOO_BIG:
            return errno.EMSGSIZE, True
        case icmp.Kind.TIME_EXCEEDED:
            return errno.EHOSTUNREACH, False
        case icmp.Kind.PARAMETER_PROBLEM:
            return errno.EPROTO, True
        case _:
            return None


class IcmpUser(Protocol):
    """Who acts on what ICMP tells."""

    def icmp_error(self, quote: icmp.Quote, error: int, *, hard: bool) -> None:
        """Our packet did not arrive: ``error`` is the errno for it."""

    def packet_too_big(self, quote: icmp.Quote, mtu: int, now: float) -> None:
        """Our packet was too large for a router that carries ``mtu`` bytes at most."""

    def echo_reply(self, source: bytes, rest: int, body: memoryview, now: float) -> None:
        """Somebody answered; perhaps a probe of ours."""


class IcmpService:
    """Answers echo requests, and tells its ``user`` of errors and answers."""

    def __init__(
        self,
        *,
        now: float,
        drops: DropCounter,
        emit: Callable[[SuperSegment], None],
        path_mtu: Callable[[bytes], int],
        identify: Callable[[], int],
        user: IcmpUser,
    ) -> None:
        self._drops = drops
        self._emit = emit
        self._path_mtu = path_mtu
        self._identify = identify
        self._user = user
        self._tokens = BURST
        self._at = now

    def arrive(
        self, packet: ip.Packet, allowed: Container[bytes], now: float, *, verify: bool
    ) -> None:
        """Take one message of the peer that may use the addresses ``allowed``."""
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
        elif message.kind is icmp.Kind.ECHO_REPLY:
            self._user.echo_reply(packet.source, message.rest, message.body, now)
        elif message.quote is not None:
            self._error(message, message.quote, packet, allowed, now)

    def _error(
        self,
        message: icmp.Message,
        quote: icmp.Quote,
        packet: ip.Packet,
        allowed: Container[bytes],
        now: float,
    ) -> None:
        # Only the peer that a packet went to can know what became of it: another one must not
        # end or slow down its flows, however well it guesses their ports.
        if quote.source != packet.destination or quote.destination not in allowed:
            self._drops.drop(Drop.ICMP_FOREIGN_QUOTE)
            return
        if message.kind is icmp.Kind.PACKET_TOO_BIG:
            self._user.packet_too_big(quote, message.rest, now)
        outcome = errno_of(message, is_ipv4=len(packet.source) == 4)
        if outcome is None:
            self._drops.drop(Drop.ICMP_UNKNOWN_TYPE)
        else:
            self._user.icmp_error(quote, outcome[0], hard=outcome[1])

    def port_unreachable(self, packet: ip.Packet, whole: memoryview, now: float) -> None:
        """Answer a datagram that nobody is bound for; ``whole`` is it from its IP header on."""
        if self._may_answer(now):
            message = icmp.build_port_unreachable(packet.destination, packet.source, whole)
            self._send(packet.destination, packet.source, message)

    def reassembly_timeout(self, packet: ip.Packet, quote: memoryview, now: float) -> None:
        """Tell who sent a packet that never became whole (RFC 1122 section 3.3.2, RFC 8200 4.5)."""
        if self._may_answer(now):
            ends = packet.destination, packet.source
            self._send(*ends, icmp.build_reassembly_timeout(*ends, quote))

    def _may_answer(self, now: float) -> bool:
        self._tokens = min(BURST, self._tokens + (now - self._at) * RATE)
        self._at = now
        if self._tokens < 1.0:
            self._drops.drop(Drop.ICMP_RATE_LIMIT)
            return False
        self._tokens -= 1.0
        return True

    def _send(self, source: bytes, destination: bytes, message: bytes) -> None:
        # An echo of a probe may be larger than what the way back is known to carry.
        for each in packets(
            source,
            destination,
            icmp.protocol_of(source),
            memoryview(message),
            mtu=self._path_mtu(destination),
            identify=self._identify,
        ):
            self._emit(each)
