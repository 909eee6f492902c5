"""Paths to peers: which of them work, and which one carries the data.

A path is proven by a challenge that comes back. The best proven one is used; a peer that moves is
followed at once, but for no longer than a probe takes, and with no more than three times what came
from there, unless it answers (RFC 9000, sections 8 and 9). A path that is silent under data is
suspected within a few round trips, and all others are tried. Two nodes that are directed to each
other through a relay challenge each other's endpoints at the same time, which opens most NATs
(RFC 8445 does the same); who calls is told by the keys, not negotiated.

Sans-I/O. ``P`` is a path: opaque here but for equality, and for whether a relay is in it.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.base.timers import TimerQueue
from ntmpatch.wire.paths import (
    CHALLENGE,
    IDENTIFIER_SIZE,
    PADDED_SIZE,
    RESPONSE,
    USED,
    PathMessage,
    decode_path_message_untrusted,
    encode_path_message,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ntmpatch.base.drops import DropCounter
    from ntmpatch.packet.tunnel.peer import Peer

P = TypeVar("P")

PUNCH_INTERVALS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between challenges of a path that has never answered. Both ends have been told of each
other within a second; the NATs of both have to have seen something leave."""
DEFAULT_RTT = 0.1
"""Seconds, of a path that was never measured."""
MIN_RTT = 0.02
MAX_RTT = 0.5
"""Bounds of what probes are timed by: a smaller one would only burden the machine."""
SUSPECT_RTTS = 2.5
"""Round trips without an answer to data after which a path is suspected."""
MAX_PATIENCE = 1.0
"""Seconds; where the far end has nothing to say, suspicion was wrong, and comes later next time."""
GRACE_RTTS = 1.25
"""Round trips that the path in use has to answer before another one that answered is taken."""
UNREACHABLE_AFTER = 0.8
"""Seconds of vain probes of all paths until Unreachable is told, the first time."""
MAX_UNREACHABLE_INTERVAL = 8.0
MIN_TRIAL = 0.3
"""Seconds that a peer has to prove where it was followed to, at least."""
FIRST_BAN = 5.0
MAX_BAN = 300.0
"""Seconds in which a place that was not proven is not followed to; doubled each time."""
DWELL_TIME = 5.0
"""Seconds between two changes for the sake of a shorter round trip."""
BETTER_SHARE = 0.75
BETTER_BY = 0.005
"""Hysteresis: a path of the same kind has to be that much faster than the one in use."""
MAX_WAYS = 12
"""Paths of one peer that are kept in mind."""
MAX_PENDING = 8


class PathChanged(NamedTuple):
    """Data goes another way. ``abrupt``: what was under way on the old one is taken for lost."""

    public_key: bytes
    abrupt: bool


class Unreachable(NamedTuple):
    """No path to the peer answers, and something is to be sent to it."""

    public_key: bytes


class Suspected(NamedTuple):
    """The path in use does not answer, or we have moved: all are challenged."""

    public_key: bytes


class _Alarm(enum.Enum):
    PROBE = 1
    WATCH = 2
    SETTLE = 3
    TRIAL = 4
    HELP = 5


@dataclass(slots=True, eq=False)
class _Way(Generic[P]):
    """A path of one peer, as far as it is known."""

    path: P
    relayed: bool
    proven: bool = False
    leaving: bool = False
    """It works, and will not for long: any other that is proven is better."""
    rtt: float | None = None
    pending: dict[bytes, float] = field(default_factory=dict)
    """Challenges on their way, and when they were sent."""
    intervals: Sequence[float] = ()
    attempt: int = 0
    ban: float = 0.0
    banned_until: float = float("-inf")

    def timing(self) -> float:
        """The round trip to count with."""
        return min(max(self.rtt or DEFAULT_RTT, MIN_RTT), MAX_RTT)


@dataclass(slots=True, eq=False)
class _Peer(Generic[P]):
    """A peer and its paths."""

    peer: Peer[P]
    controlling: bool
    """Of two ends that both could choose among like paths, whether this one does."""
    ways: dict[P, _Way[P]] = field(default_factory=dict)
    suspected: bool = False
    false_alarms: int = 0
    trial_before: P | None = None
    """Where the peer was before it was followed to where it is yet to be proven."""
    on_trial: bool = False
    changed_at: float = float("-inf")
    help_interval: float = UNREACHABLE_AFTER

    @property
    def current(self) -> _Way[P] | None:
        """The path in use."""
        return None if self.peer.endpoint is None else self.ways.get(self.peer.endpoint)


