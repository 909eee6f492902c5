"""Our ends of relayed sessions: each is kept known to its relay server, and seen to be so.

A bind frame (wire/relay.py) tells the relay where our end is, and keeps the mappings of NATs; its
answer shows that the relay lives. It is sent again at intervals, at once when we have moved, and
when a path to the peer is suspected: then it tells within half a second whether it is the relay
that is silent. A session that another one replaces is kept for as long as data goes by it, so that
a change of relays loses nothing.

Sans-I/O.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.base.timers import TimerQueue
from ntmpatch.wire.relay import bind_frame, data_header, decode_bind_untrusted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.base.drops import DropCounter
    from ntmpatch.signalling.effects import RelayRoute

BIND_INTERVAL = 15.0
"""Seconds between bindings, so that NATs and the relay keep them."""
BIND_WAITS = (0.1, 0.3, 0.9, 0.5)
"""Seconds that each bind frame of a series has to be answered; after the last the relay counts as
dead. They follow each other quickly at first: nothing can be sent before one has arrived."""
CHECK_WAITS = (1.0, 1.0, 2.0)
"""The same where a path is suspected, in units of a wait for this very relay."""
WAIT_RTTS = 2.0
MIN_WAIT = 0.1
MAX_WAIT = 0.3
"""That wait: so many round trips to the relay, and its bounds in seconds."""
RETIREMENT = 10.0
"""Seconds after which a replaced session is given up, unless data still goes by it."""
MAX_SESSIONS = 6
"""Of one peer, those that were replaced among them."""
MAX_PENDING = 8


class RelayedEndpoint(NamedTuple):
    """A peer behind a relay server: its session there, and how its frames begin."""

    relay: Endpoint
    header: bytes

    def __str__(self) -> str:
        return f"relay {self.relay}"


class RelayFailed(NamedTuple):
    """A relay server does not answer; ``in_use``: the peer's data goes through it."""

    public_key: bytes
    relay_key: bytes
    in_use: bool


class Released(NamedTuple):
    """A session was given up: ``replaced`` by another one, or its tunnel is idle."""

    public_key: bytes
    path: RelayedEndpoint
    relay_key: bytes
    replaced: bool


class _Alarm(enum.Enum):
    BIND = 1
    RETIRE = 2


@dataclass(slots=True, eq=False)
class _Session:
    """One end of a relayed session."""

    public_key: bytes
    route: RelayRoute
    path: RelayedEndpoint
    counter: int = 0
    pending: dict[int, float] = field(default_factory=dict)
    """Counters of bind frames without an answer yet, and when they were sent."""
    waits: Sequence[float] = ()
    """Of the series under way; empty between two."""
    attempt: int = 0
    rtt: float | None = None
    is_bound: bool = False
    """Whether the last series was answered."""
    is_replaced: bool = False
    is_elsewhere: bool = False
    """The same session has been bound at another address of its relay since: a bind frame of this
    one would take it back."""


