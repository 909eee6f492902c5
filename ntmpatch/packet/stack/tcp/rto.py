"""The retransmission time-out (RFC 6298)."""

from __future__ import annotations

MIN_RTO = 0.2
"""Linux's; RFC 6298 (2.4) says a second, which predates timestamps and delayed ACKs of 40 ms."""
MAX_RTO = 60.0
INITIAL_RTO = 1.0
_CLOCK_GRANULARITY = 0.001


class RttEstimator:
    """Smoothed round-trip time and the time-out that follows from it, in seconds."""

    __slots__ = ("_backoff", "_base", "min_rtt", "rttvar", "srtt")

    def __init__(self) -> None:
        self.srtt: float | None = None
        self.rttvar = 0.0
        self.min_rtt = float("inf")
        self._base = INITIAL_RTO
        self._backoff = 0

    @property
    def rto(self) -> float:
        """The present time-out, backed off."""
        return min(MAX_RTO, self._base * (1 << min(self._backoff, 16)))

    @property
    def backoff(self) -> int:
        """How often the time-out has been doubled since the last new acknowledgment."""
        return self._backoff

    def sample(self, rtt: float) -> None:
        """A segment was acknowledged ``rtt`` seconds after it was sent, once (Karn)."""
        rtt = max(rtt, 1e-6)
        self.min_rtt = min(self.min_rtt, rtt)
        if self.srtt is None:  # (2.2)
            self.srtt = rtt
            self.rttvar = rtt / 2
        else:  # (2.3)
            self.rttvar += (abs(self.srtt - rtt) - self.rttvar) / 4
            self.srtt += (rtt - self.srtt) / 8
        self._base = max(MIN_RTO, self.srtt + max(_CLOCK_GRANULARITY, 4 * self.rttvar))

    def back_off(self) -> None:
        """The time-out expired (5.5)."""
        self._backoff += 1

    def progress(self) -> None:
        """New data was acknowledged: the back-off ends."""
        self._backoff = 0

    def restart(self) -> None:
        """The path is another one: what was measured is not true of it."""
        self.srtt = None
        self.rttvar = 0.0
        self.min_rtt = float("inf")
        self._base = INITIAL_RTO
        self._backoff = 0