class PathManager(Generic[P]):
    """The paths of all peers that were given to `watch`; it alone sets their endpoints."""

    def __init__(
        self,
        own_key: bytes,
        *,
        is_relayed: Callable[[P], bool],
        entropy: Callable[[int], bytes],
        drops: DropCounter,
    ) -> None:
        self._own_key = own_key
        self._is_relayed = is_relayed
        self._entropy = entropy
        self._drops = drops
        self._peers: dict[bytes, _Peer[P]] = {}
        self._timers: TimerQueue[tuple[_Peer[P], _Alarm, _Way[P] | None]] = TimerQueue()
        self._events: deque[PathChanged | Suspected | Unreachable] = deque()

    # --- what the runtime says ---------------------------------------------------------------

    def watch(
        self, peer: Peer[P], paths: Sequence[P], now: float, *, leaving: Sequence[P] = ()
    ) -> None:
        """Take charge of a peer, or learn of more paths to it, likely ones first.

        Data stays on one of ``leaving`` only until another is proven.
        """
        known = self._peers.get(peer.public_key)
        if known is None or known.peer is not peer:
            known = _Peer(peer, controlling=self._own_key > peer.public_key)
            self._peers[peer.public_key] = known
            peer.roams = False
        fresh = [way for path in paths if (way := self._add(known, path)) is not None]
        if peer.endpoint is None and paths:
            peer.endpoint = paths[0]
        elif peer.endpoint is not None:
            self._add(known, peer.endpoint)
        for way in known.ways.values():
            way.leaving = way.path in leaving
        self._leave(known, now)
        current = known.current
        if paths and (known.suspected or current is None or not current.proven):
            # Nothing is known to work: the tunnel request goes where the direction says.
            self._use(known, known.ways[paths[0]], now, abrupt=False, tell=False)
        for way in fresh if peer.current is not None else ():
            self._probe(known, way, PUNCH_INTERVALS, now)

    def forget(self, public_key: bytes) -> None:
        """The peer is gone."""
        known = self._peers.pop(public_key, None)
        if known is None:
            return
        for alarm in _Alarm:
            self._timers.cancel((known, alarm, None))
        for way in known.ways.values():
            self._timers.cancel((known, _Alarm.PROBE, way))

    def gone(self, public_key: bytes, path: P) -> None:
        """A path leads nowhere from now on; `watch` says next what there is instead."""
        known = self._peers.get(public_key)
        way = None if known is None else known.ways.pop(path, None)
        if known is None or way is None:
            return
        self._timers.cancel((known, _Alarm.PROBE, way))
        if known.trial_before == path:
            known.trial_before = None
        if known.peer.endpoint == path:
            self._end_trial(known)
            known.peer.endpoint = None

    def established(self, peer: Peer[P], now: float) -> None:
        """A handshake has succeeded: the way that its last message came works in both directions.

        All others are tried, those that never worked as well: NATs may have changed since.
        """
        known = self._peers.get(peer.public_key)
        if known is None or peer.newest_from is None:
            return
        way = self._add(known, peer.newest_from) or known.ways.get(peer.newest_from)
        if way is not None and not way.proven:
            self._proven(known, way, now)
        for other in known.ways.values():
            if not other.proven:
                self._probe(known, other, PUNCH_INTERVALS, now)

    def elsewhere(self, peer: Peer[P], path: P, size: int, now: float) -> None:
        """The peer's newest data, ``size`` bytes, came by ``path``, which is not its endpoint."""
        known = self._peers.get(peer.public_key)
        if known is not None and path == peer.newest_from != peer.endpoint:
            self._follow(known, path, size, now, told=False)

    def waiting(self, peer: Peer[P], now: float) -> None:
        """Data was sent, and nothing has been heard since."""
        known = self._peers.get(peer.public_key)
        if known is not None:
            peer.is_watched = True
            self._timers.arm((known, _Alarm.WATCH, None), now + self._patience(known))

    def message(self, peer: Peer[P], payload: bytes | memoryview, path: P, now: float) -> None:
        """A challenge or an answer came by ``path``."""
        known = self._peers.get(peer.public_key)
        try:
            message = decode_path_message_untrusted(payload)
        except UntrustedError as error:
            self._drops.drop(error.drop)
            return
        if known is None:
            self._drops.drop(Drop.PATH_UNASKED)
        elif message.kind == RESPONSE:
            self._answered(known, message, path, now)
        else:
            self._challenged(known, message, path, len(payload), now)

    def network_changed(self, now: float) -> None:
        """This node is elsewhere: nothing that was proven is, and every peer has to follow."""
        for known in self._peers.values():
            known.false_alarms = 0
            self._end_trial(known)
            for way in known.ways.values():
                way.proven = False
                way.pending.clear()
                way.banned_until = now
            self._try_all(known, now, used=True)

    # --- what the runtime asks ---------------------------------------------------------------

    def poll_event(self) -> PathChanged | Suspected | Unreachable | None:
        """The next thing to know."""
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        """When ``handle_timeout`` wants to be called."""
        return self._timers.earliest()

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        for known, alarm, way in self._timers.pop_due(now):
            match alarm:
                case _Alarm.PROBE:
                    assert way is not None
                    self._probe_again(known, way, now)
                case _Alarm.WATCH:
                    self._look(known, now)
                case _Alarm.SETTLE:
                    self._settle(known, now)
                case _Alarm.TRIAL:
                    self._acquit_or_return(known, now)
                case _Alarm.HELP:
                    self._ask_for_help(known, now)

    def describe(self, public_key: bytes) -> list[dict[str, object]]:
        """The paths of a peer, for status output: times in milliseconds."""
        known = self._peers.get(public_key)
        return [
            {
                "path": str(way.path),
                "relayed": way.relayed,
                "proven": way.proven,
                "in_use": known is not None and way is known.current,
                "round_trip_ms": None if way.rtt is None else round(1000 * way.rtt, 3),
            }
            for way in (known.ways.values() if known is not None else ())
        ]

    # --- probing -----------------------------------------------------------------------------

    def _add(self, known: _Peer[P], path: P) -> _Way[P] | None:
        """A path that was not known; None if it was, or if there are too many."""
        if path in known.ways:
            return None
        if len(known.ways) >= MAX_WAYS and not self._make_room(known):
            self._drops.drop(Drop.PATH_TOO_MANY)
            return None
        way = known.ways[path] = _Way(path, self._is_relayed(path))
        return way

    def _make_room(self, known: _Peer[P]) -> bool:
        """Forget the oldest path that does not work."""
        for path, way in known.ways.items():
            if not way.proven and way is not known.current and path != known.trial_before:
                self._timers.cancel((known, _Alarm.PROBE, way))
                del known.ways[path]
                return True
        return False

    def _challenge(self, known: _Peer[P], way: _Way[P], now: float, *, used: bool = False) -> None:
        identifier = self._entropy(IDENTIFIER_SIZE)
        message = PathMessage(CHALLENGE, USED if used else 0, identifier)
        if known.peer.send_by(way.path, encode_path_message(message, padded=used), now):
            while len(way.pending) >= MAX_PENDING:
                del way.pending[next(iter(way.pending))]
            way.pending[identifier] = now

    def _probe(
        self,
        known: _Peer[P],
        way: _Way[P],
        intervals: Sequence[float],
        now: float,
        *,
        used: bool = False,
    ) -> None:
        """Challenge a path until it answers, or ``intervals`` are over."""
        way.intervals = intervals
        way.attempt = 0
        way.pending.clear()
        self._challenge(known, way, now, used=used)
        self._timers.arm((known, _Alarm.PROBE, way), now + intervals[0])

    def _probe_again(self, known: _Peer[P], way: _Way[P], now: float) -> None:
        way.attempt += 1
        if way.attempt >= len(way.intervals):
            way.proven = False
            return
        self._challenge(known, way, now, used=way is known.current and not known.on_trial)
        self._timers.arm((known, _Alarm.PROBE, way), now + way.intervals[way.attempt])

    def _challenged(
        self, known: _Peer[P], message: PathMessage, path: P, size: int, now: float
    ) -> None:
        answer = encode_path_message(PathMessage(RESPONSE, 0, message.identifier))
        known.peer.send_by(path, answer, now)
        self._add(known, path)
        way = known.ways.get(path)
        if way is None:
            return
        if not way.proven and self._timers.due_at((known, _Alarm.PROBE, way)) is None:
            self._probe(known, way, PUNCH_INTERVALS, now)  # what reaches us may be reached now
        if message.flags & USED and path == known.peer.newest_from != known.peer.endpoint:
            self._follow(known, path, size, now, told=True)

    def _answered(self, known: _Peer[P], message: PathMessage, path: P, now: float) -> None:
        way = known.ways.get(path)
        sent_at = None if way is None else way.pending.get(message.identifier)
        if way is None or sent_at is None:
            self._drops.drop(Drop.PATH_UNASKED)
            return
        sample = now - sent_at
        way.rtt = sample if way.rtt is None else way.rtt + (sample - way.rtt) / 4
        self._proven(known, way, now)

    def _proven(self, known: _Peer[P], way: _Way[P], now: float) -> None:
        way.proven = True
        way.pending.clear()
        way.ban = 0.0
        self._timers.cancel((known, _Alarm.PROBE, way))
        self._timers.cancel((known, _Alarm.HELP, None))
        known.help_interval = UNREACHABLE_AFTER
        current = known.current
        if way is current:
            if known.on_trial:
                self._end_trial(known)
            if known.suspected:
                known.suspected = False
                known.false_alarms += 1
            self._watch_again(known, now)
        elif current is None:
            self._use(known, way, now, abrupt=True)
        elif known.on_trial:
            pass  # it will be decided when the trial ends
        elif known.suspected or not current.proven:
            self._settle_later(known, now)
        elif self._is_better(known, way, current, now):
            self._use(known, way, now, abrupt=False)

    def _is_better(self, known: _Peer[P], way: _Way[P], current: _Way[P], now: float) -> bool:
        if way.leaving != current.leaving:
            return current.leaving
        if way.relayed != current.relayed:
            return current.relayed
        if not known.controlling or now - known.changed_at < DWELL_TIME:
            return False
        if way.rtt is None or current.rtt is None:
            return False
        return way.rtt < BETTER_SHARE * current.rtt - BETTER_BY

    # --- silence -----------------------------------------------------------------------------

    def _patience(self, known: _Peer[P]) -> float:
        current = known.current
        rtt = DEFAULT_RTT if current is None else current.timing()
        return float(min(SUSPECT_RTTS * rtt * 2 ** min(known.false_alarms, 6), MAX_PATIENCE))

    def _watch_again(self, known: _Peer[P], now: float) -> None:
        self._timers.cancel((known, _Alarm.SETTLE, None))
        if known.peer.waiting_since is None:
            self._timers.cancel((known, _Alarm.WATCH, None))
            known.peer.is_watched = False
        else:
            self._timers.arm((known, _Alarm.WATCH, None), now + self._patience(known))

    def _look(self, known: _Peer[P], now: float) -> None:
        """Has the peer answered what was sent?"""
        since = known.peer.waiting_since
        if since is None:
            known.peer.is_watched = False
            known.false_alarms = 0
            return
        due_at = since + self._patience(known)
        if now < due_at:
            self._timers.arm((known, _Alarm.WATCH, None), due_at)
        elif known.peer.current is None:
            known.peer.is_watched = False  # the handshake under way is the probe
        else:
            self._try_all(known, now)

    def _try_all(self, known: _Peer[P], now: float, *, used: bool = False) -> None:
        """Challenge every path; the one in use may yet answer."""
        known.suspected = True
        self._events.append(Suspected(known.peer.public_key))
        current = known.current
        for way in list(known.ways.values()):
            rtt = way.timing()
            intervals = (rtt, rtt, 2 * rtt, 4 * rtt, 8 * rtt)
            self._probe(known, way, intervals, now, used=used and way is current)
        if self._timers.due_at((known, _Alarm.HELP, None)) is None:
            self._timers.arm((known, _Alarm.HELP, None), now + known.help_interval)

    def _ask_for_help(self, known: _Peer[P], now: float) -> None:
        if not known.suspected or known.peer.waiting_since is None:
            known.peer.is_watched = False
            return
        self._events.append(Unreachable(known.peer.public_key))
        known.help_interval = min(2 * known.help_interval, MAX_UNREACHABLE_INTERVAL)
        self._try_all(known, now)

    def _settle_later(self, known: _Peer[P], now: float) -> None:
        """Another path has answered; the one in use is given what it needs to."""
        current = known.current
        asked_at = min(current.pending.values(), default=now) if current is not None else now
        grace = GRACE_RTTS * (current.timing() if current is not None else 0.0)
        if now >= asked_at + grace:
            self._settle(known, now)
        elif self._timers.due_at((known, _Alarm.SETTLE, None)) is None:
            self._timers.arm((known, _Alarm.SETTLE, None), asked_at + grace)

    def _settle(self, known: _Peer[P], now: float) -> None:
        """The path in use has not answered: take the best of those that have."""
        current = known.current
        proven = [way for way in known.ways.values() if way.proven and way is not current]
        if not proven or not (known.suspected or current is None or not current.proven):
            return
        if current is not None:
            current.proven = False
        self._use(known, _best(proven), now, abrupt=True)

    def _leave(self, known: _Peer[P], now: float) -> None:
        """If the path in use is to be left, and there is another already, go there."""
        current = known.current
        others = [way for way in known.ways.values() if way.proven and not way.leaving]
        if others and current is not None and current.leaving:
            self._use(known, _best(others), now, abrupt=False)

    # --- changing ----------------------------------------------------------------------------

    def _use(
        self, known: _Peer[P], way: _Way[P], now: float, *, abrupt: bool, tell: bool = True
    ) -> None:
        """Send data by ``way`` from now on, and let the peer know."""
        if way.path == known.peer.endpoint:
            return
        self._end_trial(known)
        known.peer.endpoint = way.path
        known.changed_at = now
        if tell:
            known.suspected = False
            known.false_alarms = 0
            self._challenge(known, way, now, used=True)
            self._watch_again(known, now)
            self._events.append(PathChanged(known.peer.public_key, abrupt))

    def _follow(self, known: _Peer[P], path: P, size: int, now: float, *, told: bool) -> None:
        """The peer sends by ``path``: do so as well, on trial if it has not been proven."""
        self._add(known, path)
        way, current = known.ways.get(path), known.current
        if way is None or now < way.banned_until:
            return
        is_upgrade = current is not None and (
            (current.leaving and not way.leaving) or (current.relayed and not way.relayed)
        )
        old_works = current is not None and current.proven and not known.suspected
        changed = PathChanged(known.peer.public_key, not (is_upgrade and old_works))
        if way.proven:
            if told or not known.controlling or known.suspected or is_upgrade:
                self._end_trial(known)
                known.peer.endpoint = path
                known.changed_at = now
                self._events.append(changed)
            return
        if not known.on_trial:
            known.trial_before = known.peer.endpoint
            known.on_trial = True
        known.peer.endpoint = path
        known.peer.budget = 3 * (PADDED_SIZE if told and size >= PADDED_SIZE else size)
        known.changed_at = now
        trial = max(4 * way.timing(), MIN_TRIAL)
        self._probe(known, way, (trial / 6, trial / 3, trial / 2), now)
        self._timers.arm((known, _Alarm.TRIAL, None), now + trial)
        self._events.append(changed)

    def _end_trial(self, known: _Peer[P]) -> None:
        known.on_trial = False
        known.trial_before = None
        known.peer.budget = None
        self._timers.cancel((known, _Alarm.TRIAL, None))

    def _acquit_or_return(self, known: _Peer[P], now: float) -> None:
        """Where the peer was followed to, it has not answered: it is where it was."""
        way, before = known.current, known.trial_before
        self._end_trial(known)
        if way is None or way.proven:
            return
        way.ban = min(max(2 * way.ban, FIRST_BAN), MAX_BAN)
        way.banned_until = now + way.ban
        if before is not None:
            known.peer.endpoint = before
            self._events.append(PathChanged(known.peer.public_key, abrupt=True))
        self._try_all(known, now)


def _best(ways: Sequence[_Way[P]]) -> _Way[P]:
    """The one to use of several that are proven."""
    return min(ways, key=lambda way: (way.leaving, way.relayed, way.timing()))