class RelayBindings:
    """The relayed sessions of all peers.

    ``is_used(public_key, path)``: whether the peer's data goes by this path.
    ``is_active(public_key)``: whether its tunnel has carried something lately; a session that
    neither is used nor would be needed soon is given up.
    """

    def __init__(
        self,
        *,
        is_used: Callable[[bytes, RelayedEndpoint], bool],
        is_active: Callable[[bytes], bool],
        drops: DropCounter,
    ) -> None:
        self._is_used = is_used
        self._is_active = is_active
        self._drops = drops
        self._sessions: dict[RelayedEndpoint, _Session] = {}
        self._of: dict[bytes, list[_Session]] = {}
        """Those of each peer, the newest last."""
        self._timers: TimerQueue[tuple[_Session, _Alarm]] = TimerQueue()
        self._transmits: deque[tuple[Endpoint, bytes]] = deque()
        self._events: deque[RelayFailed | Released] = deque()

    # --- what the runtime says ---------------------------------------------------------------

    def take(
        self, public_key: bytes, route: RelayRoute, relay: Endpoint, now: float
    ) -> RelayedEndpoint:
        """Bind our end of a session with this peer, at the relay server's endpoint ``relay``.

        The session that was the peer's before is replaced; it may be the same one, at another
        address of its relay. The path through the relay.
        """
        path = RelayedEndpoint(relay, data_header(route.session_id))
        same = self._sessions.get(path)
        if same is not None:
            if same.route == route and same.public_key == public_key and not same.is_replaced:
                return path
            self._remove(same)
        for before in self._of.get(public_key, ()):
            if not before.is_replaced:
                before.is_replaced = True
                before.is_elsewhere = before.route == route
                self._timers.arm((before, _Alarm.RETIRE), now + RETIREMENT)
        session = _Session(public_key, route, path)
        self._sessions[path] = session
        self._of.setdefault(public_key, []).append(session)
        self._make_room(public_key)
        self._begin(session, BIND_WAITS, now)
        return path

    def _make_room(self, public_key: bytes) -> None:
        """Release the oldest that were replaced; directions may have come many at a time."""
        of_peer = self._of[public_key]
        if len(of_peer) > MAX_SESSIONS:
            self._release(next(s for s in of_peer if not self._is_used(public_key, s.path)))

    def forget(self, public_key: bytes) -> None:
        """The peer is gone."""
        for session in list(self._of.get(public_key, ())):
            self._remove(session)

    def refresh(self, now: float) -> None:
        """We are elsewhere: no relay server knows where."""
        for session in self._sessions.values():
            session.pending.clear()  # what is answered now was asked by who we were
            if not session.is_elsewhere:
                self._begin(session, BIND_WAITS, now)

    def check(self, public_key: bytes, now: float) -> None:
        """A path to the peer is suspected: does its relay answer?

        If it is a NAT that forgot us, this is its repair as well.
        """
        for session in self._of.get(public_key, ()):
            if not session.waits and not session.is_elsewhere:
                wait = min(max(WAIT_RTTS * (session.rtt or 0.0), MIN_WAIT), MAX_WAIT)
                self._begin(session, tuple(wait * each for each in CHECK_WAITS), now)

    def receive(self, frame: bytes | memoryview, source: Endpoint, now: float) -> None:
        """A frame that carries no data: the answer to a bind frame of ours, or a drop."""
        try:
            bound = decode_bind_untrusted(frame)
        except UntrustedError as error:
            self._drops.drop(error.drop)
            return
        session = self._sessions.get(RelayedEndpoint(source, data_header(bound.session_id)))
        if session is None:
            self._drops.drop(Drop.RELAY_UNKNOWN_SESSION)
        elif not bound.bound:
            self._drops.drop(Drop.RELAY_UNKNOWN_FRAME)
        elif bound.side != session.route.side or not bound.is_genuine(session.route.capability):
            self._drops.drop(Drop.RELAY_BAD_CAPABILITY)
        elif (sent_at := session.pending.pop(bound.counter, None)) is None:
            self._drops.drop(Drop.RELAY_REPLAYED_BIND)
        else:
            self._bound(session, now - sent_at, now)

    # --- what the runtime asks ---------------------------------------------------------------

    def accepts(self, path: RelayedEndpoint) -> bool:
        """Whether data frames of that session, from that relay, are for us."""
        return path in self._sessions

    def path(self, public_key: bytes) -> RelayedEndpoint | None:
        """The peer's path through the relay that it was directed to last, while there is one."""
        session = self._kept(public_key)
        return session.path if session is not None else None

    def route(self, public_key: bytes) -> RelayRoute | None:
        """The session of that path, which its relay has at other addresses as well."""
        session = self._kept(public_key)
        return session.route if session is not None else None

    def _kept(self, public_key: bytes) -> _Session | None:
        kept = [each for each in self._of.get(public_key, ()) if not each.is_replaced]
        return kept[-1] if kept else None

    def replaced(self, public_key: bytes) -> list[RelayedEndpoint]:
        """The paths of the peer that are to be left."""
        return [each.path for each in self._of.get(public_key, ()) if each.is_replaced]

    def poll_transmit(self) -> tuple[Endpoint, bytes] | None:
        """The next datagram, and where to."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> RelayFailed | Released | None:
        """The next thing to know."""
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        """When ``handle_timeout`` wants to be called."""
        return self._timers.earliest()

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        for session, alarm in self._timers.pop_due(now):
            if self._sessions.get(session.path) is not session:
                continue
            if alarm is _Alarm.RETIRE:
                self._retire(session, now)
            elif session.is_elsewhere:
                continue
            elif session.waits:
                self._repeat(session, now)
            elif self._is_needed(session):
                self._begin(session, BIND_WAITS, now)
            else:
                self._release(session)

    def describe(self, public_key: bytes) -> list[dict[str, object]]:
        """The sessions of a peer, for status output: times in milliseconds."""
        return [
            {
                "relay": str(session.path.relay),
                "bound": session.is_bound,
                "replaced": session.is_replaced,
                "round_trip_ms": None if session.rtt is None else round(1000 * session.rtt, 3),
            }
            for session in self._of.get(public_key, ())
        ]

    # --- binding -----------------------------------------------------------------------------

    def _begin(self, session: _Session, waits: Sequence[float], now: float) -> None:
        """Bind until there is an answer, or all ``waits`` are over."""
        session.waits = waits
        session.attempt = 0
        self._send(session, now)

    def _send(self, session: _Session, now: float) -> None:
        # The relay takes none that is not greater than the last, nor does it matter by how much.
        session.counter = max(session.counter + 1, int(now * 1e9))
        while len(session.pending) >= MAX_PENDING:
            del session.pending[next(iter(session.pending))]
        session.pending[session.counter] = now
        route = session.route
        frame = bind_frame(route.session_id, route.side, route.capability, session.counter)
        self._transmits.append((session.path.relay, frame))
        self._timers.arm((session, _Alarm.BIND), now + session.waits[session.attempt])

    def _repeat(self, session: _Session, now: float) -> None:
        session.attempt += 1
        if session.attempt < len(session.waits):
            self._send(session, now)
            return
        session.waits = ()
        session.is_bound = False
        self._timers.arm((session, _Alarm.BIND), now + BIND_INTERVAL)
        if not session.is_replaced:
            in_use = self._is_used(session.public_key, session.path)
            self._events.append(RelayFailed(session.public_key, session.route.relay_key, in_use))
        elif not self._is_used(session.public_key, session.path):
            self._release(session)

    def _bound(self, session: _Session, sample: float, now: float) -> None:
        session.is_bound = True
        session.waits = ()
        session.rtt = sample if session.rtt is None else session.rtt + (sample - session.rtt) / 4
        self._timers.arm((session, _Alarm.BIND), now + BIND_INTERVAL)

    # --- the end -----------------------------------------------------------------------------

    def _is_needed(self, session: _Session) -> bool:
        return self._is_used(session.public_key, session.path) or self._is_active(
            session.public_key
        )

    def _retire(self, session: _Session, now: float) -> None:
        """What the far end still sent in it has arrived; unless nothing else is proven yet."""
        if self._is_used(session.public_key, session.path):
            self._timers.arm((session, _Alarm.RETIRE), now + RETIREMENT)
        else:
            self._release(session)

    def _release(self, session: _Session) -> None:
        self._remove(session)
        self._events.append(
            Released(session.public_key, session.path, session.route.relay_key, session.is_replaced)
        )

    def _remove(self, session: _Session) -> None:
        del self._sessions[session.path]
        of_peer = self._of[session.public_key]
        of_peer.remove(session)
        if not of_peer:
            del self._of[session.public_key]
        for alarm in _Alarm:
            self._timers.cancel((session, alarm))
