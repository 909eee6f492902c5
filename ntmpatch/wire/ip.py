"""IPv4 and IPv6 headers: strict parsing of what a tunnel delivered, and building."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire.checksum import finish, ones_sum

if TYPE_CHECKING:
    from ntmpatch.wire.checksum import Buffer

ICMP = 1
TCP = 6
UDP = 17
FRAGMENT = 44
ICMPV6 = 58

HOP_LIMIT = 64

IPV4_HEADER_SIZE = 20
IPV6_HEADER_SIZE = 40
FRAGMENT_HEADER_SIZE = 8

MAX_PACKET_SIZE = 65535

NOT_ECT, ECT_1, ECT_0, CE = range(4)
"""The ECN field of both versions: the low bits of the second octet, of the traffic class."""

# version and IHL, DSCP and ECN, total length, identification, flags and fragment offset, TTL,
# protocol, header checksum, source, destination (RFC 791 section 3.1)
_IPV4 = struct.Struct("!BBHHHBBH4s4s")

# version, traffic class and flow label, payload length, next header, hop limit, source,
# destination (RFC 8200 section 3)
_IPV6 = struct.Struct("!IHBB16s16s")

# next header, reserved, offset in units of 8 bytes and M flag, identification (section 4.5)
_FRAGMENT = struct.Struct("!BBHI")

_DONT_FRAGMENT = 0x4000
_MORE_FRAGMENTS = 0x2000
_OFFSET_MASK = 0x1FFF

_RESERVED_FLAG = 0x8000

_OPTION_END = 0
_OPTION_NOTHING = 1
_SOURCE_ROUTES = frozenset({131, 137})
"""Loose and strict (RFC 791 section 3.1); dropped, as RFC 7126 sections 4.3 and 4.4 advise."""

_HOP_BY_HOP = 0
_ROUTING = 43
_DESTINATION_OPTIONS = 60

_MAX_EXTENSIONS = 4

_LEAST_SIZES = {TCP: 20, UDP: 8, ICMPV6: 8}
"""Of transport headers: what a first fragment has to hold of them (RFC 7112)."""


@dataclass(slots=True)
class Packet:
    """An IP packet, or a fragment of one, as its header says."""

    source: bytes
    destination: bytes
    protocol: int
    """Of the transport header, behind extension headers."""
    payload: memoryview
    """From the transport header on, without link padding."""
    identification: int = 0
    fragment_offset: int = 0
    """Bytes."""
    more_fragments: bool = False
    ecn: int = NOT_ECT

    @property
    def is_fragment(self) -> bool:
        """Whether this is less than the whole packet."""
        return self.more_fragments or self.fragment_offset > 0


def parse_untrusted(packet: memoryview) -> Packet:
    """Read one IP packet; bytes behind its length (the tunnel pads) are ignored."""
    if not packet:
        raise UntrustedError(Drop.PACKET_RUNT)
    version = packet[0] >> 4
    if version == 4:
        return _parse_ipv4_untrusted(packet)
    if version == 6:
        return _parse_ipv6_untrusted(packet)
    raise UntrustedError(Drop.PACKET_VERSION)


def _parse_ipv4_untrusted(packet: memoryview) -> Packet:
    if len(packet) < IPV4_HEADER_SIZE:
        raise UntrustedError(Drop.PACKET_RUNT)
    first, service, total_size, identification, fragment, _, protocol, _, source, destination = (
        _IPV4.unpack_from(packet)
    )
    header_size = (first & 0x0F) * 4
    if header_size < IPV4_HEADER_SIZE or not header_size <= total_size <= len(packet):
        raise UntrustedError(Drop.PACKET_LENGTH)
    if ones_sum(packet[:header_size]) != 0:
        raise UntrustedError(Drop.PACKET_BAD_CHECKSUM)
    # The TTL is for routers: a host takes whatever arrives (RFC 1122 section 3.2.1.7). So is DF,
    # which fragments may carry when they are in turn not to be fragmented.
    if fragment & _RESERVED_FLAG:
        raise UntrustedError(Drop.PACKET_RESERVED_BIT)
    if header_size > IPV4_HEADER_SIZE:
        _check_options_untrusted(packet[IPV4_HEADER_SIZE:header_size])
    return Packet(
        source,
        destination,
        protocol,
        packet[header_size:total_size],
        identification,
        (fragment & _OFFSET_MASK) * 8,
        bool(fragment & _MORE_FRAGMENTS),
        service & CE,
    )


def _check_options_untrusted(options: memoryview) -> None:
    """Options are skipped (RFC 1122 section 3.2.1.8), but for those that route."""
    position = 0
    while position < len(options):
        kind = options[position]
        if kind == _OPTION_END:
            return
        if kind == _OPTION_NOTHING:
            position += 1
            continue
        if kind in _SOURCE_ROUTES:
            raise UntrustedError(Drop.PACKET_SOURCE_ROUTE)
        if position + 1 >= len(options) or options[position + 1] < 2:
            raise UntrustedError(Drop.PACKET_BAD_OPTION)
        position += options[position + 1]
    if position != len(options):
        raise UntrustedError(Drop.PACKET_BAD_OPTION)


def _parse_ipv6_untrusted(packet: memoryview) -> Packet:
    if len(packet) < IPV6_HEADER_SIZE:
        raise UntrustedError(Drop.PACKET_RUNT)
    first, payload_size, protocol, _, source, destination = _IPV6.unpack_from(packet)
    end = IPV6_HEADER_SIZE + payload_size
    if end > len(packet):
        raise UntrustedError(Drop.PACKET_LENGTH)
    parsed = Packet(source, destination, protocol, packet[IPV6_HEADER_SIZE:end])
    parsed.ecn = first >> 20 & CE
    if parsed.protocol == _HOP_BY_HOP:  # nowhere but here (RFC 8200 section 4.1)
        _skip_options_untrusted(parsed)
    skip_extensions_untrusted(parsed)
    return parsed


def skip_extensions_untrusted(parsed: Packet) -> None:
    """Take off the extension headers that the payload of an IPv6 packet begins with.

    It stops behind a fragment header, but for that of an atomic fragment, which is a whole packet
    (RFC 6946). The same has to be done with what was reassembled.
    """
    was_fragment = False
    for _ in range(_MAX_EXTENSIONS):
        if parsed.protocol == FRAGMENT:
            if was_fragment or len(parsed.payload) < FRAGMENT_HEADER_SIZE:
                raise UntrustedError(Drop.PACKET_BAD_EXTENSION)
            was_fragment = True
            # The reserved bits are ignored on reception (RFC 8200 section 4.5).
            parsed.protocol, _, fragment, parsed.identification = _FRAGMENT.unpack_from(
                parsed.payload
            )
            parsed.payload = parsed.payload[FRAGMENT_HEADER_SIZE:]
            parsed.fragment_offset = fragment & 0xFFF8
            parsed.more_fragments = bool(fragment & 1)
            if parsed.is_fragment:
                if not parsed.fragment_offset:
                    _check_header_chain_untrusted(parsed)
                return
        elif parsed.protocol == _DESTINATION_OPTIONS:
            _skip_options_untrusted(parsed)
        elif parsed.protocol == _ROUTING:
            _skip_routing_untrusted(parsed)
        elif parsed.protocol == _HOP_BY_HOP:
            break
        else:
            return
    raise UntrustedError(Drop.PACKET_BAD_EXTENSION)


def _check_header_chain_untrusted(first: Packet) -> None:
    """RFC 7112: the first fragment holds every header, so that who filters sees them."""
    chain = Packet(first.source, first.destination, first.protocol, first.payload)
    try:
        skip_extensions_untrusted(chain)
    except UntrustedError as error:
        if error.drop is Drop.PACKET_LENGTH:
            raise UntrustedError(Drop.FRAGMENT_TINY) from None
        raise
    if chain.protocol == FRAGMENT or chain.is_fragment:
        raise UntrustedError(Drop.PACKET_BAD_EXTENSION)
    if len(chain.payload) < _LEAST_SIZES.get(chain.protocol, 0):
        raise UntrustedError(Drop.FRAGMENT_TINY)


def _skip_routing_untrusted(parsed: Packet) -> None:
    """A routing header that has come to its end is skipped, whatever its type.

    Any other asks to be sent on, which no host does (RFC 8200 section 4.4, RFC 5095).
    """
    payload = parsed.payload
    if len(payload) < 8 or len(payload) < (size := (payload[1] + 1) * 8):
        raise UntrustedError(Drop.PACKET_LENGTH)
    if payload[3]:
        raise UntrustedError(Drop.PACKET_SOURCE_ROUTE)
    parsed.protocol = payload[0]
    parsed.payload = payload[size:]


def _skip_options_untrusted(parsed: Packet) -> None:
    """Drop one options header from the front of the payload (RFC 8200 section 4.2)."""
    payload = parsed.payload
    if len(payload) < 8 or len(payload) < (size := (payload[1] + 1) * 8):
        raise UntrustedError(Drop.PACKET_LENGTH)
    position = 2
    while position < size:
        kind = payload[position]
        if kind == 0:  # Pad1
            position += 1
            continue
        # The two highest bits say what to do with an unknown option: 00 is skip it.
        if kind & 0xC0 or position + 1 >= size:
            raise UntrustedError(Drop.PACKET_BAD_EXTENSION)
        position += 2 + payload[position + 1]
    if position != size:
        raise UntrustedError(Drop.PACKET_BAD_EXTENSION)
    parsed.protocol = payload[0]
    parsed.payload = payload[size:]


def build_ipv4(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload_size: int,
    *,
    identification: int = 0,
    fragment_offset: int = 0,
    more_fragments: bool = False,
    dont_fragment: bool = False,
    ecn: int = 0,
) -> bytearray:
    """A header of 20 bytes for ``payload_size`` bytes behind it, checksum filled."""
    fragment = fragment_offset >> 3
    if more_fragments:
        fragment |= _MORE_FRAGMENTS
    if dont_fragment:
        fragment |= _DONT_FRAGMENT
    header = bytearray(
        _IPV4.pack(
            0x45,
            ecn,
            IPV4_HEADER_SIZE + payload_size,
            identification,
            fragment,
            HOP_LIMIT,
            protocol,
            0,
            source,
            destination,
        )
    )
    header[10:12] = finish(ones_sum(header)).to_bytes(2, "big")
    return header


def build_ipv6(
    source: bytes, destination: bytes, protocol: int, payload_size: int, *, ecn: int = 0
) -> bytearray:
    """A header of 40 bytes for ``payload_size`` bytes behind it."""
    first = 0x60000000 | ecn << 20
    return bytearray(_IPV6.pack(first, payload_size, protocol, HOP_LIMIT, source, destination))


def build(
    source: bytes, destination: bytes, protocol: int, payload_size: int, *, ecn: int = 0
) -> bytearray:
    """A header of the addresses' family; for IPv4 one that may not be fragmented (RFC 6864)."""
    if len(source) == 4:
        return build_ipv4(source, destination, protocol, payload_size, dont_fragment=True, ecn=ecn)
    return build_ipv6(source, destination, protocol, payload_size, ecn=ecn)


