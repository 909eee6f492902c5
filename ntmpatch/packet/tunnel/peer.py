"""A peer: its sessions, its handshake, and the timers that keep both fresh.

The WireGuard paper has three sessions (section 6.3): the current one; the one before, whose packets
may still be under way; and the next one, which the responder made and may only use once the
initiator has shown, by sending with it, that it has it as well. Here the last two are short lists,
because a handshake may be tried again within a round trip (``first_retries``): whichever of the
answers arrives, its session works.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Generic, TypeVar

from ntmpatch.base.drops import Drop
from ntmpatch.crypto.noise import Initiator
from ntmpatch.packet.tunnel.constants import MAX_CALLS, MAX_RETIRED, MAX_STAGED, MAX_UNCONFIRMED
from ntmpatch.packet.tunnel.cookie import CookieHolder
from ntmpatch.packet.tunnel.events import (
    EndpointChanged,
    Established,
    Expired,
    HandshakeKeys,
    HeardElsewhere,
    Waiting,
)
from ntmpatch.wire.wireguard import INITIATION, INITIATION_LAYOUT, MIN_DATA_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.crypto.noise import SessionKeys
    from ntmpatch.packet.tunnel.session import Session
    from ntmpatch.packet.tunnel.tunnel import Tunnel

E = TypeVar("E")

LATE = 0.5
"""Seconds by which what was sent with a session may come after what was sent with the next one."""
TWINS = 5.0
"""Seconds within which two sessions came about by calls of both ends, and neither is the newer."""


class Alarm(enum.IntEnum):
    """What a peer may be waiting for."""

    RETRY_HANDSHAKE = 1
    NEW_HANDSHAKE = 2
    """We sent data and hear nothing: the session may be gone at the far end."""
    KEEPALIVE = 3
    """We heard data and said nothing: the far end must not think us gone."""
    PERSISTENT_KEEPALIVE = 4
    ERASE = 5
    HELD = 6
    """An initiation was kept for this peer and can be answered now."""
    FORGET_CALLS = 7
    """Initiations that were repeated, and have been answered since."""
    CONFIRM = 8
    """The far end has not been heard in the session that we initiated: it may not have ours."""


class Peer(Generic[E]):
    """One far end. ``endpoint`` is where it was last authenticated from, or was said to be.

    A server has one for each node, mostly idle: hence slots, and lists, which are smaller than
    deques where they are empty, and never long.
    """

    __slots__ = (
        "_attempts",
        "_call_ends_at",
        "_calls",
        "_confirmations",
        "_is_calling",
        "_persistent_keepalive_interval",
        "_retired",
        "_staged",
        "_tunnel",
        "_tx_bytes",
        "_unconfirmed",
        "budget",
        "cookies",
        "current",
        "endpoint",
        "first_retries",
        "heard_session",
        "is_starved",
        "is_watched",
        "last_handshake_at",
        "last_initiation",
        "last_initiation_at",
        "last_timestamp",
        "newest_from",
        "preshared_key",
        "public_key",
        "roams",
        "rx_bytes",
        "waiting_since",
    )

    def __init__(
        self,
        tunnel: Tunnel[E],
        public_key: bytes,
        *,
        preshared_key: bytes,
        endpoint: E | None,
        persistent_keepalive_interval: float | None,
        first_retries: Sequence[float],
    ) -> None:
        self._tunnel = tunnel
        self.public_key = public_key
        self.preshared_key = preshared_key
        self.endpoint = endpoint
        self.roams = True
        """Whether authenticated packets from elsewhere move the endpoint there. If not, somebody
        else sets it, who is told of them, and of silence (handover/paths.py)."""
        self.newest_from: E | None = None
        """Where the newest authenticated message came from."""
        self.waiting_since: float | None = None
        """When the first data was sent behind the last that was heard."""
        self.is_watched = False
        """Whether somebody looks at ``waiting_since`` in time; if not, Waiting asks for it."""
        self.budget: int | None = None
        """Bytes that may be sent to an endpoint that has not been proven; None: no matter."""
        self.is_starved = False
        """Whether something was not sent for want of ``budget``."""
        self.first_retries = tuple(first_retries)
        self.cookies = CookieHolder(public_key, lifetime=tunnel.times.cookie_lifetime)
        self.current: Session | None = None
        self.heard_session: Session | None = None
        """The one that the peer sends with: the last that it began to use."""
        self.last_timestamp = b""
        """Of the newest initiation accepted: an older one is a replay."""
        self.last_initiation: tuple[bytes, E] | None = None
        """The initiation that was answered last, and where it came from."""
        self.last_initiation_at = float("-inf")
        self.last_handshake_at: float | None = None
        self.rx_bytes = 0
        """Bytes of authentic datagrams."""
        self._retired: list[Session] = []
        """Sessions before the current one: they receive only. Newest last."""
        self._unconfirmed: list[Session] = []
        """Sessions that we made as responder and have not heard used yet. Newest last."""
        self._calls: dict[int, Initiator] = {}
        """Our initiations that may still be answered, by receiver index. Newest last."""
        self._is_calling = False
        self._call_ends_at = 0.0
        self._attempts = 0
        self._staged: list[bytes] = []
        self._confirmations = 0
        self._tx_bytes = 0
        self._persistent_keepalive_interval = persistent_keepalive_interval

    def __repr__(self) -> str:
        return f"<Peer {self.public_key[:4].hex()} at {self.endpoint}>"

    @property
    def next(self) -> Session | None:
        """The newest session that we made as responder and have not heard used yet."""
        return self._unconfirmed[-1] if self._unconfirmed else None

    @property
    def tx_bytes(self) -> int:
        """Bytes of all datagrams made for the peer, the data path's included."""
        return self._tx_bytes + sum(session.sealed_size for session in self._sessions())

    @property
    def persistent_keepalive_interval(self) -> float | None:
        """Seconds between keep-alives that hold a NAT's mapping open; None for none."""
        return self._persistent_keepalive_interval

    @persistent_keepalive_interval.setter
    def persistent_keepalive_interval(self, interval: float | None) -> None:
        self._persistent_keepalive_interval = interval
        if interval is None:
            self._tunnel.timers.cancel((self, Alarm.PERSISTENT_KEEPALIVE))

    # --- sending -----------------------------------------------------------------------

    def session(self, now: float) -> Session | None:
        """The session to seal with; None while there is none, and a handshake is under way."""
        session = self.current
        if session is None or now >= session.reject_at or session.is_exhausted:
            self.initiate(now)
            return None
        if session.is_worn or (
            session.initiator and now - session.created_at >= self._tunnel.times.rekey_after_time
        ):
            self.initiate(now)
        return session

    def send(self, plaintext: bytes, now: float) -> None:
        """Seal one inner packet and queue it, or keep it until there is a session."""
        session = self.session(now)
        if len(self._staged) >= MAX_STAGED:
            self._staged.pop(0)
            self._tunnel.drops.drop(Drop.TUNNEL_STAGED_OVERFLOW)
        self._staged.append(plaintext)
        if session is not None and self.endpoint is not None:
            self._send_staged(session, now)

    def note_sent(self, now: float) -> None:
        """Data was sealed and sent: an answer is expected, and a keep-alive is not needed."""
        if self.waiting_since is None:
            self.waiting_since = now
            if not self.is_watched and not self.roams:
                self._tunnel.report(Waiting(self))
        timers = self._tunnel.timers
        times = self._tunnel.times
        if timers.due_at((self, Alarm.NEW_HANDSHAKE)) is None:
            timers.arm(
                (self, Alarm.NEW_HANDSHAKE), now + times.keepalive_timeout + times.rekey_timeout
            )
        self._spoke(now)

    def keepalive(self, now: float) -> None:
        """Send an empty packet, at once: it shows that we live, and where."""
        session = self.session(now)
        if session is not None:
            self._seal(session, b"")
            self._spoke(now)

    def send_by(self, endpoint: E, plaintext: bytes, now: float) -> bool:
        """Seal one packet and send it to ``endpoint``; False if there is no session for it."""
        session = self.current
        if session is None or now >= session.reject_at or session.is_exhausted:
            return False
        out = bytearray(MIN_DATA_SIZE + len(plaintext) + 15)
        size = session.seal(plaintext, memoryview(out))
        self._tunnel.transmit(endpoint, bytes(out[:size]))
        return True

    def _send_staged(self, session: Session, now: float) -> None:
        while self._staged:
            self._seal(session, self._staged.pop(0))
        self.note_sent(now)

    def _seal(self, session: Session, plaintext: bytes) -> None:
        if self.endpoint is not None:
            out = bytearray(MIN_DATA_SIZE + len(plaintext) + 15)
            size = session.seal(plaintext, memoryview(out))
            self._tunnel.transmit(self.endpoint, bytes(out[:size]))

    def _spoke(self, now: float) -> None:
        timers = self._tunnel.timers
        timers.cancel((self, Alarm.KEEPALIVE))
        if self._persistent_keepalive_interval is not None:
            timers.arm(
                (self, Alarm.PERSISTENT_KEEPALIVE), now + self._persistent_keepalive_interval
            )

    # --- handshake, as initiator ---------------------------------------------------------

    def initiate(self, now: float) -> None:
        """Begin a handshake, unless one is under way or nobody knows where the peer is."""
        if self.endpoint is None or self._is_calling:
            return
        times = self._tunnel.times
        answered = self.next
        # A peer with quick retries confirms soon, or has given its call up for another secret.
        wait = self.first_retries[-1] if self.first_retries else times.rekey_timeout
        if answered is not None and now < answered.created_at + wait:
            # The peer calls, and we have just answered: it confirms, or we call in our turn.
            timers = self._tunnel.timers
            due_at = timers.due_at((self, Alarm.NEW_HANDSHAKE))
            if due_at is None or due_at > answered.created_at + wait:
                timers.arm((self, Alarm.NEW_HANDSHAKE), answered.created_at + wait)
            return
        self._call(now)

    def restart_handshake(self, now: float) -> None:
        """Begin anew, whatever is under way: the peer has moved, or another secret is agreed."""
        self.abandon_handshake()
        if self.endpoint is not None:
            self._call(now)

    def abandon_handshake(self) -> None:
        """Forget the handshake that is under way."""
        self._is_calling = False
        self._tunnel.timers.cancel((self, Alarm.RETRY_HANDSHAKE))
        self._forget_calls()

    def answered(
        self, index: int, ephemeral: bytes, sealed_empty: bytes, now: float
    ) -> SessionKeys:
        """The keys of the session that a response to our initiation ``index`` makes.

        InvalidTag or ValueError if it is no such response; it may still come then.
        """
        keys = self._calls[index].finish(ephemeral, sealed_empty, self.preshared_key)
        self._is_calling = False
        timers = self._tunnel.timers
        timers.cancel((self, Alarm.RETRY_HANDSHAKE))
        # What we sent since may be answered as well, and the responder then uses the newest.
        for earlier in list(self._calls):
            self._forget_call(earlier)
            if earlier == index:
                break
        if self._calls:
            timers.arm((self, Alarm.FORGET_CALLS), now + self._tunnel.times.rekey_timeout)
        return keys

    def _call(self, now: float) -> None:
        self._is_calling = True
        self._call_ends_at = now + self._tunnel.times.rekey_attempt_time
        self._attempts = 0
        self._send_initiation(now)

    def _send_initiation(self, now: float) -> None:
        tunnel = self._tunnel
        while len(self._calls) >= MAX_CALLS:
            self._forget_call(next(iter(self._calls)))
        ephemeral = tunnel.entropy(32)
        if tunnel.on_handshake is not None:
            tunnel.on_handshake(HandshakeKeys(self.public_key, ephemeral, self.preshared_key))
        call = Initiator(tunnel.static, self.public_key, ephemeral, tunnel.timestamps.next())
        index = tunnel.new_handshake_index(self)
        self._calls[index] = call
        message = INITIATION_LAYOUT.pack(INITIATION, index, *call.message_parts, b"", b"")
        if self.endpoint is not None:
            self.transmit_handshake(self.endpoint, message, now)
        times = tunnel.times
        if self._attempts < len(self.first_retries):
            interval = self.first_retries[self._attempts] * (0.75 + 0.5 * tunnel.rng.random())
        else:
            interval = times.rekey_timeout + times.rekey_timeout_jitter * tunnel.rng.random()
        self._attempts += 1
        tunnel.timers.arm((self, Alarm.RETRY_HANDSHAKE), now + interval)
        self._spoke(now)

    def transmit_handshake(self, endpoint: E, message: bytes, now: float) -> None:
        """Add the MACs to an initiation or response and queue it."""
        stamped = self.cookies.stamp(message, now)
        self._tx_bytes += len(stamped)
        self._tunnel.transmit(endpoint, stamped)

    def _forget_calls(self) -> None:
        for index in list(self._calls):
            self._forget_call(index)
        self._tunnel.timers.cancel((self, Alarm.FORGET_CALLS))

    def _forget_call(self, index: int) -> None:
        del self._calls[index]
        self._tunnel.release_handshake(index)

    # --- sessions ------------------------------------------------------------------------

    def offer(self, session: Session) -> None:
        """``session`` is ours as responder: unconfirmed until a packet of it arrives."""
        if len(self._unconfirmed) >= MAX_UNCONFIRMED:
            self._tunnel.release_session(self._unconfirmed.pop(0))
        self._unconfirmed.append(session)

    def established(self, session: Session, now: float) -> None:
        """``session`` is ours as initiator: it is the current one from now on.

        Where both ends called at once each prefers its own session, and the other's only receives:
        so each is initiator of what it sends with, and renews it in time.
        """
        while self._unconfirmed:
            self._retire(self._unconfirmed.pop(0))
        self._begin(session, now)
        if self._staged:
            self._send_staged(session, now)
        else:
            # The responder may not send before it has heard us use the session.
            self._confirmations = 0
            self._show_session(now)

    def _show_session(self, now: float) -> None:
        """An empty packet, again until the peer is heard: were the only one lost, both would wait.

        A peer without quick retries is a standard one, whose data repeats itself.
        """
        self.keepalive(now)
        if self._confirmations < len(self.first_retries):
            interval = self.first_retries[self._confirmations]
            self._confirmations += 1
            self._tunnel.timers.arm((self, Alarm.CONFIRM), now + interval)

    def _confirm(self, session: Session, now: float) -> None:
        while (earlier := self._unconfirmed.pop(0)) is not session:
            self._retire(earlier)
        self._begin(session, now)
        if self._staged:
            self._send_staged(session, now)

    def _begin(self, session: Session, now: float) -> None:
        if self.current is not None:
            self._retire(self.current)
        self.current = session
        self.last_handshake_at = now
        self._tunnel.timers.arm(
            (self, Alarm.ERASE), now + 3.0 * self._tunnel.times.reject_after_time
        )
        self._tunnel.report(Established(self, session.initiator))

    def _sessions(self) -> list[Session]:
        current = [self.current] if self.current is not None else []
        return [*self._retired, *self._unconfirmed, *current]

    def _retire(self, session: Session) -> None:
        if len(self._retired) >= MAX_RETIRED:
            self._release(self._retired.pop(0))
        self._retired.append(session)

    def _release(self, session: Session) -> None:
        self._tx_bytes += session.sealed_size
        self._tunnel.release_session(session)

    # --- receiving -----------------------------------------------------------------------

    def heard_data(
        self, session: Session, source: E, size: int, now: float, *, has_packets: bool, newest: bool
    ) -> None:
        """Authentic data messages of ``session``, ``size`` bytes together, came from ``source``.

        ``has_packets``: not all were empty. ``newest``: not all were overtaken on their way.
        """
        is_confirmation = session in self._unconfirmed
        if session is self.current:
            self._tunnel.timers.cancel((self, Alarm.CONFIRM))
        if newest and self._is_sent_with(session, now):
            self.newest_from = source
            if source != self.endpoint:
                self.roam(source)
                if not self.roams and not has_packets:
                    self._tunnel.report(HeardElsewhere(self, source))
            elif self.budget is not None:
                self.budget += 3 * size
        if is_confirmation:
            # It shows that the initiator has the session: so may we use it.
            self._confirm(session, now)
        self.heard(size, now)
        times = self._tunnel.times
        timers = self._tunnel.timers
        if has_packets and timers.due_at((self, Alarm.KEEPALIVE)) is None:
            timers.arm((self, Alarm.KEEPALIVE), now + times.keepalive_timeout)
        if (
            session.initiator
            and session is self.current
            and now >= session.reject_at - times.keepalive_timeout - times.rekey_timeout
            and now - session.created_at >= times.rekey_after_time
        ):
            # Receiving only, the session would die under the far end's data (section 6.2). With
            # shortened times the first bound may lie before the session began.
            self.initiate(now)

    def _is_sent_with(self, session: Session, now: float) -> bool:
        """Whether the peer sends with this session: what comes in one that it left is late.

        Where both ends called at once, each sends with its own, so that it need not be our current
        one. Which of the two comes last for the first time may be the network's doing: the other
        counts again once nothing came in this one for longer than packets are late.
        """
        latest = self.heard_session
        if session is not latest and latest is not None:
            is_first = session.heard_at == float("-inf")
            is_older = session.created_at < latest.created_at - TWINS
            if not is_first and (is_older or now - latest.heard_at < LATE):
                return False
        self.heard_session = session
        session.heard_at = now
        return True

    def heard(self, size: int, now: float, *, in_session: bool = True) -> None:
        """Something authentic came: the peer lives; ``in_session``: and has a session with us."""
        self.rx_bytes += size
        self.waiting_since = None
        timers = self._tunnel.timers
        if in_session:
            timers.cancel((self, Alarm.NEW_HANDSHAKE))
        interval = self._persistent_keepalive_interval
        if interval is not None and timers.due_at((self, Alarm.PERSISTENT_KEEPALIVE)) is None:
            timers.arm((self, Alarm.PERSISTENT_KEEPALIVE), now + interval)

    def roam(self, source: E) -> None:
        """The peer is at ``source`` now, unless its endpoint is held fast."""
        old = self.endpoint
        if source != old and (self.roams or old is None):
            self.endpoint = source
            if old is not None:
                self._tunnel.report(EndpointChanged(self, old, source))

    # --- timers --------------------------------------------------------------------------

    def ring(self, alarm: Alarm, now: float) -> None:
        """One of this peer's instants has come."""
        match alarm:
            case Alarm.RETRY_HANDSHAKE:
                self._retry(now)
            case Alarm.NEW_HANDSHAKE:
                self.initiate(now)
            case Alarm.KEEPALIVE | Alarm.PERSISTENT_KEEPALIVE:
                self.keepalive(now)
                if alarm is Alarm.PERSISTENT_KEEPALIVE:
                    self._spoke(now)
            case Alarm.ERASE:
                self._erase_sessions()
            case Alarm.HELD:
                self._tunnel.answer_held(self, now)
            case Alarm.CONFIRM:
                self._show_session(now)
            case Alarm.FORGET_CALLS:
                if not self._is_calling:
                    self._forget_calls()

    def _retry(self, now: float) -> None:
        if now < self._call_ends_at:
            self._send_initiation(now)
            return
        self.abandon_handshake()
        if self._staged:
            self._tunnel.drops.drop(Drop.TUNNEL_PEER_SILENT, len(self._staged))
            self._staged.clear()
        self._tunnel.report(Expired(self))

    def _erase_sessions(self) -> None:
        """Forget all keys of all sessions."""
        for session in self._sessions():
            self._release(session)
        self._retired.clear()
        self._unconfirmed.clear()
        self.current = None
        self.heard_session = None

    def close(self) -> None:
        """The peer is removed: no keys, no timers, nothing staged."""
        self._erase_sessions()
        self.abandon_handshake()
        self._staged.clear()
        for alarm in Alarm:
            self._tunnel.timers.cancel((self, alarm))
