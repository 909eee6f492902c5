"""A peer: its sessions, its handshake, and the timers that keep both fresh.

The sessions are three, as the WireGuard paper has them (section 6.3): the current one; the one
before, whose packets may still be under way; and the next one, which the responder made and may
only use once the initiator has shown, by sending with it, that it has it as well.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from ntmpatch.base.drops import Drop
from ntmpatch.crypto.noise import Initiator
from ntmpatch.packet.tunnel.constants import MAX_STAGED
from ntmpatch.packet.tunnel.cookie import CookieHolder
from ntmpatch.wire.wireguard import INITIATION, INITIATION_LAYOUT, MIN_DATA_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.packet.tunnel.session import Session
    from ntmpatch.packet.tunnel.tunnel import Tunnel

E = TypeVar("E")


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


class Peer(Generic[E]):
    """One far end. ``endpoint`` is where it was last authenticated from, or was said to be."""

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
        """Whether authenticated packets from elsewhere move the endpoint there."""
        self.first_retries = tuple(first_retries)
        self.cookies = CookieHolder(public_key, lifetime=tunnel.times.cookie_lifetime)
        self.current: Session | None = None
        self.previous: Session | None = None
        self.next: Session | None = None
        self.handshake: Initiator | None = None
        self.handshake_index = 0
        self.last_timestamp = b""
        """Of the newest initiation accepted: an older one is a replay."""
        self.last_initiation_at = float("-inf")
        self.last_handshake_at: float | None = None
        self.tx_bytes = 0
        self.rx_bytes = 0
        self._staged: deque[bytes] = deque()
        self._attempt_ends_at = 0.0
        self._attempts = 0
        self._persistent_keepalive_interval = persistent_keepalive_interval

    def __repr__(self) -> str:
        return f"<Peer {self.public_key[:4].hex()} at {self.endpoint}>"

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
        if session.initiator and (
            now - session.created_at >= self._tunnel.times.rekey_after_time or session.is_worn
        ):
            self.initiate(now)
        return session

    def send(self, plaintext: bytes, now: float) -> None:
        """Seal one inner packet and queue it, or keep it until there is a session."""
        session = self.session(now)
        if session is None or self.endpoint is None:
            if len(self._staged) >= MAX_STAGED:
                self._staged.popleft()
                self._tunnel.drops.drop(Drop.TUNNEL_STAGED_OVERFLOW)
            self._staged.append(plaintext)
            return
        self._seal(session, plaintext)
        self.note_sent(now)

    def _seal(self, session: Session, plaintext: bytes) -> None:
        out = bytearray(MIN_DATA_SIZE + len(plaintext) + 15)
        size = session.seal(plaintext, memoryview(out))
        self._transmit(bytes(out[:size]))

    def _transmit(self, message: bytes) -> None:
        if self.endpoint is not None:
            self.tx_bytes += len(message)
            self._tunnel.transmit(self.endpoint, message)

    def note_sent(self, now: float) -> None:
        """Data was sealed and sent: an answer is expected, and a keep-alive is not needed."""
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

    def _spoke(self, now: float) -> None:
        timers = self._tunnel.timers
        timers.cancel((self, Alarm.KEEPALIVE))
        if self._persistent_keepalive_interval is not None:
            timers.arm(
                (self, Alarm.PERSISTENT_KEEPALIVE), now + self._persistent_keepalive_interval
            )

    # --- handshake ---------------------------------------------------------------------

    def initiate(self, now: float) -> None:
        """Begin a handshake, unless one is under way or nobody knows where the peer is."""
        if self.endpoint is None or self.handshake is not None:
            return
        self._attempt_ends_at = now + self._tunnel.times.rekey_attempt_time
        self._attempts = 0
        self._send_initiation(now)

    def restart_handshake(self, now: float) -> None:
        """Begin anew, whatever is under way: the peer has moved, or another secret is agreed."""
        self.abandon_handshake()
        self.initiate(now)

    def abandon_handshake(self) -> None:
        """Forget the handshake that is under way."""
        if self.handshake is not None:
            self._tunnel.release_handshake(self.handshake_index)
            self.handshake = None
        self._tunnel.timers.cancel((self, Alarm.RETRY_HANDSHAKE))

    def _send_initiation(self, now: float) -> None:
        tunnel = self._tunnel
        if self.handshake is not None:
            tunnel.release_handshake(self.handshake_index)
        self.handshake = Initiator(
            tunnel.static, self.public_key, tunnel.entropy(32), tunnel.next_timestamp()
        )
        self.handshake_index = tunnel.new_handshake_index(self)
        message = bytearray(
            INITIATION_LAYOUT.pack(
                INITIATION, self.handshake_index, *self.handshake.message_parts, b"", b""
            )
        )
        self._transmit(self.cookies.stamp(message, now))
        times = tunnel.times
        if self._attempts < len(self.first_retries):
            interval = self.first_retries[self._attempts] * (0.75 + 0.5 * tunnel.rng.random())
        else:
            interval = times.rekey_timeout + times.rekey_timeout_jitter * tunnel.rng.random()
        self._attempts += 1
        tunnel.timers.arm((self, Alarm.RETRY_HANDSHAKE), now + interval)
        self._spoke(now)

    def established(self, session: Session, now: float) -> None:
        """``session`` is confirmed: it becomes the current one, and what waited is sent."""
        if session is self.next:
            self.next = None
        self._tunnel.release_session(self.previous)
        self.previous = self.current
        self.current = session
        self.last_handshake_at = now
        self._tunnel.timers.arm(
            (self, Alarm.ERASE), now + 3.0 * self._tunnel.times.reject_after_time
        )
        had_staged = bool(self._staged)
        while self._staged:
            self._seal(session, self._staged.popleft())
        if had_staged:
            self.note_sent(now)
        elif session.initiator:
            # The responder may not send before it has heard us use the session.
            self.keepalive(now)

    def offer(self, session: Session) -> None:
        """``session`` is ours as responder: unconfirmed until a packet of it arrives."""
        self._tunnel.release_session(self.next)
        self._tunnel.release_session(self.previous)
        self.previous = None
        self.next = session

    # --- receiving ---------------------------------------------------------------------

    def heard(self, source: E, size: int, now: float, *, data: bool, newest: bool) -> None:
        """Authenticated packets of ``size`` bytes came from ``source``; ``data``: not all empty.

        ``newest``: none of them was overtaken, so the peer is now where they came from.
        """
        self.rx_bytes += size
        timers = self._tunnel.timers
        timers.cancel((self, Alarm.NEW_HANDSHAKE))
        if newest and source != self.endpoint and (self.roams or self.endpoint is None):
            self._tunnel.moved(self, source)
        if data and timers.due_at((self, Alarm.KEEPALIVE)) is None:
            timers.arm((self, Alarm.KEEPALIVE), now + self._tunnel.times.keepalive_timeout)
        if (
            self._persistent_keepalive_interval is not None
            and timers.due_at((self, Alarm.PERSISTENT_KEEPALIVE)) is None
        ):
            timers.arm(
                (self, Alarm.PERSISTENT_KEEPALIVE), now + self._persistent_keepalive_interval
            )
        session = self.current
        times = self._tunnel.times
        if (
            session is not None
            and session.initiator
            and now - session.created_at
            >= times.reject_after_time - times.keepalive_timeout - times.rekey_timeout
        ):
            # Receiving only, the session would die under the far end's data.
            self.initiate(now)

    # --- timers ------------------------------------------------------------------------

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
                self.erase()
            case Alarm.HELD:
                self._tunnel.answer_held(self, now)

    def _retry(self, now: float) -> None:
        if self.handshake is None:
            return
        if now < self._attempt_ends_at:
            self._send_initiation(now)
            return
        self.abandon_handshake()
        if self._staged:
            self._tunnel.drops.drop(Drop.TUNNEL_PEER_SILENT, len(self._staged))
            self._staged.clear()
        self._tunnel.gave_up(self)

    def erase(self) -> None:
        """Forget all keys of all sessions."""
        for session in (self.current, self.previous, self.next):
            self._tunnel.release_session(session)
        self.current = self.previous = self.next = None
        self.abandon_handshake()

    def close(self) -> None:
        """The peer is removed: no keys, no timers, nothing staged."""
        self.erase()
        self._staged.clear()
        for alarm in Alarm:
            self._tunnel.timers.cancel((self, alarm))
