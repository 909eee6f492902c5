"""One recovery: from where a loss was found, or a timer expired, to where all is well again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntmpatch.packet.stack.tcp.prr import Prr

if TYPE_CHECKING:
    from ntmpatch.packet.stack.tcp.congestion import Cubic, Saved


class Episode:
    """What the sender remembers of a recovery, of a tail probe, and of how to undo a mistake."""

    __slots__ = (
        "_saved",
        "_unneeded",
        "congestion_point",
        "duplicate_acks",
        "in_timeout",
        "is_certain",
        "must_repair",
        "point",
        "probe_end",
        "probe_resent",
        "prr",
        "reduction_due",
        "resent_stamp",
        "start",
    )

    def __init__(self) -> None:
        self.point: int | None = None
        """Recovery ends when this is acknowledged; None: there is none."""
        self.start = 0
        """SND.UNA when it began."""
        self.in_timeout = False
        """It began by the retransmission timer."""
        self.is_certain = False
        """The path is another one: what was under way is not taken for lost by mistake."""
        self.must_repair = False
        """One repair goes whatever the window says."""
        self.duplicate_acks = 0
        """Without SACK only."""
        self.congestion_point = 0
        """ECN has been answered for what was sent before this (RFC 3168 section 6.1.2)."""
        self.reduction_due = False
        """CWR is to be set on the next new data."""
        self.prr = Prr()
        self.probe_end: int | None = None
        """TLP.end_seq: a tail probe is under way (RFC 8985 section 7.2)."""
        self.probe_resent = False
        """TLP.is_retrans."""
        self.resent_stamp: int | None = None
        """TSval of the first repair (RFC 3522)."""
        self._unneeded = 0
        """Repairs that no DSACK has called superfluous yet."""
        self._saved: Saved | None = None

    @property
    def is_active(self) -> bool:
        """Whether a recovery is going on."""
        return self.point is not None

    def begin(self, una: int, nxt: int, flight: int, congestion: Cubic, *, timeout: bool) -> None:
        """A recovery begins; the first one of this trouble remembers the window."""
        if not self.is_certain and (self.point is None or self._saved is None):
            self.start = una
            self._saved = congestion.save()
            self._unneeded = 0
            self.resent_stamp = None
        self.point = nxt
        self.in_timeout = timeout
        self.must_repair = True
        self.probe_end = None
        self.prr.start(flight)

    def begin_elsewhere(self, una: int, nxt: int, congestion: Cubic) -> None:
        """All goes again by another path, and nothing undoes that until it has arrived.

        An ACK may tell of what the old path had delivered before: nothing follows for the rest.
        """
        self.begin(una, nxt, 0, congestion, timeout=True)
        self.is_certain = True
        self._saved = None

    def repaired(self, count: int, stamp: int | None) -> None:
        """``count`` segments were sent again; ``stamp`` is their TSval."""
        self.must_repair = False
        self._unneeded += count
        if self.resent_stamp is None:
            self.resent_stamp = stamp

    def duplicate_told(self, end: int) -> bool:
        """A DSACK; True if by now all repairs of this recovery were superfluous."""
        if self._saved is None or end <= self.start or not self._unneeded:
            return False
        self._unneeded -= 1
        return not self._unneeded

    def finish(self) -> None:
        """All is well; a DSACK may still tell that it was all along."""
        self.point = None
        self.in_timeout = False
        self.is_certain = False
        self.must_repair = False
        self.duplicate_acks = 0
        self.resent_stamp = None

    def undo(self, congestion: Cubic) -> None:
        """Nothing had been lost: the window goes back to what it was."""
        if self._saved is not None:
            congestion.restore(self._saved)
            self._saved = None
        self.finish()

    def forget(self) -> None:
        """The path is another one."""
        self._saved = None
        self._unneeded = 0
        self.probe_end = None
        self.finish()
