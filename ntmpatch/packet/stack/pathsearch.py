"""The search for one path's MTU (RFC 8899 section 5): which size to try, and what follows.

It knows neither packets nor timers; those are of ``pathmtu``.
"""

from __future__ import annotations

import enum

MIN_MTU = 1280
"""MIN_PLPMTU: what every path of IPv6 carries (RFC 8200 section 5)."""

MAX_PROBES = 3
"""Probes of one size that have to be lost before it counts as too large."""

MAX_CONFIRMING_PROBES = 2
"""The same, where TCP has already lost segments of that size."""

RAISE_INTERVAL = 600.0
"""PMTU_RAISE_TIMER: a path in use is searched again after that."""

RETRY_INTERVAL = 60.0
"""The same where nobody answered, so that nothing is known."""

FIRST_PROBE_TIMEOUT = 1.0
MIN_PROBE_TIMEOUT = 0.25
"""PROBE_TIMER: three round trips, doubled with each loss, within these bounds."""

STEP = 16
"""The tunnel pads to it: sizes between two steps are one size outside."""

RUNGS = (1408, 1424, 1440, 1456, 4064, 8912, 8928, 8944, 16352, 32736)
"""Tried in this order: what is left of common links by 32 bytes of the tunnel and the outer
headers, IPv6 (1408 of 1500, 8912 of 9000) and IPv4 (1440, 8928), and the next step above these,
whose loss ends the search."""


class Phase(enum.Enum):
    """RFC 8899 section 5.2."""

    BASE = enum.auto()
    """The size in use is being confirmed."""
    SEARCHING = enum.auto()
    COMPLETE = enum.auto()
    ERROR = enum.auto()
    """The base does not pass: the smallest size is tried."""


class PathMtu:
    """The search on one path: which size to try next, and what follows from the outcome."""

    def __init__(self, base: int, limit: int, now: float) -> None:
        self.mtu = base
        """PLPMTU: the size in use."""
        self.phase = Phase.BASE
        self.used_at = now
        self.raise_at = now
        self.suspected = False
        """TCP lost full segments again and again: the size in use may not pass any more."""
        self.probed: int | None = None
        """The size under way."""
        self.attempts = 0
        self.cookies: dict[bytes, float] = {}
        """Of the probes of this size: when each was sent."""
        self.round_trip: float | None = None
        self._base = base
        self._limit = limit
        self._refused = limit + 1
        """The smallest size that is known not to pass."""
        self._rungs = sorted({each for each in (base, *RUNGS, limit) if base <= each <= limit})

    def candidate(self) -> int | None:
        """The size to try; None when the search is over."""
        if self.phase is Phase.BASE:
            return self.mtu
        if self.phase is Phase.ERROR:
            return MIN_MTU
        if self.phase is Phase.COMPLETE:
            return None
        for rung in self._rungs:
            if self.mtu < rung < self._refused:
                return rung
        gap = self._refused - self.mtu
        if gap <= max(STEP, self.mtu >> 5):
            return None
        return self.mtu + max(STEP, (gap // 2) & -STEP)

    def confirmed(self, size: int) -> None:
        """A probe of ``size`` was answered."""
        self.mtu = size
        self.phase = Phase.SEARCHING
        self.suspected = False

    def lost(self, now: float) -> None:
        """All probes of the size under way were lost."""
        size = self.probed or self.mtu
        if self.phase is Phase.SEARCHING:
            self._refused = size
        elif self.phase is Phase.ERROR:
            # Not even the smallest: nobody answers, or the path is down. Nothing is learned.
            self.complete(now + RETRY_INTERVAL)
        else:
            self._refused = size
            if size > self._base:
                self.mtu = self._base
            elif size > MIN_MTU:
                self.phase = Phase.ERROR
                if self.suspected:
                    self.mtu = MIN_MTU
            else:
                self.complete(now + RETRY_INTERVAL)

    def too_big(self, size: int, now: float) -> bool:
        """A router said that it carries ``size`` bytes at most; whether that says anything.

        Never below the smallest size (RFC 8899 section 4.6.2), whatever the router says.
        """
        size = max(size, MIN_MTU)
        if size < self.mtu:
            self.mtu = size
            self._refused = size + 1
            self.complete(now + RAISE_INTERVAL)
            return True
        if self.probed is not None and self.mtu <= size < self.probed:
            self._refused = size + 1
            self.phase = Phase.SEARCHING
            return True
        return False

    def suspect(self) -> None:
        """Confirm the size in use (black-hole detection, section 4.3)."""
        self.suspected = True
        self.phase = Phase.BASE

    def search_again(self) -> None:
        """Forget what was refused."""
        self._refused = self._limit + 1
        self.phase = Phase.SEARCHING

    def complete(self, raise_at: float) -> None:
        """Rest until ``raise_at``."""
        self.phase = Phase.COMPLETE
        self.suspected = False
        self.raise_at = raise_at

    def probe_timeout(self) -> float:
        """How long to wait for the answer to the next probe."""
        timeout = FIRST_PROBE_TIMEOUT
        if self.round_trip is not None:
            timeout = max(MIN_PROBE_TIMEOUT, 3 * self.round_trip)
        return timeout * (1 << self.attempts)

    @property
    def is_exhausted(self) -> bool:
        """Whether the size under way was tried often enough."""
        return self.attempts >= (MAX_CONFIRMING_PROBES if self.suspected else MAX_PROBES)
