"""ICMP (RFC 792, RFC 1191) and ICMPv6 (RFC 4443): echo and errors."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire import ip
from ntmpatch.wire.checksum import finish, is_valid, ones_sum, transport_checksum

if TYPE_CHECKING:
    from ntmpatch.wire.checksum import Buffer

HEADER_SIZE = 8

# type, code, checksum, rest of header (unused, MTU, or identifier and sequence number)
_HEADER = struct.Struct("!BBHI")

_V4_ECHO_REPLY = 0
_V4_UNREACHABLE = 3
_V4_ECHO_REQUEST = 8
_V4_TIME_EXCEEDED = 11
_V4_PORT_UNREACHABLE = 3
_V4_FRAGMENTATION_NEEDED = 4

_V4_PARAMETER_PROBLEM = 12

_V6_UNREACHABLE = 1
_V6_TOO_BIG = 2
_V6_TIME_EXCEEDED = 3
_V6_PARAMETER_PROBLEM = 4
_V6_ECHO_REQUEST = 128
_V6_ECHO_REPLY = 129
_V6_PORT_UNREACHABLE = 4

_REASSEMBLY = 1
"""The code of TIME_EXCEEDED in both families (RFC 792, RFC 4443 section 3.3)."""

MAX_QUOTE_SIZE = 548
"""Of an offending packet: keeps an error within 576 bytes for IPv4 (RFC 1812 section 4.3.2.3)."""

# Of the quoted packet's transport header: source port, destination port, and what follows them
_PORTS_AND_SEQ = struct.Struct("!HHI")


class Kind(Enum):
    """What a message is about, whatever the family."""

    ECHO_REQUEST = auto()
    ECHO_REPLY = auto()
    PORT_UNREACHABLE = auto()
    UNREACHABLE = auto()
    """For another reason than the port: the code tells."""
    PACKET_TOO_BIG = auto()
    TIME_EXCEEDED = auto()
    PARAMETER_PROBLEM = auto()


@dataclass(slots=True)
class Quote:
    """Of the packet that an error is about: the flow, as its sender sees it."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    destination_port: int
    seq: int
    """If it is TCP; of an echo request, identifier and sequence number."""


@dataclass(slots=True)
class Message:
    """One message."""

    kind: Kind
    code: int
    rest: int
    """The rest of the header: the MTU of PACKET_TOO_BIG; identifier and sequence number of echo."""
    body: memoryview
    quote: Quote | None = None
    """In errors."""


def parse_untrusted(
    message: memoryview, source: bytes, destination: bytes, *, verify: bool
) -> Message:
    """Read an ICMP message of the family of its addresses."""
    if len(message) < HEADER_SIZE:
        raise UntrustedError(Drop.ICMP_MALFORMED)
    type_, code, _, rest = _HEADER.unpack_from(message)
    body = message[HEADER_SIZE:]
    if verify:
        if len(source) == 4:
            right = ones_sum(message) == 0
        else:
            right = is_valid(source + destination, ip.ICMPV6, message)
        if not right:
            raise UntrustedError(Drop.TRANSPORT_BAD_CHECKSUM)
    kind = _kind_v4(type_, code) if len(source) == 4 else _kind_v6(type_, code)
    if kind is None:
        raise UntrustedError(Drop.ICMP_UNKNOWN_TYPE)
    if kind in (Kind.ECHO_REQUEST, Kind.ECHO_REPLY):
        return Message(kind, code, rest, body)
    if len(source) == 4 and kind is Kind.PACKET_TOO_BIG:
        rest &= 0xFFFF  # RFC 1191 section 4
    return Message(kind, code, rest, body, _quote_untrusted(body, len(source)))


def _kind_v4(type_: int, code: int) -> Kind | None:
    if type_ == _V4_UNREACHABLE:
        return {
            _V4_PORT_UNREACHABLE: Kind.PORT_UNREACHABLE,
            _V4_FRAGMENTATION_NEEDED: Kind.PACKET_TOO_BIG,
        }.get(code, Kind.UNREACHABLE)
    return {
        _V4_ECHO_REQUEST: Kind.ECHO_REQUEST,
        _V4_ECHO_REPLY: Kind.ECHO_REPLY,
        _V4_TIME_EXCEEDED: Kind.TIME_EXCEEDED,
        _V4_PARAMETER_PROBLEM: Kind.PARAMETER_PROBLEM,
    }.get(type_)


