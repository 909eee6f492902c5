"""What the far end holds of what is under way, and what of it is lost (RFC 6675).

Sequence numbers are unwrapped integers.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

DUPLICATE_THRESHOLD = 3
MAX_RANGES = 512


class Scoreboard:
    """Selectively acknowledged ranges, disjoint and in order, and how far repair has come."""

    __slots__ = ("_ends", "_starts", "high_retransmitted", "lost_below", "retransmitted_at_nxt")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.high_retransmitted = 0
        """HighRxt: holes below it have been retransmitted in this recovery."""
        self.lost_below = 0
        """Holes below it count as lost."""
        self.retransmitted_at_nxt = 0
        """SND.NXT when the first hole was last retransmitted."""

    @property
    def highest(self) -> int:
        """The end of the highest range; 0 if there is none."""
        return self._ends[-1] if self._ends else 0

    def clear(self) -> None:
        """Forget all ranges: the far end may have reneged (RFC 2018 section 8)."""
        self._starts.clear()
        self._ends.clear()

    def add(self, start: int, end: int) -> int:
        """The far end has ``start`` to ``end``; how many bytes of that are news."""
        starts, ends = self._starts, self._ends
        first = bisect_left(ends, start)
        last = bisect_right(starts, end)
        if first == last:
            if len(starts) >= MAX_RANGES:
                return 0
            starts.insert(first, start)
            ends.insert(first, end)
            return end - start
        before = sum(ends[i] - starts[i] for i in range(first, last))
        start = min(start, starts[first])
        end = max(end, ends[last - 1])
        starts[first:last] = [start]
        ends[first:last] = [end]
        return end - start - before

    def acknowledged(self, una: int) -> None:
        """Everything below ``una`` is acknowledged."""
        starts, ends = self._starts, self._ends
        while ends and ends[0] <= una:
            del starts[0], ends[0]
        if starts and starts[0] < una:
            starts[0] = una

    def size(self) -> int:
        """Bytes in ranges."""
        return sum(self._ends) - sum(self._starts)

    def detect(self, una: int, mss: int) -> bool:
        """Move the limit of what is lost; whether anything is lost that was not before.

        RFC 6675 (IsLost): more than two segments' worth above it has arrived.
        """
        total = 0
        limit = 0
        for start, end in zip(reversed(self._starts), reversed(self._ends), strict=True):
            total += end - start
            if total > (DUPLICATE_THRESHOLD - 1) * mss:
                limit = end - (total - (DUPLICATE_THRESHOLD - 1) * mss)
                limit = min(limit, end)
                limit = max(limit, start)
                break
        if limit > max(self.lost_below, una):
            fresh = self.hole(max(self.lost_below, una), limit) is not None
            self.lost_below = limit
            return fresh
        return False

    def hole(self, start: int, limit: int) -> tuple[int, int] | None:
        """The first range from ``start`` on and below ``limit`` that has not arrived."""
        index = bisect_right(self._starts, start) - 1
        if index >= 0 and self._ends[index] > start:
            start = self._ends[index]
        if start >= limit:
            return None
        following = bisect_right(self._starts, start)
        end = self._starts[following] if following < len(self._starts) else limit
        return start, min(end, limit)

    def missing(self, start: int, limit: int) -> int:
        """Bytes between ``start`` and ``limit`` that have not arrived."""
        if start >= limit:
            return 0
        total = limit - start
        index = bisect_left(self._ends, start + 1)
        while index < len(self._starts) and self._starts[index] < limit:
            total -= min(self._ends[index], limit) - max(self._starts[index], start)
            index += 1
        return total
