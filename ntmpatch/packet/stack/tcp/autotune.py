"""Buffers that follow the path: as large as one round trip needs, within what the node can spare.

The receive side does what Linux calls dynamic right-sizing (Fisk and Feng): what the program took
in one round trip, the next may need twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ntmpatch.packet.stack.tcp.rto import RttEstimator

INITIAL_SIZE = 256 << 10
"""Bytes of either buffer at first."""
EASY_SIZE = 1 << 20
"""Up to here a buffer grows by what was sent or taken; beyond, by the length of the path."""
MAX_SIZE = 64 << 20
"""200 ms at 1 Gbit/s are 25 MB under way, and as much again while a loss is repaired."""
NODE_LIMIT = 256 << 20
"""Bytes that all buffers of a node may grow by, and that may wait in it to be read."""

WINDOW_SCALE = 11
"""Ours: 65,535 · 2^11 is more than ``MAX_SIZE``."""

MIN_RTT = 0.001
"""Below it the clock of the timestamps sees nothing."""


def without_queue(min_rtt: float, rtt: float) -> float:
    """The share of what is under way that the path itself holds, times two, at most one.

    The rest stands in queues, and larger buffers would only make them longer: on a path without
    length (two nodes of one machine) windows of megabytes cost the processor its cache.
    """
    return min(1.0, 2 * max(min_rtt, MIN_RTT) / max(rtt, MIN_RTT))


class Budget:
    """What all connections of one stack share; bytes."""

    __slots__ = ("granted", "held", "limit")

    def __init__(self, limit: int = NODE_LIMIT) -> None:
        self.limit = limit
        self.granted = 0
        """By how much buffers have grown."""
        self.held = 0
        """Received bytes that wait for programs, or for what is missing before them."""

    @property
    def is_tight(self) -> bool:
        """Whether no window may open further."""
        return self.held >= self.limit

    def grow(self, now: int, wanted: int) -> int:
        """How large a buffer of ``now`` bytes that wants to have ``wanted`` bytes may be."""
        size = max(now, min(wanted, MAX_SIZE, now + self.limit - self.granted))
        self.granted += size - now
        return size

    def release(self, size: int) -> None:
        """A buffer of ``size`` bytes is no more."""
        self.granted -= max(size - INITIAL_SIZE, 0)


class ReceiveSpace:
    """How much a connection may have unread, and the measurement that decides on it."""

    __slots__ = ("_began_at", "_last_taken", "_taken", "limit", "rtt", "size")

    def __init__(self) -> None:
        self.size = INITIAL_SIZE
        self.limit = MAX_SIZE
        self.rtt = 0.0
        """Smoothed, as the receiver sees it from echoed timestamps; seconds."""
        self._began_at = 0.0
        self._taken = 0
        self._last_taken = 0

    def confine(self, size: int) -> None:
        """The window cannot be told to be larger than that."""
        self.limit = size
        self.size = min(self.size, size)

    def echoed(self, elapsed: float) -> None:
        """A full segment echoes a timestamp that we sent ``elapsed`` seconds ago."""
        self.rtt += (max(elapsed, MIN_RTT) - self.rtt) / 8 if self.rtt else max(elapsed, MIN_RTT)

    def taken(self, size: int, path: RttEstimator, budget: Budget, now: float) -> None:
        """The program took ``size`` bytes."""
        self._taken += size
        elapsed = now - self._began_at
        rtt = self.rtt or path.srtt or 0.1
        if elapsed < rtt:
            return
        taken, last = self._taken, self._last_taken
        if 2 * taken > self.size and elapsed < 4 * rtt:
            wanted = 2 * taken
            if taken > last:
                # The sender is speeding up: leave room for as much again.
                wanted += min(2 * taken, 2 * taken * (taken - last) // max(last, 1))
            if wanted > EASY_SIZE:
                wanted = max(EASY_SIZE, int(wanted * without_queue(path.min_rtt, rtt)))
            self.size = budget.grow(self.size, min(wanted, self.limit))
        self._last_taken = taken
        self._taken = 0
        self._began_at = now
