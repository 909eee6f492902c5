"""A queue of instants for sans-I/O cores: arm, re-arm, cancel, and pop what is due."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

K = TypeVar("K")


class TimerQueue(Generic[K]):
    """One instant per key; arming a key again moves it.

    Most timers are moved later again and again and never fall due (each acknowledgment moves the
    retransmission timer), so moving a timer later, and cancelling it, costs no more than an entry
    in a dict: what is in the heap is put right when it surfaces.
    """

    def __init__(self) -> None:
        self._due_at: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._queued_at: dict[K, float] = {}
        """Of each key, its earliest entry in the heap; never later than when it is due."""
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._due_at)

    def arm(self, key: K, due_at: float) -> None:
        """Let ``key`` fall due at the instant ``due_at``, instead of any earlier arrangement."""
        self._due_at[key] = due_at
        queued_at = self._queued_at.get(key)
        if queued_at is None or due_at < queued_at:
            self._push(key, due_at)

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
            at, _, key = heap[0]
            if self._due_at.get(key) == at:
                return at
            self._surface()
        return None

    def pop_due(self, now: float) -> list[K]:
        """Remove and return the keys that are due at ``now``, earliest first."""
        due: list[K] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, key = heap[0]
            is_due = self._due_at.get(key) == at
            if is_due:
                del self._due_at[key]
                due.append(key)
            self._surface()
        return due

    def _surface(self) -> None:
        """Take the first entry off the heap; its key, if it was moved later, goes in again."""
        at, _, key = heapq.heappop(self._heap)
        if self._queued_at.get(key) != at:
            return  # the key has an earlier entry, which has surfaced before
        del self._queued_at[key]
        due_at = self._due_at.get(key)
        if due_at is not None:
            self._push(key, due_at)

    def _push(self, key: K, at: float) -> None:
        self._sequence += 1
        self._queued_at[key] = at
        heapq.heappush(self._heap, (at, self._sequence, key))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._due_at):
            self._sweep()

    def _sweep(self) -> None:
        """Entries of keys that were cancelled, or moved earlier, are too many."""
        self._queued_at = dict(self._due_at)
        self._heap[:] = [(at, index, key) for index, (key, at) in enumerate(self._due_at.items())]
        self._sequence = len(self._heap)
        heapq.heapify(self._heap)
