"""Out-of-order data: pieces that wait for what is missing (RFC 9293 section 3.10.7.4)."""

from __future__ import annotations

from bisect import bisect_left

MAX_PIECES = 1024
"""Per connection, so that tiny pieces cannot multiply the bookkeeping."""


class Reassembly:
    """Non-overlapping pieces by sequence number, and the blocks to report (RFC 2018)."""

    __slots__ = ("_ends", "_latest", "_pieces", "_starts", "size")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._pieces: list[list[bytes]] = []
        self._latest = 0
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._starts)

    def add(self, seq: int, data: bytes) -> bool:
        """Keep ``data`` from ``seq`` on; False if there are too many pieces to keep another."""
        end = seq + len(data)
        starts, ends = self._starts, self._ends
        self._latest = seq
        index = bisect_left(ends, seq)
        # Appending to the piece before is what nearly always happens behind a loss.
        if (
            index < len(starts)
            and ends[index] == seq
            and (index + 1 == len(starts) or starts[index + 1] > end)
        ):
            ends[index] = end
            self._pieces[index].append(data)
            self.size += len(data)
            return True
        if index < len(starts) and starts[index] <= seq and ends[index] >= end:
            return True
        if len(starts) >= MAX_PIECES:
            return False
        return self._merge(index, seq, end, data)

    def _merge(self, index: int, seq: int, end: int, data: bytes) -> bool:
        starts, ends, pieces = self._starts, self._ends, self._pieces
        last = index
        before: list[bytes] = []
        behind: list[bytes] = []
        while last < len(starts) and starts[last] <= end:
            # At most the first reaches before the new data, and the last beyond it; nothing that
            # is there already is copied.
            if starts[last] < seq:
                before = pieces[last]
                data = data[ends[last] - seq :]
                seq = starts[last]
            if ends[last] > end:
                behind = pieces[last]
                data = data[: len(data) - (end - starts[last])]
                end = ends[last]
            self.size -= ends[last] - starts[last]
            last += 1
        if data:
            before.append(data)
        starts[index:last] = [seq]
        ends[index:last] = [end]
        pieces[index:last] = [before + behind]
        self.size += end - seq
        return True

    def take(self, seq: int) -> list[bytes]:
        """Remove and return what continues at ``seq``; what lies before it is forgotten."""
        starts, ends = self._starts, self._ends
        taken: list[bytes] = []
        while starts and starts[0] <= seq:
            start, end, pieces = starts.pop(0), ends.pop(0), self._pieces.pop(0)
            self.size -= end - start
            if end <= seq:
                continue
            skip = seq - start
            for piece in pieces:
                if skip >= len(piece):
                    skip -= len(piece)
                elif skip:
                    taken.append(piece[skip:])
                    skip = 0
                else:
                    taken.append(piece)
            seq = end
        return taken

    def blocks(self, limit: int) -> list[tuple[int, int]]:
        """Up to ``limit`` blocks, that of the latest arrival first (RFC 2018 section 4)."""
        if not self._starts:
            return []
        index = max(0, bisect_left(self._starts, self._latest + 1) - 1)
        order = [index, *(i for i in range(len(self._starts) - 1, -1, -1) if i != index)]
        return [(self._starts[i], self._ends[i]) for i in order[:limit]]
