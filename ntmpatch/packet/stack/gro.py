"""Runs: in-order TCP segments of one flow that are taken as one (what Linux calls GRO).

The cost of TCP in Python is per segment; a run of forty costs little more than one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ntmpatch.wire import ip, tcp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.wire.tcp import Segment

# IPv4: version, service 2 | total length 2 | id, fragment 4 | TTL 1 | protocol 1 | checksum 2 |
# addresses 8, then TCP: ports 4 | seq 4 | ack 4 | offset 1 | flags 1 | window 2
_IPV4_TCP = struct.Struct("!HHHHxB2x8sIIIBBH")
# IPv6: version, class, label 4 | length 2 | next header 1 | 1 | addresses 32, then TCP
_IPV6_TCP = struct.Struct("!HxxHBx32sIIIBBH")

_PLAIN = tcp.ACK | tcp.PSH


def extend_run(
    run: Segment, packets: Sequence[memoryview], index: int, flow: bytes, header: bytes
) -> int:
    """Append to ``run`` the packets from ``index`` on that continue it; where it ends.

    ``flow`` is the packed addresses and ``header`` the bytes of the run's first TCP header from
    the acknowledgment number on, which have to be the same but for PSH and the window; so have the
    first two of the IP header, which hold the ECN field.
    """
    count = len(packets)
    is_ipv4 = len(flow) == 8
    previous = packets[index - 1]
    begins = previous[0] << 8 | previous[1]
    if is_ipv4 and begins >> 8 != 0x45:
        return index  # options
    ports = run.source_port << 16 | run.destination_port
    following = (run.seq + run.size) & 0xFFFFFFFF
    transport = 20 if is_ipv4 else 40
    offset_byte = header[4]
    header_size = transport + (offset_byte >> 4) * 4
    options = header[12:]
    payload = run.payload
    size = run.size
    flags = run.flags
    while index < count and not flags & ~_PLAIN:
        packet = packets[index]
        if len(packet) <= header_size:
            break
        if is_ipv4:
            first, total, _, fragment, protocol, addresses, both, seq, ack, offset, flags_, win = (
                _IPV4_TCP.unpack_from(packet)
            )
            if fragment & 0x3FFF:
                break
        else:
            first, total, protocol, addresses, both, seq, ack, offset, flags_, win = (
                _IPV6_TCP.unpack_from(packet)
            )
            total += 40
        if (
            first != begins
            or seq != following
            or both != ports
            or protocol != ip.TCP
            or addresses != flow
            or ack != run.ack
            or offset != offset_byte
            or flags_ & ~(_PLAIN | tcp.FIN)
            or not flags_ & tcp.ACK
            or not header_size < total <= len(packet)
            or packet[transport + 20 : header_size] != options
        ):
            break
        payload.append(packet[header_size:total])
        size += total - header_size
        following = (following + total - header_size) & 0xFFFFFFFF
        flags |= flags_
        run.window = win
        index += 1
    run.size = size
    run.flags = flags
    return index
