"""The retransmission time-out (RFC 6298), and the least round trip."""

from __future__ import annotations

MIN_VARIANCE = 0.2
"""What is added to the smoothed round trip at least, as Linux does: a delayed ACK fits in it.

RFC 6298 (2.4) says a second for the whole, which predates timestamps and delayed ACKs of 40 ms.
"""
MAX_RTO = 60.0
INITIAL_RTO = 1.0

CLOCK_TICK = 0.001
"""Seconds by which a sample from timestamps may be too large: they count milliseconds."""

MIN_RTT_WINDOW = 300.0
"""Seconds that a least round trip holds (RFC 8985 section 6.1; Linux's)."""


class RttEstimator:
    """Smoothed round-trip time and the time-out that follows from it, in seconds."""

    __slots__ = ("_min_rtt_at", "backoff", "base", "min_rtt", "rttvar", "since", "srtt")

    def __init__(self) -> None:
        self.srtt: float | None = None
        self.rttvar = 0.0
        self.min_rtt = float("inf")
        self.backoff = 0
        """How often the time-out has been doubled since the last new acknowledgment."""
        self._min_rtt_at = 0.0
        self.base = INITIAL_RTO
        """The time-out before any back-off."""
        self.since = 0.0
        """When the path became what it is: what was sent before says nothing of it."""

    @property
    def rto(self) -> float:
        """The present time-out, backed off."""
        return min(MAX_RTO, self.base * (1 << min(self.backoff, 16)))

    def sample(self, rtt: float, now: float) -> None:
        """A segment was acknowledged ``rtt`` seconds after it was sent, once (Karn)."""
        if now - rtt < self.since - CLOCK_TICK:
            return  # the ACK waited for the change: that is how long it took, and no round trip
        rtt = max(rtt, 1e-6)
        if rtt <= self.min_rtt or now - self._min_rtt_at > MIN_RTT_WINDOW:
            self.min_rtt = rtt
            self._min_rtt_at = now
        if self.srtt is None:  # (2.2)
            self.srtt = rtt
            self.rttvar = rtt / 2
        else:  # (2.3)
            self.rttvar += (abs(self.srtt - rtt) - self.rttvar) / 4
            self.srtt += (rtt - self.srtt) / 8
        self.base = self.srtt + max(MIN_VARIANCE, 4 * self.rttvar)

    def back_off(self) -> None:
        """The time-out expired (5.5)."""
        self.backoff += 1

    def progress(self) -> None:
        """New data was acknowledged: the back-off ends."""
        self.backoff = 0

    def restart(self, now: float) -> None:
        """The path is another one: what was measured is not true of it.

        The time-out is no guess of a stranger's path (RFC 6298 (2.1)), as something is known of
        where the far end is: twice of what it was leaves room for a detour by a relay. What is lost
        because the new path was not ready yet would wait for it, and too early costs little.
        """
        if self.srtt is not None:  # not again for each step of one change
            self.base = min(INITIAL_RTO, 2 * self.base)
        self.since = now
        self.srtt = None
        self.rttvar = 0.0
        self.min_rtt = float("inf")
        self.backoff = 0
