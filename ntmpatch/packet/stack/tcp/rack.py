"""RACK: losses found by time (RFC 8985 section 6).

Whatever was sent well before something that has arrived is lost. How much "well before" is, the
reordering window says: nothing where the network keeps order, up to a round trip where not.
"""

from __future__ import annotations

PERSISTENT_RECOVERIES = 16
"""For so many recoveries a widened window stays (section 6.2, step 4)."""


class Rack:
    """RACK.xmit_ts, end_seq, rtt, fack and the reordering window of one connection."""

    __slots__ = (
        "_dsack_round",
        "_forward",
        "_persist",
        "end",
        "factor",
        "reordering_seen",
        "rtt",
        "sent_at",
    )

    def __init__(self) -> None:
        self.sent_at = 0.0
        """When the latest of what has arrived was sent."""
        self.end = 0
        """Where that ends in the sequence space."""
        self.rtt = 0.0
        """How long that took, seconds."""
        self.reordering_seen = False
        self.factor = 1
        """Of a quarter of the least round trip."""
        self._forward = 0
        self._persist = 0
        self._dsack_round: int | None = None

    def delivered(
        self, sent_at: float, end: int, *, retransmitted: bool, spurious: bool, now: float
    ) -> None:
        """Steps 1 to 3; ``spurious``: it may be the first transmission that has arrived."""
        if end > self._forward:
            self._forward = end
        elif end < self._forward and not retransmitted:
            self.reordering_seen = True
        if retransmitted and spurious:
            return
        self.rtt = now - sent_at
        if sent_at > self.sent_at or (sent_at == self.sent_at and end > self.end):
            self.sent_at = sent_at
            self.end = end

    def duplicate_told(self, una: int, nxt: int) -> None:
        """A DSACK: a repair was not needed, so wait longer next time; once a round trip."""
        if self._dsack_round is None or una >= self._dsack_round:
            self._dsack_round = nxt
            self.factor += 1
            self._persist = PERSISTENT_RECOVERIES

    def recovered(self) -> None:
        """A recovery has ended."""
        self._persist -= 1
        if self._persist <= 0:
            self.factor = 1

    def forget(self) -> None:
        """The path is another one."""
        self.sent_at = 0.0
        self.end = 0
        self.rtt = 0.0
        self.reordering_seen = False
        self.factor = 1

    def window(self, min_rtt: float, srtt: float, *, eager: bool) -> float:
        """Step 4: seconds that what is overtaken gets.

        ``eager``: in recovery, or as much has overtaken it as three duplicate ACKs would tell.
        """
        if not self.reordering_seen and eager:
            return 0.0
        return min(self.factor * min_rtt / 4, srtt)
