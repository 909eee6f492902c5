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

_SKIPPED_EXTENSIONS = frozenset({0, 60})
"""Hop-by-hop and destination options: skipped when they ask for nothing that must be understood."""

_MAX_EXTENSIONS = 4


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
    first, _, total_size, identification, fragment, _, protocol, _, source, destination = (
        _IPV4.unpack_from(packet)
    )
    header_size = (first & 0x0F) * 4
    if header_size < IPV4_HEADER_SIZE or not header_size <= total_size <= len(packet):
        raise UntrustedError(Drop.PACKET_LENGTH)
    if ones_sum(packet[:header_size]) != 0:
        raise UntrustedError(Drop.PACKET_BAD_CHECKSUM)
    return Packet(
        source,
        destination,
        protocol,
        packet[header_size:total_size],
        identification,
        (fragment & _OFFSET_MASK) * 8,
        bool(fragment & _MORE_FRAGMENTS),
    )


def _parse_ipv6_untrusted(packet: memoryview) -> Packet:
    if len(packet) < IPV6_HEADER_SIZE:
        raise UntrustedError(Drop.PACKET_RUNT)
    _, payload_size, protocol, _, source, destination = _IPV6.unpack_from(packet)
    end = IPV6_HEADER_SIZE + payload_size
    if end > len(packet):
        raise UntrustedError(Drop.PACKET_LENGTH)
    parsed = Packet(source, destination, protocol, packet[IPV6_HEADER_SIZE:end])
    for _ in range(_MAX_EXTENSIONS):
        if parsed.protocol == FRAGMENT:
            if len(parsed.payload) < FRAGMENT_HEADER_SIZE:
                raise UntrustedError(Drop.PACKET_LENGTH)
            parsed.protocol, _, fragment, parsed.identification = _FRAGMENT.unpack_from(
                parsed.payload
            )
            parsed.payload = parsed.payload[FRAGMENT_HEADER_SIZE:]
            parsed.fragment_offset = fragment & 0xFFF8
            parsed.more_fragments = bool(fragment & 1)
            # What is behind an atomic fragment (RFC 6946) may be read on.
            if parsed.is_fragment:
                return parsed
        elif parsed.protocol in _SKIPPED_EXTENSIONS:
            _skip_options_untrusted(parsed)
        else:
            return parsed
    raise UntrustedError(Drop.PACKET_BAD_EXTENSION)


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
            0,
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


def build_ipv6(source: bytes, destination: bytes, protocol: int, payload_size: int) -> bytearray:
    """A header of 40 bytes for ``payload_size`` bytes behind it."""
    return bytearray(_IPV6.pack(0x60000000, payload_size, protocol, HOP_LIMIT, source, destination))


def build(source: bytes, destination: bytes, protocol: int, payload_size: int) -> bytearray:
    """A header of the addresses' family; for IPv4 one that may not be fragmented (RFC 6864)."""
    if len(source) == 4:
        return build_ipv4(source, destination, protocol, payload_size, dont_fragment=True)
    return build_ipv6(source, destination, protocol, payload_size)


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


def header_size(address: Buffer) -> int:
    """Of an IP header of the family of ``address``."""
    return IPV4_HEADER_SIZE if len(address) == 4 else IPV6_HEADER_SIZE
