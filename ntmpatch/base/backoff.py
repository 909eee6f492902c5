"""Exponential back-off with jitter, for everything that asks again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


class Backoff:
    """Yields growing waiting times in seconds: ``initial · factor^n``, at most ``maximum``.

    Each is shortened at random by up to ``jitter`` (a fraction), so that many who failed together
    do not come back together.
    """

    def __init__(
        self,
        *,
        initial: float,
        maximum: float,
        rng: random.Random,
        factor: float = 2.0,
        jitter: float = 0.25,
    ) -> None:
        self._initial = initial
        self._maximum = maximum
        self._factor = factor
        self._jitter = jitter
        self._rng = rng
        self._next = initial

    def next_interval(self) -> float:
        """The next waiting time, in seconds."""
        interval = self._next
        self._next = min(self._next * self._factor, self._maximum)
        return interval * (1.0 - self._jitter * self._rng.random())

    def reset(self) -> None:
        """Begin again at ``initial``: something succeeded."""
        self._next = self._initial
