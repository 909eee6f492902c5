"""Congestion control: CUBIC (RFC 9438) with HyStart++, behind the few calls of recovery."""

from __future__ import annotations

from ntmpatch.packet.stack.tcp.hystart import CSS_GROWTH_DIVISOR, HyStart

_C = 0.4
_BETA = 0.7
_UNLIMITED = 1 << 62

Saved = tuple[int, int, float, float, float, float, "float | None"]
"""What ``restore`` needs to undo a reduction."""


def initial_window(mss: int) -> int:
    """Bytes (RFC 6928 section 2): ten segments, but of large ones fewer."""
    return min(10 * mss, max(2 * mss, 14600))


class Cubic:
    """A congestion window in bytes."""

    __slots__ = (
        "_epoch_at",
        "_hystart",
        "_k",
        "_mss",
        "_prior",
        "_w_est",
        "_w_max",
        "cwnd",
        "ssthresh",
    )

    def __init__(self, mss: int) -> None:
        self._mss = mss
        self.cwnd = initial_window(mss)
        self.ssthresh = _UNLIMITED
        self._w_max = 0.0
        self._w_est = 0.0
        self._prior = 0.0
        self._k = 0.0
        self._epoch_at: float | None = None
        self._hystart: HyStart | None = HyStart()

    @property
    def is_slow_start(self) -> bool:
        """Whether the window grows by what is acknowledged."""
        return self.cwnd < self.ssthresh

    def set_mss(self, mss: int) -> None:
        """The segment size became known, or changed."""
        if self.cwnd == initial_window(self._mss):
            self.cwnd = initial_window(mss)
        self.cwnd = max(self.cwnd, mss)
        self._mss = mss

    def acknowledged(
        self, size: int, rtt: float | None, srtt: float, una: int, nxt: int, now: float
    ) -> None:
        """``size`` new bytes arrived while the window was in use and nothing was lost.

        ``rtt`` is this ACK's sample, if it gave one. There is no limit to the growth by one ACK
        (L of RFC 9406): receivers that take runs of segments acknowledge runs.
        """
        if self.cwnd < self.ssthresh:
            self._slow_start(size, rtt, una, nxt)
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
        # Section 4.3: never slower than Reno would be; past the old window exactly as fast.
        alpha = 1.0 if self._w_est >= self._prior else 3 * (1 - _BETA) / (1 + _BETA)
        self._w_est += alpha * segments / window
        growth = (target - window) / window * segments
        self.cwnd = int(max(self.cwnd + growth * mss, self._w_est * mss))

    def _slow_start(self, size: int, rtt: float | None, una: int, nxt: int) -> None:
        hystart = self._hystart
        if hystart is None:  # only the first slow start is careful (RFC 9406 section 4.3)
            self.cwnd = min(self.cwnd + size, max(self.ssthresh, self.cwnd))
            return
        if hystart.acknowledged(rtt, una, nxt):
            self.ssthresh = self.cwnd
            self._hystart = None
            return
        self.cwnd += size // CSS_GROWTH_DIVISOR if hystart.conservative else size

    def reduce(self) -> None:
        """A loss was found by acknowledgments, or ECN told of congestion (section 4.6).

        Sets ``ssthresh``; ``cwnd`` goes there as proportional rate reduction has it.
        """
        window = self.cwnd / self._mss
        # Fast convergence (section 4.7): make room for newcomers.
        self._w_max = window * (1 + _BETA) / 2 if window < self._w_max else window
        self._prior = window
        self.ssthresh = max(int(self.cwnd * _BETA), 2 * self._mss)
        self._epoch_at = None
        self._hystart = None

    def timed_out(self) -> None:
        """The retransmission timer expired: one segment (RFC 5681 section 3.1)."""
        self.cwnd = self._mss
        self._epoch_at = None

    def save(self) -> Saved:
        """For ``restore``."""
        return (
            self.cwnd,
            self.ssthresh,
            self._w_max,
            self._w_est,
            self._prior,
            self._k,
            self._epoch_at,
        )

    def restore(self, saved: Saved) -> None:
        """The reduction was for nothing: nothing had been lost."""
        cwnd, self.ssthresh, self._w_max, self._w_est, self._prior, self._k, self._epoch_at = saved
        self.cwnd = max(self.cwnd, cwnd)

    def idle(self) -> None:
        """Nothing was sent for a time-out: the path may have changed (RFC 5681 section 4.1)."""
        self.cwnd = min(self.cwnd, initial_window(self._mss))
        self._epoch_at = None

    def forget(self) -> None:
        """The path is another one: nothing that was learned holds."""
        self.cwnd = initial_window(self._mss)
        self.ssthresh = _UNLIMITED
        self._w_max = 0.0
        self._epoch_at = None
        self._hystart = HyStart()
