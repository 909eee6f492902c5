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

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.base.timers import TimerQueue
from ntmpatch.handover import pace
from ntmpatch.handover.candidates import Candidates, reachable
from ntmpatch.handover.guessing import PortGuessing
from ntmpatch.handover.probing import Prober
from ntmpatch.handover.ways import (
    UNREACHABLE_AFTER,
    Alarm,
    PathChanged,
    PathEvent,
    PathLost,
    PeerPaths,
    Suspected,
    Unreachable,
    Way,
)
from ntmpatch.wire import paths as wire
from ntmpatch.wire.paths import PathMessage, decode_path_message_untrusted, encode_path_message

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.base.drops import DropCounter
    from ntmpatch.handover.ways import Ends
    from ntmpatch.packet.tunnel.peer import Peer
    from ntmpatch.wire.paths import Candidate

P = TypeVar("P")


class PathManager(Generic[P]):
    """The paths of all peers that were given to `watch`; it alone sets their endpoints."""

    def __init__(
        self,
        own_key: bytes,
        *,
        ends: Ends[P],
        entropy: Callable[[int], bytes],
        drops: DropCounter,
        keeps_warm: bool = False,
        open_ports: Callable[[Endpoint, int], list[P]] = lambda _endpoint, _count: [],
        close_ports: Callable[[Collection[P]], None] = lambda _paths: None,
    ) -> None:
        """``keeps_warm``: paths by other networks than the preferred one are proven beforehand."""
        self._own_key = own_key
        self._drops = drops
        self._keeps_warm = keeps_warm
        self._peers: dict[bytes, PeerPaths[P]] = {}
        self._timers: TimerQueue[tuple[PeerPaths[P], Alarm, Way[P] | None]] = TimerQueue()
        self._events: deque[PathEvent[P]] = deque()
        self._close_ports = close_ports
        self._prober: Prober[P] = Prober(
            *(self._timers, ends, entropy, drops), keeps_warm=keeps_warm, close_ports=close_ports
        )
        self._candidates: Candidates[P] = Candidates(self._timers, entropy, drops)
        self._guessing: PortGuessing[P] = PortGuessing(
            self._timers, entropy, ends.paths_to, open_ports, close_ports
        )

    # --- what the runtime says ---------------------------------------------------------------

    def watch(
        self,
        peer: Peer[P],
        paths: Sequence[P],
        now: float,
        endpoints: Iterable[Endpoint] = (),
        *,
        leaving: Sequence[P] = (),
    ) -> None:
        """Take charge of a peer, or learn of more paths to it, likely ones first.

        ``endpoints``: where it may be, to be tried from each of our ends. Data stays on one of
        ``leaving`` only until another is proven.
        """
        known = self._peers.get(peer.public_key)
        if known is None or known.peer is not peer:
            known = PeerPaths(peer, controlling=self._own_key > peer.public_key)
            self._peers[peer.public_key] = known
            peer.roams = False
            self._timers.arm((known, Alarm.LOOK_AROUND, None), now + pace.LOOK_AROUND_INTERVAL)
        for endpoint in endpoints:
            known.remember(endpoint, known.remotes.get(endpoint, 0))
        fresh = self._prober.expand(
            known
        )  # which may make room at the cost of what was there before
        fresh += [way for path in paths if (way := self._prober.add(known, path)) is not None]
        if peer.endpoint is None and paths:
            peer.endpoint = paths[0]
        elif peer.endpoint is not None:
            self._prober.add(known, peer.endpoint)
        for way in known.ways.values():
            way.leaving = way.path in leaving
        current, other = known.current, known.other(known.suspected_at)
        if current is not None and current.leaving and other is not None and not other.leaving:
            current = other
            self._use(known, other, now, abrupt=False)
        first = known.ways.get(paths[0]) if paths else None
        if first is not None and (known.suspected or current is None or not current.proven):
            # Nothing is known to work: the tunnel request goes where the direction says.
            self._use(known, first, now, abrupt=False, tell=False)
        self._prober.punch(known, fresh, now)

    def forget(self, public_key: bytes) -> None:
        """The peer is gone."""
        known = self._peers.pop(public_key, None)
        if known is None:
            return
        self._guessing.stop(known)
        for alarm in Alarm:
            self._timers.cancel((known, alarm, None))
        for way in known.ways.values():
            self._timers.cancel((known, Alarm.PROBE, way))
        self._close_ports(list(known.ways))

    def gone(self, public_key: bytes, path: P) -> None:
        """A path leads nowhere from now on; `watch` says next what there is instead."""
        known = self._peers.get(public_key)
        if known is None or (way := known.ways.pop(path, None)) is None:
            return
        self._timers.cancel((known, Alarm.PROBE, way))
        self._close_ports([path])
        if known.trial_before == path:
            known.trial_before = None
        if known.peer.endpoint == path:
            self._end_trial(known)
            known.peer.endpoint = None

    def closed(self, is_closed: Callable[[P], bool], now: float) -> None:
        """Ends of ours are no more; data goes by the best path that is left."""
        for known in self._peers.values():
            in_use, before = known.peer.endpoint, known.current
            for path in [path for path in known.ways if is_closed(path)]:
                self.gone(known.peer.public_key, path)
            if known.peer.endpoint != in_use:
                self._prober.expand(known)
                if known.ways:
                    self._use(known, known.substitute(before), now, abrupt=True)

    def established(self, peer: Peer[P], now: float) -> None:
        """A handshake has succeeded: the way that its last message came works in both directions.

        All others are tried, those that never worked as well: NATs may have changed since.
        """
        known = self._peers.get(peer.public_key)
        if known is None or peer.newest_from is None:
            return
        way = self._prober.add(known, peer.newest_from) or known.ways.get(peer.newest_from)
        # An answer to our call proves where we called, and not where it seems to come from.
        is_called = peer.current is None or not peer.current.initiator
        if way is not None and not way.proven and (is_called or way is known.current):
            self._proven(known, way, now)
        if way is not None and way.rtt is None:  # silence is judged by how long an answer takes
            self._prober.challenge(known, way, now)
        self._prober.punch(known, known.ways.values(), now)
        self._candidates.offer(known, now)

    def elsewhere(self, peer: Peer[P], path: P, size: int, now: float) -> None:
        """The peer's newest data, ``size`` bytes, came by ``path``, which is not its endpoint."""
        known = self._peers.get(peer.public_key)
        if known is None or path != peer.newest_from or path == peer.endpoint:
            return
        # What is under way says where the peer has sent to, and not where it does.
        if not known.is_under_way(now):
            self._follow(known, path, size, now, told=False)

    def waiting(self, peer: Peer[P], now: float) -> None:
        """Data was sent, and nothing has been heard since."""
        known = self._peers.get(peer.public_key)
        if known is not None:
            peer.is_watched = True
            self._timers.arm((known, Alarm.WATCH, None), now + known.patience())

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
        elif message.kind == wire.RESPONSE:
            self._answered(known, message, path, now)
        elif message.kind == wire.CANDIDATES:
            self._told(known, message, path, now)
        else:
            self._challenged(known, message, path, len(payload), now)

    def network_changed(
        self,
        now: float,
        own: Sequence[Candidate] = (),
        is_stale: Callable[[P], bool] = lambda _path: True,
    ) -> None:
        """This node is elsewhere, where ``own`` is: what was proven by stale ends is not any more.

        Every peer that was reached by one has to follow.
        """
        self._candidates.use(own)
        for known in self._peers.values():
            known.forgive()
            for way in known.ways.values():
                way.cost = self._prober.cost(known, way.path)
                if is_stale(way.path):
                    way.proven = False
                    way.pending.clear()
                    way.banned_until = now
            fresh = self._prober.expand(known)
            if known.peer.endpoint is None and known.ways:
                self._use(known, min(known.ways.values(), key=Way.order), now, abrupt=True)
            if known.peer.endpoint is None or is_stale(known.peer.endpoint):
                self._end_trial(known)
                self._try_all(known, now, used=True)
            else:
                self._prober.punch(known, fresh, now)
            self._candidates.offer(known, now, afresh=True)

    def reachable_at(self, own: Sequence[Candidate], now: float) -> None:
        """Peers may find this node there: they are told, if it is news."""
        self._candidates.use(own)
        for known in self._peers.values():
            self._candidates.offer(known, now)

    def ends_changed(self, now: float) -> None:
        """There are more ends of ours, or others are preferred; what is proven still is."""
        for known in self._peers.values():
            for way in known.ways.values():
                way.cost = self._prober.cost(known, way.path)
            self._prober.punch(known, self._prober.expand(known), now)

    # --- what the runtime asks ---------------------------------------------------------------

    def poll_event(self) -> PathEvent[P] | None:
        """The next thing to know."""
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        """When ``handle_timeout`` wants to be called."""
        return self._timers.earliest()

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        for known, alarm, way in self._timers.pop_due(now):
            match alarm:
                case Alarm.PROBE:
                    assert way is not None
                    worked = way.proven
                    self._prober.probe_again(known, way, now)
                    if worked and not way.proven:
                        self._events.append(PathLost(known.peer.public_key, way.path))
                case Alarm.WATCH:
                    self._look(known, now)
                case Alarm.SETTLE:
                    self._settle(known, now)
                case Alarm.TRIAL:
                    self._acquit_or_return(known, now)
                case Alarm.HELP:
                    self._ask_for_help(known, now)
                case Alarm.LOOK_AROUND:
                    self._look_around(known, now)
                case Alarm.CANDIDATES:
                    self._candidates.tell_again(known, now)
                case Alarm.GUESS:
                    self._guessing.go_on(known, self._candidates.own, now)

    def is_used(self, is_such: Callable[[P], bool]) -> bool:
        """Whether data to anybody goes by such a path, and is answered."""
        return any(
            way.proven and not known.suspected and is_such(way.path)
            for known in self._peers.values()
            if (way := known.current) is not None
        )

    def works(self, is_such: Callable[[P], bool]) -> bool:
        """Whether data to anybody could go by such a path, as far as is known."""
        return any(
            way.proven and way.answered_at >= known.suspected_at and is_such(way.path)
            for known in self._peers.values()
            for way in known.ways.values()
        )

    def of(self, public_key: bytes) -> PeerPaths[P] | None:
        """A peer's paths, for status output."""
        return self._peers.get(public_key)

    # --- answers -----------------------------------------------------------------------------

    def _challenged(
        self, known: PeerPaths[P], message: PathMessage, path: P, size: int, now: float
    ) -> None:
        answer = encode_path_message(PathMessage(wire.RESPONSE, 0, message.identifier))
        known.peer.send_by(path, answer, now)
        way = self._prober.add(known, path) or known.ways.get(path)
        if way is None:
            return
        if not way.proven and self._timers.due_at((known, Alarm.PROBE, way)) is None:
            self._prober.probe(
                known, way, pace.PUNCH_INTERVALS, now
            )  # what reaches us may be reached now
        if message.flags & wire.USED and path == known.peer.endpoint:
            self._feed(known)  # followed before, for a packet too small to answer much
        elif message.flags & wire.USED and path == known.peer.newest_from:
            self._follow(known, path, size, now, told=True)
        elif known.is_lost() and known.peer.endpoint != path == known.peer.newest_from:
            # Both ends have moved, it may be, and each waits for the other's word.
            self._follow(known, path, size, now, told=False)

    def _told(self, known: PeerPaths[P], message: PathMessage, path: P, now: float) -> None:
        """The peer's candidates: both ends challenge each other's from now on."""
        is_news = self._candidates.heard(known, message, now)
        if is_news is None:
            return
        answer = encode_path_message(PathMessage(wire.RESPONSE, 0, message.identifier))
        known.peer.send_by(path, answer, now)
        if not is_news:
            return
        for candidate in reversed(reachable(message.candidates)):  # the best one is kept longest
            known.remember(candidate.endpoint, candidate.cost)
        for way in known.ways.values():
            way.cost = self._prober.cost(known, way.path)
        self._prober.expand(known)
        self._prober.punch(known, known.ways.values(), now)
        self._guessing.consider(known, self._candidates.own, now)

    def _answered(self, known: PeerPaths[P], message: PathMessage, path: P, now: float) -> None:
        if self._candidates.answered(known, message.identifier):
            self._prober.punch(known, known.ways.values(), now)
            self._guessing.consider(known, self._candidates.own, now)
            return
        way = known.ways.get(path)
        sent_at = None if way is None else way.pending.get(message.identifier)
        if way is None or sent_at is None:
            self._drops.drop(Drop.PATH_UNASKED)
            return
        sample = now - sent_at
        way.rtt = sample if way.rtt is None else way.rtt + (sample - way.rtt) / 4
        self._proven(known, way, now)

    def _proven(self, known: PeerPaths[P], way: Way[P], now: float) -> None:
        way.proven = True
        way.answered_at = now
        way.pending.clear()
        way.ban = 0.0
        way.banned_until = now
        self._timers.cancel((known, Alarm.PROBE, way))
        self._timers.cancel((known, Alarm.HELP, None))
        known.help_interval = UNREACHABLE_AFTER
        current = known.current
        if way is current:
            if known.on_trial:
                self._end_trial(known)
                self._feed(known)
            self._works_again(known, now)
            self._watch_again(known, now)
        elif current is None:
            self._use(known, way, now, abrupt=True)
        elif known.on_trial:
            pass  # it will be decided when the trial ends
        elif known.suspected or not current.proven:
            self._settle_later(known, now)
        elif known.is_better(way, current, now):
            self._use(known, way, now, abrupt=False)
        if known.suspected:
            self._call_for_help_later(known, now)

    def _works_again(self, known: PeerPaths[P], now: float) -> None:
        """The path in use is proven: if it was dead for a while, what was sent meanwhile is lost.

        Who sent it has to know, or waits for a time-out that has grown with the silence.
        """
        if known.is_untold or known.was_silent(now):
            self._events.append(PathChanged(known.peer.public_key, abrupt=True))
        elif known.suspected:
            known.false_alarms += 1
        known.is_untold = known.suspected = False

    def _look_around(self, known: PeerPaths[P], now: float) -> None:
        """While there is traffic: is anything better there by now, and does what is warm live?"""
        self._timers.arm((known, Alarm.LOOK_AROUND, None), now + pace.LOOK_AROUND_INTERVAL)
        current = known.current
        is_in_use = known.peer.rx_bytes != known.heard_bytes
        known.heard_bytes = known.peer.rx_bytes
        if not is_in_use or current is None or known.suspected or known.on_trial:
            return
        self._prober.challenge(known, current, now)  # its round trip may be another by now
        for way in list(known.ways.values()):
            is_idle = self._timers.due_at((known, Alarm.PROBE, way)) is None
            is_better = way.rank() < current.rank()
            is_warm = way.proven and (way.relayed or (self._keeps_warm and way.cost == 1))
            if way is not current and is_idle and (is_better or is_warm):
                self._prober.probe(known, way, pace.LOOK_INTERVALS, now)

    # --- silence -----------------------------------------------------------------------------

    def _watch_again(self, known: PeerPaths[P], now: float) -> None:
        self._timers.cancel((known, Alarm.SETTLE, None))
        if known.peer.waiting_since is None:
            self._timers.cancel((known, Alarm.WATCH, None))
            known.peer.is_watched = False
        else:
            self._timers.arm((known, Alarm.WATCH, None), now + known.patience())

    def _look(self, known: PeerPaths[P], now: float) -> None:
        """Has the peer answered what was sent?"""
        since = known.peer.waiting_since
        if since is None:
            known.peer.is_watched = False
            known.false_alarms = 0
            return
        due_at = since + known.patience()
        if now < due_at:
            self._timers.arm((known, Alarm.WATCH, None), due_at)
        elif known.peer.current is None:
            known.peer.is_watched = False  # the handshake under way is the probe
        else:
            self._try_all(known, now)

    def _try_all(self, known: PeerPaths[P], now: float, *, used: bool = False) -> None:
        """Challenge every path; the one in use may yet answer."""
        if not known.suspected:
            known.suspected = True
            known.suspected_at = now
        self._events.append(Suspected(known.peer.public_key))
        current = known.current
        # The one in use last: where the newest message comes from is where the peer follows to.
        for way in sorted(known.ways.values(), key=lambda way: way is current):
            rtt = way.timing()
            intervals = (rtt, rtt, 2 * rtt, 4 * rtt, 8 * rtt)
            self._prober.probe(known, way, intervals, now, used=used and way is current)
        self._call_for_help_later(known, now)

    def _call_for_help_later(self, known: PeerPaths[P], now: float) -> None:
        if self._timers.due_at((known, Alarm.HELP, None)) is None:
            self._timers.arm((known, Alarm.HELP, None), now + known.help_interval)

    def _ask_for_help(self, known: PeerPaths[P], now: float) -> None:
        if not known.suspected or known.peer.waiting_since is None:
            known.peer.is_watched = False
            return
        self._events.append(Unreachable(known.peer.public_key))
        known.help_interval = min(2 * known.help_interval, pace.MAX_UNREACHABLE_INTERVAL)
        self._try_all(known, now)

    def _settle_later(self, known: PeerPaths[P], now: float) -> None:
        """Another path has answered; the one in use is given what it needs to."""
        settles_at = known.settles_at(now)
        if now >= settles_at:
            self._settle(known, now)
        elif self._timers.due_at((known, Alarm.SETTLE, None)) is None:
            self._timers.arm((known, Alarm.SETTLE, None), settles_at)

    def _settle(self, known: PeerPaths[P], now: float) -> None:
        """The path in use has not answered: take the best of those that have."""
        current = known.current
        best = known.other(known.suspected_at if known.suspected else float("-inf"))
        if best is None or not (known.suspected or current is None or not current.proven):
            return
        if current is not None:
            current.proven = False
            known.leave(current, now)
        self._use(known, best, now, abrupt=True)

    # --- changing ----------------------------------------------------------------------------

    def _use(
        self, known: PeerPaths[P], way: Way[P], now: float, *, abrupt: bool, tell: bool = True
    ) -> None:
        """Send data by ``way`` from now on, and let the peer know."""
        if way.path == known.peer.endpoint:
            return
        self._end_trial(known)
        known.peer.endpoint = way.path
        known.changed_at = now
        known.is_untold = not tell
        if tell:
            known.suspected = False
            known.false_alarms = 0
            self._prober.challenge(known, way, now, used=True)
            self._watch_again(known, now)
            self._events.append(PathChanged(known.peer.public_key, abrupt))

    def _follow(self, known: PeerPaths[P], path: P, size: int, now: float, *, told: bool) -> None:
        """The peer sends by ``path``: do so as well, on trial if it has not been proven."""
        self._prober.add(known, path, is_used=True)
        way, current = known.ways.get(path), known.current
        if way is None or now < way.banned_until:
            return
        old_works = current is not None and current.proven and not known.suspected
        is_upgrade = current is not None and way.rank() < current.rank()
        is_like = current is None or way.rank() == current.rank()
        changed = PathChanged(known.peer.public_key, not (is_upgrade and old_works))
        if way.proven:
            # What still comes by the worse of two that work was sent before the peer had changed.
            may_follow = not old_works or is_upgrade or (is_like and not known.controlling)
            if may_follow or (told and not known.has_crossed(way, now)):
                if told and current is not None and current.rank() < way.rank():
                    known.leave(current, now)  # or else the peer would not have left it
                    if way.cost > current.cost:  # is it that network of ours, or the peer's?
                        self._prober.probe(known, current, (current.timing(),) * 3, now)
                self._end_trial(known)
                known.peer.endpoint = path
                known.changed_at = now
                known.suspected = False
                self._watch_again(known, now)
                self._events.append(changed)
            elif (
                current is not None
                and now - current.answered_at > pace.DOUBT
                and self._timers.due_at((known, Alarm.PROBE, current)) is None
            ):  # what is heard says nothing of the path that we send by
                self._prober.probe(known, current, (current.timing(),) * 3, now)
            return
        if told and known.has_crossed(way, now):
            return
        if not known.on_trial:
            known.trial_before = known.peer.endpoint
            known.on_trial = True
        known.peer.endpoint = path
        known.peer.is_starved = False
        known.peer.budget = max(3 * size, pace.MIN_BUDGET)
        known.changed_at = now
        trial = max(4 * way.timing(), pace.MIN_TRIAL)
        self._prober.probe(known, way, (trial / 6, trial / 3, trial / 2), now)
        self._timers.arm((known, Alarm.TRIAL, None), now + trial)
        self._events.append(changed)

    def _feed(self, known: PeerPaths[P]) -> None:
        """More may be sent than before: what could not be is lost like what was under way."""
        if known.peer.is_starved:
            known.peer.is_starved = False
            self._events.append(PathChanged(known.peer.public_key, abrupt=True))

    def _end_trial(self, known: PeerPaths[P]) -> None:
        known.on_trial = False
        known.trial_before = None
        known.peer.budget = None
        self._timers.cancel((known, Alarm.TRIAL, None))

    def _acquit_or_return(self, known: PeerPaths[P], now: float) -> None:
        """Where the peer was followed to, it has not answered: it is where it was."""
        way, before = known.current, known.trial_before
        self._end_trial(known)
        if way is None or way.proven:
            return
        way.ban = min(max(2 * way.ban, pace.FIRST_BAN), pace.MAX_BAN)
        way.banned_until = now + way.ban
        if before is not None:
            known.peer.endpoint = before
            self._events.append(PathChanged(known.peer.public_key, abrupt=True))
        self._try_all(known, now)
