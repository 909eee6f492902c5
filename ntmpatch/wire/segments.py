"""The stack's unit of output: a super-segment, up to 64 KB of one flow under one header.

Python's cost is per call, not per byte. The stack therefore emits a template header and a view of
payload, and whoever carries it cuts it into packets of ``segment_size`` (as a network card does
with TCP segmentation offload).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ntmpatch.wire.checksum import finish, ones_sum
from ntmpatch.wire.ip import TCP, UDP

if TYPE_CHECKING:
    from collections.abc import Callable

_WORD = struct.Struct("!H")
_SEQ = struct.Struct("!I")

# total length and identification of IPv4
_LENGTH_AND_ID = struct.Struct("!HH")

_TCP_CHECKSUM_OFFSET = 16
_UDP_CHECKSUM_OFFSET = 6

_TCP_LAST_ONLY = 0x08 | 0x01
"""PSH and FIN."""
_TCP_FIRST_ONLY = 0x80
"""CWR."""


@dataclass(slots=True)
class SuperSegment:
    """One or more IP packets of one flow, not yet cut.

    ``header`` is the IP and transport header of the first packet, transport checksum zero and IP
    length fields those of the first packet. Packet *i* carries
    ``payload[i * segment_size : (i + 1) * segment_size]``. When there is more than one packet the
    flow is TCP: *i* packets on, the sequence number grows by ``i * segment_size``, PSH and FIN are
    set on the last packet only, CWR on the first only, and an IPv4 identification grows by *i*.

    ``payload`` stays unchanged until the next call into the stack that made it; whoever keeps a
    super-segment longer copies it.
    """

    destination: bytes
    """The virtual destination address, packed: 4 or 16 bytes."""
    header: bytes | bytearray
    payload: memoryview
    segment_size: int
    """Payload bytes per packet; at least 1 even if ``payload`` is empty."""
    transport_offset: int
    """Where the transport header begins in ``header``: 20 for IPv4, 40 for IPv6."""

    @property
    def packet_count(self) -> int:
        """How many packets this is cut into: at least one."""
        return max(1, -(-len(self.payload) // self.segment_size))


def cut(segment: SuperSegment, out: memoryview, *, checksums: bool) -> list[memoryview]:
    """The packets of ``segment``, built one after the other in ``out``; they are views of it.

    The IPv4 header checksum is always right; the transport's is filled only with ``checksums``,
    else zero. ValueError if ``out`` is too small.
    """
    payload = segment.payload
    if len(payload) <= segment.segment_size:
        return [_whole(segment, out, checksums=checksums)]
    header = bytearray(segment.header)
    header_size = len(header)
    transport = segment.transport_offset
    is_ipv4 = transport == 20
    fill = _checksum_filler(header, transport) if checksums else None
    size = segment.segment_size
    (seq,) = _SEQ.unpack_from(header, transport + 4)
    flags = header[transport + 13]
    header[transport + 13] = flags & ~_TCP_LAST_ONLY
    ip_overhead = header_size if is_ipv4 else header_size - 40
    identification = ip_sum = 0
    if is_ipv4:
        _, identification = _LENGTH_AND_ID.unpack_from(header, 2)
        _LENGTH_AND_ID.pack_into(header, 2, ip_overhead + size, 0)
        header[10:12] = b"\0\0"
        ip_sum = ones_sum(header[:20])
    else:
        _WORD.pack_into(header, 4, ip_overhead + size)

    packets: list[memoryview] = []
    append = packets.append
    total = len(payload)
    start = position = 0
    while start < total:
        end = start + size
        if end >= total:
            end = total
            header[transport + 13] = flags & ~_TCP_FIRST_ONLY
            if is_ipv4:
                _WORD.pack_into(header, 2, ip_overhead + end - start)
                ip_sum += end - start - size
            else:
                _WORD.pack_into(header, 4, ip_overhead + end - start)
        if is_ipv4:
            _WORD.pack_into(header, 4, identification)
            _WORD.pack_into(header, 10, finish(ip_sum + identification))
            identification = (identification + 1) & 0xFFFF
        _SEQ.pack_into(header, transport + 4, seq)
        body = position + header_size
        stop = body + end - start
        out[position:body] = header
        out[body:stop] = payload[start:end]
        packet = out[position:stop]
        if fill is not None:
            fill(packet)
        append(packet)
        if not start:
            header[transport + 13] &= ~_TCP_FIRST_ONLY
        seq = (seq + size) & 0xFFFFFFFF
        start = end
        position = stop
    return packets


def _whole(segment: SuperSegment, out: memoryview, *, checksums: bool) -> memoryview:
    """The only packet of ``segment``: its header is right as it is."""
    header_size = len(segment.header)
    end = header_size + len(segment.payload)
    out[:header_size] = segment.header
    out[header_size:end] = segment.payload
    packet = out[:end]
    if checksums:
        fill = _checksum_filler(segment.header, segment.transport_offset)
        if fill is not None:
            fill(packet)
    return packet


def _checksum_filler(
    header: bytes | bytearray, transport: int
) -> Callable[[memoryview], None] | None:
    """Fills the transport checksum of packets with this header; None if they are not ours to fill.

    A fragment's and an ICMP message's were filled when they were made.
    """
    if transport == 20:
        protocol, addresses = header[9], header[12:20]
        if int.from_bytes(header[6:8], "big") & 0x3FFF:
            return None
    else:
        protocol, addresses = header[6], header[8:40]
    if protocol == TCP:
        checksum_at = transport + _TCP_CHECKSUM_OFFSET
    elif protocol == UDP:
        checksum_at = transport + _UDP_CHECKSUM_OFFSET
    else:
        return None
    pseudo = ones_sum(addresses, protocol)

    def fill(packet: memoryview) -> None:
        body = packet[transport:]
        checksum = finish(ones_sum(body, pseudo + len(body)))
        # Of UDP, zero means that there is no checksum (RFC 768).
        _WORD.pack_into(packet, checksum_at, checksum or (0xFFFF if protocol == UDP else 0))

    return fill
