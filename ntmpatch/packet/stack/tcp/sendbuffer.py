"""The send buffer: a ring that the program's bytes are read into and segments are views of."""

from __future__ import annotations


class SendBuffer:
    """Bytes from the first unacknowledged one on. Positions are offsets from that byte."""

    __slots__ = ("_head", "_view", "capacity", "size")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self._head = 0
        self._view = memoryview(b"")

    def space(self) -> memoryview:
        """A contiguous writable part of what is free; empty when the buffer is full."""
        if not self._view:
            # Allocated at the first use: a connection that only receives costs nothing here, and
            # the kernel provides pages only as they are written.
            self._view = memoryview(bytearray(self.capacity))
        start = (self._head + self.size) % self.capacity
        free = self.capacity - self.size
        return self._view[start : min(self.capacity, start + free)]

    def commit(self, size: int) -> None:
        """``size`` bytes of what ``space`` gave are filled."""
        self.size += size

    def peek(self, offset: int, size: int) -> memoryview:
        """At most ``size`` bytes from ``offset`` on; fewer where the ring wraps."""
        start = (self._head + offset) % self.capacity
        return self._view[start : min(self.capacity, start + min(size, self.size - offset))]

    def release(self, size: int) -> None:
        """The first ``size`` bytes were acknowledged."""
        self.size -= size
        # An empty ring begins at its start again, so that runs are as long as they can be.
        self._head = (self._head + size) % self.capacity if self.size else 0
