"""What is under way, and what became of it: delivered, lost, sent again, and when (RFC 6675, 8985).

The sequence space from SND.UNA to SND.NXT is kept as *runs*, in order and without gaps. A run is
what one super-segment carried, so there are few; acknowledgments and losses split them. Sequence
numbers are unwrapped integers.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from operator import attrgetter
from typing import NamedTuple

_start_of = attrgetter("start")


class Delivered(NamedTuple):
    """A part of the sequence space of which an ACK says, for the first time, that it arrived."""

    sent_at: float
    end: int
    retransmitted: bool
    size: int


class Transmission:
    """What was sent at one instant, as far as it is still under way."""

    __slots__ = ("active", "runs", "sent_at")

    def __init__(self, sent_at: float) -> None:
        self.sent_at = sent_at
        self.runs: list[Run] = []
        """May hold runs that have left; those have another ``transmission``."""
        self.active = 0
        """How many of ``runs`` have not."""


class Run:
    """A part of the sequence space that shares one fate."""

    __slots__ = ("end", "lost", "retransmitted", "sacked", "sent_at", "start", "transmission")

    def __init__(self, start: int, end: int, sent_at: float) -> None:
        self.start = start
        self.end = end
        self.sent_at = sent_at
        self.retransmitted = False
        self.sacked = False
        self.lost = False
        self.transmission: Transmission | None = None
        """None once it arrived or is lost: then it is not under way."""


class Scoreboard:
    """The runs of one connection, by sequence and by time of transmission."""

    __slots__ = ("_by_time", "_lost", "_runs", "lost_size", "sacked_size")

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._by_time: list[Transmission] = []
        self._lost: list[Run] = []
        """By sequence."""
        self.sacked_size = 0
        """Bytes above SND.UNA that the far end has."""
        self.lost_size = 0
        """Bytes that are lost and not sent again."""

    # --- sending -----------------------------------------------------------------------------

    def sent(self, start: int, end: int, now: float) -> None:
        """New data, directly behind what was sent before."""
        runs = self._runs
        if runs:
            last = runs[-1]
            carried = last.transmission
            if last.sent_at == now and carried is not None and not last.retransmitted:
                last.end = end
                return
        run = Run(start, end, now)
        runs.append(run)
        self._under_way(run, now)

    def next_lost(self) -> Run | None:
        """The first run that is lost and not sent again."""
        return self._lost[0] if self._lost else None

    def resent(self, start: int, end: int, now: float) -> None:
        """``start`` to ``end``, which lie in one run, were sent again."""
        index = bisect_right(self._runs, start, key=_start_of) - 1
        index = self._cut_out(index, start, end)
        run = self._runs[index]
        if run.lost:
            self._not_lost(run)
        else:
            self._leave(run)
        run.retransmitted = True
        run.sent_at = now
        self._under_way(run, now)

    # --- hearing -----------------------------------------------------------------------------

    def acknowledged(self, una: int) -> list[Delivered]:
        """Everything below ``una`` arrived; what of that is news."""
        runs = self._runs
        news: list[Delivered] = []
        count = 0
        for run in runs:
            if run.end > una:
                break
            count += 1
            if run.sacked:
                self.sacked_size -= run.end - run.start
                continue
            news.append(Delivered(run.sent_at, run.end, run.retransmitted, run.end - run.start))
            if run.lost:
                self._not_lost(run)
            else:
                self._leave(run)
        if count:
            del runs[:count]
        if runs and runs[0].start < una:
            run = runs[0]
            size = una - run.start
            if run.sacked:
                self.sacked_size -= size
            else:
                if run.lost:
                    self.lost_size -= size
                news.append(Delivered(run.sent_at, una, run.retransmitted, size))
            run.start = una
        return news

    def sack(self, start: int, end: int, news: list[Delivered]) -> None:
        """The far end holds ``start`` to ``end``; what of that is news is added to ``news``."""
        runs = self._runs
        index = max(0, bisect_right(runs, start, key=_start_of) - 1)
        while index < len(runs) and runs[index].start < end:
            run = runs[index]
            if run.sacked or run.end <= start:
                index += 1
                continue
            index = self._cut_out(index, max(start, run.start), min(end, run.end))
            run = runs[index]
            size = run.end - run.start
            news.append(Delivered(run.sent_at, run.end, run.retransmitted, size))
            if run.lost:
                self._not_lost(run)
            else:
                self._leave(run)
            run.sacked = True
            self.sacked_size += size
            index = self._merge_sacked(index) + 1

    # --- losing ------------------------------------------------------------------------------

    def detect(self, sent_at: float, end: int, timeout: float, now: float) -> float | None:
        """Mark as lost what was sent before (``sent_at``, ``end``) and ``timeout`` seconds ago.

        That is RACK_detect_loss (RFC 8985 section 6.2, step 5). Returns when the next of what is
        not that old would be, or None.
        """
        due_at: float | None = None
        for transmission in self._by_time:
            if transmission.sent_at > sent_at:
                break
            if not transmission.active:
                continue
            at = transmission.sent_at + timeout
            for run in transmission.runs:
                if run.transmission is not transmission or (
                    transmission.sent_at == sent_at and run.end >= end
                ):
                    continue
                if at <= now:
                    self._lose(run)
                elif due_at is None or at > due_at:
                    due_at = at
        self._trim()
        return due_at

    def lose_first(self, size: int) -> None:
        """The first ``size`` bytes that did not arrive are lost."""
        for index, run in enumerate(self._runs):
            if not run.sacked and not run.lost:
                self._cut_out(index, run.start, min(run.end, run.start + size))
                self._lose(run)
                self._trim()
                return
            if run.lost:
                return

    def lose_all(self) -> None:
        """Everything that did not arrive is lost."""
        for run in self._runs:
            if not run.sacked and not run.lost:
                self._lose(run)
        self._by_time.clear()

    def not_lost(self) -> None:
        """What was thought lost, and was not sent again, is under way after all."""
        for run in list(self._lost):
            self._not_lost(run)
            self._under_way(run, run.sent_at)
        self._by_time.sort(key=attrgetter("sent_at"))

    def renege(self) -> bool:
        """Whether the far end let go of what it had (RFC 2018 section 8): forget that it had it.

        It has what lies at SND.UNA, and does not acknowledge it.
        """
        if not self._runs or not self._runs[0].sacked:
            return False
        for run in self._runs:
            if run.sacked:
                run.sacked = False
                self._lose(run)
        self.sacked_size = 0
        return True

    # --- asking ------------------------------------------------------------------------------

    def last(self) -> Run | None:
        """The run with the highest sequence numbers."""
        return self._runs[-1] if self._runs else None

    # --- inside ------------------------------------------------------------------------------

    def _under_way(self, run: Run, sent_at: float) -> None:
        transmission = Transmission(sent_at)
        transmission.runs.append(run)
        transmission.active = 1
        run.transmission = transmission
        self._by_time.append(transmission)

    def _leave(self, run: Run) -> None:
        transmission = run.transmission
        if transmission is not None:
            transmission.active -= 1
            run.transmission = None
            self._trim()

    def _trim(self) -> None:
        by_time = self._by_time
        while by_time and not by_time[0].active:
            del by_time[0]

    def _lose(self, run: Run) -> None:
        if run.transmission is not None:
            run.transmission.active -= 1
            run.transmission = None
        run.lost = True
        self.lost_size += run.end - run.start
        insort(self._lost, run, key=_start_of)

    def _not_lost(self, run: Run) -> None:
        run.lost = False
        self.lost_size -= run.end - run.start
        self._lost.remove(run)

    def _cut_out(self, index: int, start: int, end: int) -> int:
        """Make ``start`` to ``end`` a run of its own; its index."""
        run = self._runs[index]
        if run.start < start:
            self._split(index, start)
            index += 1
            run = self._runs[index]
        if end < run.end:
            self._split(index, end)
        return index

    def _split(self, index: int, at: int) -> None:
        left = self._runs[index]
        right = Run(at, left.end, left.sent_at)
        left.end = at
        right.retransmitted = left.retransmitted
        right.sacked = left.sacked
        right.lost = left.lost
        right.transmission = left.transmission
        if right.transmission is not None:
            right.transmission.runs.append(right)
            right.transmission.active += 1
        self._runs.insert(index + 1, right)
        if right.lost:
            insort(self._lost, right, key=_start_of)

    def _merge_sacked(self, index: int) -> int:
        """Join the sacked run with sacked neighbours: they share what fate is left to them."""
        runs = self._runs
        if index + 1 < len(runs) and runs[index + 1].sacked:
            runs[index].end = runs[index + 1].end
            del runs[index + 1]
        if index and runs[index - 1].sacked:
            runs[index - 1].end = runs[index].end
            del runs[index]
            index -= 1
        return index
