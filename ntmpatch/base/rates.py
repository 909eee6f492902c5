"""How much of something is allowed in a time: a token bucket."""

from __future__ import annotations


class TokenBucket:
    """Lets ``rate`` units a second pass on average, and ``burst`` at once."""

    __slots__ = ("_filled_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._filled_at = now

    def available(self, now: float) -> float:
        """The units that are there now; whoever finds enough may `take` or `spend` them."""
        elapsed = now - self._filled_at
        if elapsed > 0.0:
            self._level = min(self.burst, self._level + elapsed * self.rate)
            self._filled_at = now
        return self._level

    def spend(self, amount: float) -> None:
        """Take units that `available` has just said are there."""
        self._level -= amount

    def take(self, now: float, amount: float = 1.0) -> bool:
        """Take ``amount`` units if they are there; False takes nothing."""
        if amount > self.available(now):
            return False
        self._level -= amount
        return True

    def is_full(self, now: float) -> bool:
        """Whether nothing was taken for so long that the bucket may be forgotten."""
        return self._level + (now - self._filled_at) * self.rate >= self.burst
