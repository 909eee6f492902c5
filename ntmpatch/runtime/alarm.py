"""One hub timer for a sans-I/O core's ``poll_timeout``, re-armed only when it must ring earlier."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import gevent

if TYPE_CHECKING:
    from collections.abc import Callable

_RESOLUTION = 0.0005
"""Seconds: rings this close together are one; libev's own clock is no finer under load."""


class Alarm:
    """Calls ``ring()`` in the hub once the earliest instant asked for is reached.

    A core's next instant moves with every packet, mostly later. So a later instant is not passed to
    the event loop: the alarm rings early, and whoever is rung asks again.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop: Any = gevent.get_hub().loop
        self._timer: Any = None
        self._armed_at = float("inf")

    def ask(self, due_at: float | None) -> None:
        """Ring no later than at ``due_at`` (``time.monotonic()`` seconds); None asks nothing."""
        if due_at is None or due_at >= self._armed_at - _RESOLUTION:
            return
        self._stop()
        self._armed_at = due_at
        self._loop.update_now()
        self._timer = self._loop.timer(max(0.0, due_at - time.monotonic()))
        self._timer.start(self._due)

    def close(self) -> None:
        """Never ring again."""
        self._stop()
        self._armed_at = float("-inf")

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _due(self) -> None:
        self._stop()
        self._armed_at = float("inf")
        self._ring()
