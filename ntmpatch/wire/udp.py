"""UDP headers (RFC 768)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire import ip
from ntmpatch.wire.checksum import is_valid, transport_checksum

if TYPE_CHECKING:
    from ntmpatch.wire.checksum import Buffer

HEADER_SIZE = 8

MAX_PAYLOAD_SIZE = 65507
"""What IPv4 allows; this stack keeps to it for IPv6 as well."""

# source port, destination port, length of header and payload, checksum
_HEADER = struct.Struct("!HHHH")


def parse_untrusted(
    datagram: memoryview, source: bytes, destination: bytes, *, verify: bool
) -> tuple[int, int, memoryview]:
    """Source port, destination port and payload; ``verify`` checks the checksum.

    A checksum of zero means none for IPv4 and is forbidden by IPv6 (RFC 8200 section 8.1); between
    two stacks of this library nobody fills it in, since the tunnel has authenticated the bytes.
    """
    if len(datagram) < HEADER_SIZE:
        raise UntrustedError(Drop.UDP_MALFORMED)
    source_port, destination_port, size, checksum = _HEADER.unpack_from(datagram)
    if not HEADER_SIZE <= size <= len(datagram):
        raise UntrustedError(Drop.UDP_MALFORMED)
    if verify:
        if checksum:
            if not is_valid(source + destination, ip.UDP, datagram[:size]):
                raise UntrustedError(Drop.TRANSPORT_BAD_CHECKSUM)
        elif len(source) == 16:
            raise UntrustedError(Drop.TRANSPORT_BAD_CHECKSUM)
    return source_port, destination_port, datagram[HEADER_SIZE:size]


def build(source_port: int, destination_port: int, payload_size: int) -> bytes:
    """A header with its checksum zero."""
    return _HEADER.pack(source_port, destination_port, HEADER_SIZE + payload_size, 0)


def build_with_checksum(
    source: tuple[bytes, int], destination: tuple[bytes, int], payload: Buffer
) -> bytes:
    """A header with its checksum filled, for a datagram that will be fragmented."""
    header = build(source[1], destination[1], len(payload))
    checksum = transport_checksum(source[0] + destination[0], ip.UDP, header, payload)
    return header[:6] + (checksum or 0xFFFF).to_bytes(2, "big")
