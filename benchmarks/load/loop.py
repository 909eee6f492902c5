"""The drivers' event loop: epoll and a heap of instants, for thousands of small clients."""

from __future__ import annotations

import heapq
import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_EVENTS = 256


class Loop:
    """Calls back when a descriptor is ready, or an instant has come; in one thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[int], None]] = {}
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._sequence = 0

    def watch(self, fd: int, ready: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Call ``ready(events)`` while ``fd`` is; again with other ``events`` to change them."""
        if fd in self._ready:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._ready[fd] = ready

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``, which is still open."""
        if self._ready.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_at(self, due_at: float, call: Callable[[float], None]) -> None:
        """Call ``call(now)`` at ``due_at`` (``time.monotonic()`` seconds)."""
        self._sequence += 1
        heapq.heappush(self._heap, (due_at, self._sequence, call))

    def run(self, until: Callable[[], bool], timeout: float = 600.0) -> bool:
        """Go on until something is so, or for ``timeout`` seconds; whether it became so."""
        ends_at = time.monotonic() + timeout
        heap = self._heap
        while not until():
            now = time.monotonic()
            if now >= ends_at:
                return False
            while heap and heap[0][0] <= now:
                heapq.heappop(heap)[2](now)
            next_at = min(heap[0][0], ends_at) if heap else ends_at
            wait = min(max(0.0, next_at - time.monotonic()), 0.2)
            for fd, events in self._epoll.poll(wait, MAX_EVENTS):
                ready = self._ready.get(fd)
                if ready is not None:
                    ready(events)
        return True
