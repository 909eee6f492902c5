"""The send buffer: a ring that the program's bytes are read into and segments are views of."""

from __future__ import annotations

from ntmpatch.packet.stack.tcp.autotune import INITIAL_SIZE

SMALL_SIZE = 16 << 10
"""Bytes at first: most connections never have more to send at once."""
MAX_SPARE = 32
"""Rings of a size kept for the next connection: a busy one empties its ring all the time."""


class RingPool:
    """Spare rings of the usual sizes: a connection with nothing to send holds none."""

    __slots__ = ("_spare",)

    def __init__(self) -> None:
        self._spare: dict[int, list[memoryview]] = {SMALL_SIZE: [], INITIAL_SIZE: []}

    def take(self, size: int) -> memoryview:
        """A ring of ``size`` bytes, which are anything."""
        spare = self._spare.get(size)
        return spare.pop() if spare else memoryview(bytearray(size))

    def give(self, ring: memoryview) -> None:
        """Nobody uses the ring any more."""
        spare = self._spare.get(len(ring))
        if spare is not None and len(spare) < MAX_SPARE:
            spare.append(ring)


class SendBuffer:
    """Bytes from the first unacknowledged one on. Positions are offsets from that byte."""

    __slots__ = ("_head", "_pool", "_view", "capacity", "size")

    def __init__(self, pool: RingPool) -> None:
        self.capacity = SMALL_SIZE
        self.size = 0
        self._head = 0
        self._pool = pool
        self._view: memoryview | None = None

    def space(self) -> memoryview:
        """A contiguous writable part of what is free; empty when the buffer is full."""
        view = self._view
        if view is None:
            view = self._view = self._pool.take(self.capacity)
        start = (self._head + self.size) % self.capacity
        free = self.capacity - self.size
        return view[start : min(self.capacity, start + free)]

    def commit(self, size: int) -> None:
        """``size`` bytes of what ``space`` gave are filled."""
        self.size += size

    def peek(self, offset: int, size: int) -> memoryview:
        """At most ``size`` bytes from ``offset`` on; fewer where the ring wraps."""
        assert self._view is not None
        start = (self._head + offset) % self.capacity
        return self._view[start : min(self.capacity, start + min(size, self.size - offset))]

    def release(self, size: int) -> None:
        """The first ``size`` bytes were acknowledged."""
        self.size -= size
        # An empty ring begins at its start again, so that runs are as long as they can be.
        self._head = (self._head + size) % self.capacity if self.size else 0

    def rest(self) -> None:
        """Give back the ring if it is empty: whoever looks at a view of it has looked by now."""
        if not self.size and self._view is not None:
            self._pool.give(self._view)
            self._view = None

    def grow(self, capacity: int) -> None:
        """Make room for ``capacity`` bytes; what is in the buffer moves."""
        ring = self._pool.take(capacity)
        if self._view is not None:
            first = self.peek(0, self.size)
            ring[: len(first)] = first
            rest = self.size - len(first)
            if rest:
                ring[len(first) : self.size] = self._view[:rest]
            self._pool.give(self._view)
        self._view = ring
        self._head = 0
        self.capacity = capacity
