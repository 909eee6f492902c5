"""A queue of instants for sans-I/O cores: arm, re-arm, cancel, and pop what is due."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

K = TypeVar("K")


class TimerQueue(Generic[K]):
    """One instant per key; arming a key again moves it.

    Cancelled and moved entries stay in the heap until they surface, so every operation is
    O(log n) and the heap is swept when stale entries outnumber live ones.
    """

    def __init__(self) -> None:
        self._due_at: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._due_at)

    def arm(self, key: K, due_at: float) -> None:
        """Let ``key`` fall due at the instant ``due_at``, instead of any earlier arrangement."""
        if self._due_at.get(key) == due_at:
            return
        self._due_at[key] = due_at
        self._sequence += 1
        heapq.heappush(self._heap, (due_at, self._sequence, key))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._due_at):
            self._sweep()

    def cancel(self, key: K) -> None:
        """Forget ``key``; harmless if it is not armed."""
        self._due_at.pop(key, None)

    def due_at(self, key: K) -> float | None:
        """The instant ``key`` is armed for, or None."""
        return self._due_at.get(key)

    def earliest(self) -> float | None:
        """The next instant at which anything falls due, or None."""
        heap = self._heap
        while heap:
            due_at, _, key = heap[0]
            if self._due_at.get(key) == due_at:
                return due_at
            heapq.heappop(heap)
        return None

    def pop_due(self, now: float) -> list[K]:
        """Remove and return the keys that are due at ``now``, earliest first."""
        due: list[K] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            due_at, _, key = heapq.heappop(heap)
            if self._due_at.get(key) == due_at:
                del self._due_at[key]
                due.append(key)
        return due

    def _sweep(self) -> None:
        self._heap = [entry for entry in self._heap if self._due_at.get(entry[2]) == entry[0]]
        heapq.heapify(self._heap)
