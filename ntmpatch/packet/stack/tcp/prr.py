"""Proportional rate reduction: how fast to send while repairing (RFC 6937, RFC 9937)."""

from __future__ import annotations


class Prr:
    """The bookkeeping of one recovery; sizes in bytes."""

    __slots__ = ("_delivered", "_flight", "out")

    def __init__(self) -> None:
        self._delivered = 0
        self._flight = 1
        self.out = 0
        """Sent since the recovery began."""

    def start(self, flight: int) -> None:
        """Recovery begins with ``flight`` under way (RecoverFS)."""
        self._flight = max(flight, 1)
        self._delivered = 0
        self.out = 0

    def window(self, delivered: int, pipe: int, ssthresh: int, mss: int, *, safe: bool) -> int:
        """The congestion window after an ACK for ``delivered`` bytes.

        ``safe``: the ACK advanced and told of no further loss.
        """
        self._delivered += delivered
        if pipe > ssthresh:
            # In proportion: when the old flight has been delivered, ssthresh has been sent.
            count = -(-self._delivered * ssthresh // self._flight) - self.out
        else:
            limit = max(self._delivered - self.out, delivered)
            if safe:
                limit += mss  # slow start back to ssthresh
            else:
                limit = self._delivered - self.out  # packet conservation
            count = min(ssthresh - pipe, limit)
        if not self.out:
            count = max(count, mss)  # the first repair always goes
        # Never less than the loss window (RFC 5681 section 3.1): with nothing under way, what is
        # lost would wait for the retransmission timer.
        return max(pipe + max(count, 0), mss)
