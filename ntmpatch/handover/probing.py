"""Challenges: which ways there are to a peer, and how each is tried (RFC 9000, section 8.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from ntmpatch.base.drops import Drop
from ntmpatch.handover import pace
from ntmpatch.handover.ways import Alarm, Way
from ntmpatch.wire import paths as wire
from ntmpatch.wire.paths import PathMessage, encode_path_message

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from ntmpatch.base.drops import DropCounter
    from ntmpatch.base.timers import TimerQueue
    from ntmpatch.handover.ways import Ends, PeerPaths

P = TypeVar("P")


class Prober(Generic[P]):
    """Knows the ways to peers, and challenges them; what answers mean is the manager's to say.

    ``keeps_warm``: those by other networks than the preferred one are proven beforehand.
    """

    def __init__(
        self,
        timers: TimerQueue[tuple[PeerPaths[P], Alarm, Way[P] | None]],
        ends: Ends[P],
        entropy: Callable[[int], bytes],
        drops: DropCounter,
        *,
        keeps_warm: bool,
        close_ports: Callable[[Collection[P]], None],
    ) -> None:
        self._timers = timers
        self._close_ports = close_ports
        self._ends = ends
        self._entropy = entropy
        self._drops = drops
        self._keeps_warm = keeps_warm

    def add(self, known: PeerPaths[P], path: P, *, is_used: bool = False) -> Way[P] | None:
        """A path that was not known; None if it was, or if there are too many.

        ``is_used``: the peer sends its data there, which no path in reserve outweighs.
        """
        if path in known.ways:
            return None
        if len(known.ways) >= pace.MAX_WAYS and not self._make_room(known, is_used=is_used):
            self._drops.drop(Drop.PATH_TOO_MANY)
            return None
        way = Way(path, self._ends.is_relayed(path), self.cost(known, path))
        known.ways[path] = way
        return way

    def cost(self, known: PeerPaths[P], path: P) -> int:
        """What it costs at either end."""
        theirs = 0 if (remote := self._ends.remote(path)) is None else known.remotes.get(remote, 0)
        return max(self._ends.cost(path), theirs)

    def expand(self, known: PeerPaths[P]) -> list[Way[P]]:
        """The ways that there are now to where the peer may be, and were not known."""
        return [
            way
            for endpoint in reversed(known.remotes)
            for path in self._ends.paths_to(endpoint)
            if (way := self.add(known, path)) is not None
        ]

    def punch(self, known: PeerPaths[P], ways: Iterable[Way[P]], now: float) -> None:
        """Challenge those that are not known to work, and are wanted before they are needed."""
        if known.peer.current is None:
            return
        allowed = 1 if self._keeps_warm else 0
        for way in list(ways):
            if not way.proven and way.cost <= allowed:
                self.probe(known, way, pace.PUNCH_INTERVALS, now)

    def _make_room(self, known: PeerPaths[P], *, is_used: bool) -> bool:
        """Forget the oldest path that does not work; or one that does, and is no relay's."""
        spare = [
            way
            for way in known.ways.values()
            if way is not known.current and way.path != known.trial_before
        ]
        idle = [way for way in spare if not way.proven]
        if not idle and is_used:
            idle = [way for way in spare if not way.relayed]
        if not idle:
            return False
        self._timers.cancel((known, Alarm.PROBE, idle[0]))
        del known.ways[idle[0].path]
        self._close_ports([idle[0].path])
        return True

    def challenge(
        self, known: PeerPaths[P], way: Way[P], now: float, *, used: bool = False
    ) -> None:
        """Challenge a path once; ``used``: data goes there from now on."""
        identifier = self._entropy(wire.IDENTIFIER_SIZE)
        message = PathMessage(wire.CHALLENGE, wire.USED if used else 0, identifier)
        if known.peer.send_by(way.path, encode_path_message(message, padded=used), now):
            while len(way.pending) >= pace.MAX_PENDING:
                del way.pending[next(iter(way.pending))]
            way.pending[identifier] = now

    def probe(
        self,
        known: PeerPaths[P],
        way: Way[P],
        intervals: Sequence[float],
        now: float,
        *,
        used: bool = False,
    ) -> None:
        """Challenge a path until it answers, or ``intervals`` are over."""
        way.intervals = intervals
        way.attempt = 0
        way.pending.clear()
        self.challenge(known, way, now, used=used)
        self._timers.arm((known, Alarm.PROBE, way), now + intervals[0])

    def probe_again(self, known: PeerPaths[P], way: Way[P], now: float) -> None:
        """There was no answer in time."""
        way.attempt += 1
        if way.attempt >= len(way.intervals):
            way.proven = False
            return
        self.challenge(known, way, now, used=way is known.current and not known.on_trial)
        self._timers.arm((known, Alarm.PROBE, way), now + way.intervals[way.attempt])
