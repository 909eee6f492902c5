"""The stack's unit of output: a super-segment, up to 64 KB of one flow under one header.

Python's cost is per call, not per byte. The stack therefore emits a template header and a view of
payload, and whoever carries it cuts it into packets of ``segment_size`` (as a network card does
with TCP segmentation offload).
"""

from __future__ import annotations

from dataclasses import dataclass


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