def _kind_v6(type_: int, code: int) -> Kind | None:
    if type_ == _V6_UNREACHABLE:
        return Kind.PORT_UNREACHABLE if code == _V6_PORT_UNREACHABLE else Kind.UNREACHABLE
    return {
        _V6_ECHO_REQUEST: Kind.ECHO_REQUEST,
        _V6_ECHO_REPLY: Kind.ECHO_REPLY,
        _V6_TOO_BIG: Kind.PACKET_TOO_BIG,
        _V6_TIME_EXCEEDED: Kind.TIME_EXCEEDED,
        _V6_PARAMETER_PROBLEM: Kind.PARAMETER_PROBLEM,
    }.get(type_)


def _quote_untrusted(packet: memoryview, address_size: int) -> Quote:
    """The head of a quoted packet: at least 8 bytes behind its IP header (RFC 792).

    Of fragments only the first has a transport header, and so tells of a flow.
    """
    offset = 0
    if address_size == 4:
        if len(packet) < ip.IPV4_HEADER_SIZE or packet[0] >> 4 != 4:
            raise UntrustedError(Drop.ICMP_MALFORMED)
        protocol, source, destination = packet[9], packet[12:16], packet[16:20]
        start = (packet[0] & 0x0F) * 4
        offset = int.from_bytes(packet[6:8], "big") & 0x1FFF
    else:
        if len(packet) < ip.IPV6_HEADER_SIZE or packet[0] >> 4 != 6:
            raise UntrustedError(Drop.ICMP_MALFORMED)
        protocol, source, destination = packet[6], packet[8:24], packet[24:40]
        start = ip.IPV6_HEADER_SIZE
        if protocol == ip.FRAGMENT and len(packet) >= start + ip.FRAGMENT_HEADER_SIZE:
            protocol = packet[start]
            offset = int.from_bytes(packet[start + 2 : start + 4], "big") & 0xFFF8
            start += ip.FRAGMENT_HEADER_SIZE
    if offset or start < ip.IPV4_HEADER_SIZE or len(packet) < start + _PORTS_AND_SEQ.size:
        raise UntrustedError(Drop.ICMP_MALFORMED)
    ports = _PORTS_AND_SEQ.unpack_from(packet, start)
    return Quote(bytes(source), bytes(destination), protocol, *ports)


def protocol_of(address: Buffer) -> int:
    """ICMP's protocol number in packets of the family of ``address``."""
    return ip.ICMP if len(address) == 4 else ip.ICMPV6


def build_echo_request(source: bytes, destination: bytes, rest: int, body: Buffer) -> bytes:
    """A request; ``rest`` is its identifier and sequence number."""
    type_ = _V4_ECHO_REQUEST if len(source) == 4 else _V6_ECHO_REQUEST
    return _build(source, destination, (type_, 0), rest, body)


def build_echo_reply(source: bytes, destination: bytes, rest: int, body: Buffer) -> bytes:
    """The answer to an echo request."""
    type_ = _V4_ECHO_REPLY if len(source) == 4 else _V6_ECHO_REPLY
    return _build(source, destination, (type_, 0), rest, body)


def build_port_unreachable(source: bytes, destination: bytes, packet: Buffer) -> bytes:
    """The answer to a datagram that nobody is bound for; ``packet`` is all of it."""
    type_and_code = (
        (_V4_UNREACHABLE, _V4_PORT_UNREACHABLE)
        if len(source) == 4
        else (_V6_UNREACHABLE, _V6_PORT_UNREACHABLE)
    )
    return _build(source, destination, type_and_code, 0, packet[:MAX_QUOTE_SIZE])


def build_reassembly_timeout(source: bytes, destination: bytes, packet: Buffer) -> bytes:
    """What is told whose ``packet``, here its first fragment, did not become whole in time."""
    type_ = _V4_TIME_EXCEEDED if len(source) == 4 else _V6_TIME_EXCEEDED
    return _build(source, destination, (type_, _REASSEMBLY), 0, packet[:MAX_QUOTE_SIZE])


def build_packet_too_big(source: bytes, destination: bytes, packet: Buffer, mtu: int) -> bytes:
    """What a router answers that carries ``mtu`` bytes at most."""
    type_and_code = (
        (_V4_UNREACHABLE, _V4_FRAGMENTATION_NEEDED) if len(source) == 4 else (_V6_TOO_BIG, 0)
    )
    return _build(source, destination, type_and_code, mtu, packet[:MAX_QUOTE_SIZE])


def _build(
    source: bytes, destination: bytes, type_and_code: tuple[int, int], rest: int, body: Buffer
) -> bytes:
    message = bytearray(_HEADER.pack(*type_and_code, 0, rest))
    message += body
    if len(source) == 4:
        checksum = finish(ones_sum(message))
    else:
        checksum = transport_checksum(source + destination, ip.ICMPV6, message)
    message[2:4] = checksum.to_bytes(2, "big")
    return bytes(message)