def build_fragment(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload_size: int,
    *,
    identification: int,
    fragment_offset: int,
    more_fragments: bool,
) -> bytearray:
    """The header of one fragment that carries ``payload_size`` bytes: 20 bytes, or 48."""
    if len(source) == 4:
        return build_ipv4(
            source,
            destination,
            protocol,
            payload_size,
            identification=identification & 0xFFFF,
            fragment_offset=fragment_offset,
            more_fragments=more_fragments,
        )
    header = build_ipv6(source, destination, FRAGMENT, FRAGMENT_HEADER_SIZE + payload_size)
    header += _FRAGMENT.pack(
        protocol, 0, fragment_offset | more_fragments, identification & 0xFFFFFFFF
    )
    return header


def is_host_address(address: bytes) -> bool:
    """Whether a packet can have come from there: not from a group, loopback or nowhere."""
    if len(address) == 4:
        # RFC 1122 section 3.2.1.3: this network, loopback, groups, reserved and broadcast
        return address[0] not in (0, 127) and address[0] < 224
    return address[0] != 0xFF and address[:15] != bytes(15)


def is_group_address(address: bytes) -> bool:
    """Whether packets to it are for more than one host."""
    if len(address) == 4:
        return address[0] >> 4 == 14 or address == b"\xff\xff\xff\xff"
    return address[0] == 0xFF


def header_size(address: Buffer) -> int:
    """Of an IP header of the family of ``address``."""
    return IPV4_HEADER_SIZE if len(address) == 4 else IPV6_HEADER_SIZE
