"""HyStart++: leave slow start when the round trip grows, before the queue overflows (RFC 9406)."""

from __future__ import annotations

MIN_RTT_THRESHOLD = 0.004
MAX_RTT_THRESHOLD = 0.016
RTT_DIVISOR = 8
SAMPLES = 8
CSS_GROWTH_DIVISOR = 4
CSS_ROUNDS = 5


class HyStart:
    """The rounds of slow start, and whether it goes on; times in seconds."""

    __slots__ = (
        "_baseline",
        "_conservative_rounds",
        "_last_round_min",
        "_round_end",
        "_round_min",
        "_samples",
        "conservative",
    )

    def __init__(self) -> None:
        self.conservative = False
        """In Conservative Slow Start: grow a quarter as fast, and see whether it was right."""
        self._round_end = 0
        self._round_min = float("inf")
        self._last_round_min = float("inf")
        self._samples = 0
        self._baseline = float("inf")
        self._conservative_rounds = 0

    def acknowledged(self, rtt: float | None, una: int, nxt: int) -> bool:
        """An ACK up to ``una`` while ``nxt`` was sent; True when slow start ends (section 4.2)."""
        if rtt is not None:
            self._round_min = min(self._round_min, rtt)
            self._samples += 1
            if self._samples >= SAMPLES:
                self._judge()
        if una < self._round_end:
            return False
        if self._samples < SAMPLES:
            # One acknowledgment may be for dozens of segments, and a round of few of them.
            self._judge()
        self._round_end = nxt
        self._last_round_min = self._round_min
        self._round_min = float("inf")
        self._samples = 0
        if self.conservative:
            self._conservative_rounds += 1
            return self._conservative_rounds >= CSS_ROUNDS
        return False

    def _judge(self) -> None:
        if self.conservative:
            if self._round_min < self._baseline:
                # The growth was jitter: back to slow start.
                self.conservative = False
                self._baseline = float("inf")
            return
        if self._last_round_min == float("inf") or not self._samples:
            return
        threshold = self._last_round_min / RTT_DIVISOR
        threshold = max(MIN_RTT_THRESHOLD, min(threshold, MAX_RTT_THRESHOLD))
        if self._round_min >= self._last_round_min + threshold:
            self.conservative = True
            self._baseline = self._round_min
            self._conservative_rounds = 0
