"""Congestion control: CUBIC (RFC 9438) behind the few calls that recovery makes."""

from __future__ import annotations

INITIAL_WINDOW = 10
"""Segments (RFC 6928)."""
_C = 0.4
_BETA = 0.7


class Cubic:
    """A congestion window in bytes."""

    __slots__ = ("_epoch_at", "_k", "_mss", "_w_est", "_w_max", "cwnd", "ssthresh")

    def __init__(self, mss: int) -> None:
        self._mss = mss
        self.cwnd = INITIAL_WINDOW * mss
        self.ssthresh = 1 << 62
        self._w_max = 0.0
        self._w_est = 0.0
        self._k = 0.0
        self._epoch_at: float | None = None

    def set_mss(self, mss: int) -> None:
        """The segment size became known, or changed."""
        if self.cwnd == INITIAL_WINDOW * self._mss:
            self.cwnd = INITIAL_WINDOW * mss
        self._mss = mss

    def acknowledged(self, size: int, srtt: float, now: float) -> None:
        """``size`` new bytes arrived while the window was in use and nothing was lost."""
        if self.cwnd < self.ssthresh:
            self.cwnd += size
            return
        mss = self._mss
        window = self.cwnd / mss
        if self._epoch_at is None:
            self._epoch_at = now
            self._w_est = window
            if window < self._w_max:
                self._k = ((self._w_max - window) / _C) ** (1 / 3)
            else:
                self._k = 0.0
                self._w_max = window
        elapsed = now - self._epoch_at + srtt
        # Section 4.2: the cubic target, at most half as much again within a round trip.
        target = _C * (elapsed - self._k) ** 3 + self._w_max
        target = min(max(target, window), 1.5 * window)
        segments = size / mss
        # Section 4.3: never slower than Reno would be.
        self._w_est += 3 * (1 - _BETA) / (1 + _BETA) * segments / window
        growth = (target - window) / window * segments
        self.cwnd = int(max(self.cwnd + growth * mss, self._w_est * mss))

    def lost(self, flight: int) -> None:
        """A loss was found by acknowledgments; ``flight`` bytes were under way (section 4.6)."""
        window = max(flight, self._mss) / self._mss
        # Fast convergence (section 4.7): make room for newcomers.
        self._w_max = window * (1 + _BETA) / 2 if window < self._w_max else window
        self.ssthresh = max(int(flight * _BETA), 2 * self._mss)
        self.cwnd = self.ssthresh
        self._epoch_at = None

    def timed_out(self, flight: int, *, first: bool) -> None:
        """The retransmission timer expired; ``first``: of these data (RFC 5681 (4))."""
        if first:
            self.lost(flight)
        self.cwnd = self._mss
        self._epoch_at = None

    def restart(self) -> None:
        """The path is another one, or was idle for long (RFC 5681 section 4.1)."""
        self.cwnd = INITIAL_WINDOW * self._mss
        self._epoch_at = None

    def forget(self) -> None:
        """Nothing that was learned holds any more."""
        self.restart()
        self.ssthresh = 1 << 62
        self._w_max = 0.0
