"""Encapsulation, Fig. 4 (2): super-segments in, batches of sealed datagrams out.

This is where Python's cost per packet is paid, so it is one loop over preallocated buffers: cut,
seal, and hand 64 KB at a time to whoever makes the system call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntmpatch.wire.relay import RELAY_HEADER_SIZE
from ntmpatch.wire.segments import cut
from ntmpatch.wire.wireguard import MIN_DATA_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ntmpatch.packet.tunnel.session import Session
    from ntmpatch.wire.segments import SuperSegment

MAX_BATCH_DATAGRAMS = 64
"""UDP_MAX_SEGMENTS of Linux: datagrams in one system call."""

MAX_BATCH_SIZE = 65507
"""The largest UDP payload over IPv4, and so the largest batch in one system call."""

MAX_PACKET_SIZE = (MAX_BATCH_SIZE - MIN_DATA_SIZE - RELAY_HEADER_SIZE) & -16
"""The largest inner packet that one datagram carries, padded, sealed, and through a relay."""

_SCRATCH_SIZE = 1 << 18
"""Room for a super-segment of 64 KB at the smallest segment size that is still worth its header."""


class Capsulator:
    """Cuts and seals super-segments; its buffers are reused, a batch is valid until the next."""

    def __init__(self) -> None:
        self._plain = memoryview(bytearray(_SCRATCH_SIZE))
        self._batch = memoryview(bytearray(MAX_BATCH_SIZE + 2048))

    def cut(self, segment: SuperSegment, *, checksums: bool) -> list[memoryview]:
        """The packets of ``segment``, in the clear: for a peer that has no session yet."""
        return cut(segment, self._plain, checksums=checksums)

    def encapsulate(
        self, segment: SuperSegment, session: Session, *, checksums: bool, prefix: bytes = b""
    ) -> Iterator[tuple[memoryview, int]]:
        """Yield ``(batch, datagram_size)``: datagrams of that size, the last perhaps shorter.

        ``checksums`` fills the inner transport checksums, for peers with a kernel stack.
        ``prefix`` goes before each datagram (the relay's frame header).
        """
        batch = self._batch
        prefix_size = len(prefix)
        datagram_size = end = count = 0
        for packet in cut(segment, self._plain, checksums=checksums):
            start = end
            if prefix_size:
                batch[start : start + prefix_size] = prefix
            size = prefix_size + session.seal(packet, batch[start + prefix_size :])
            end = start + size
            count += 1
            if count == 1:
                datagram_size = size
            if (
                size < datagram_size
                or count == MAX_BATCH_DATAGRAMS
                or end + datagram_size > MAX_BATCH_SIZE
            ):
                yield batch[:end], datagram_size
                end = count = 0
        if count:
            yield batch[:end], datagram_size
