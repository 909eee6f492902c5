"""The tunnel of one static key: all its peers, found by receiver index, silent to strangers.

Sans-I/O: datagrams and instants in; packets, datagrams and events out. A stranger is anyone who
does not know our public key; nothing is allocated for it and nothing is answered. Who knows it but
is no peer of ours is as silent a drop, unless ``admit`` lets it in.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from cryptography.exceptions import InvalidTag

from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.base.timers import TimerQueue
from ntmpatch.crypto.noise import Responder, StaticKey
from ntmpatch.packet.tunnel.constants import MAX_HELD, REPEATED_WITHIN, Timers
from ntmpatch.packet.tunnel.cookie import CookieChecker, network_of
from ntmpatch.packet.tunnel.events import (
    Admitted,
    EndpointChanged,
    Established,
    Expired,
    HandshakeKeys,
    HeardElsewhere,
    TunnelEvent,
    Waiting,
)
from ntmpatch.packet.tunnel.peer import Alarm, Peer
from ntmpatch.packet.tunnel.session import Session, data_word
from ntmpatch.packet.tunnel.timestamps import TimestampSource
from ntmpatch.wire.wireguard import (
    COOKIE_REPLY,
    COOKIE_REPLY_LAYOUT,
    DATA,
    INITIATION,
    INITIATION_LAYOUT,
    MIN_DATA_SIZE,
    RESPONSE,
    RESPONSE_LAYOUT,
    SIZES,
    TYPE_WORD,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    from ntmpatch.crypto.noise import SessionKeys

__all__ = [
    "Admitted",
    "EndpointChanged",
    "Established",
    "Expired",
    "HeardElsewhere",
    "Tunnel",
    "TunnelEvent",
    "Waiting",
]

E = TypeVar("E")

_ARENA_SIZE = 1 << 16
_TYPE_MASK = 0xFFFFFFFF
_data_head = struct.Struct("<Q").unpack_from


class Tunnel(Generic[E]):
    """``E`` is the endpoint's type: opaque here, only compared and printed.

    ``admit(public_key)`` says whether a key that is no peer's may become one provisionally.
    ``wall_clock`` gives seconds since 1970, for the timestamps of initiations only.
    ``on_handshake`` is told the keys of each handshake before its message leaves (key logs).
    """

    def __init__(
        self,
        private_key: bytes,
        *,
        now: float,
        rng: random.Random,
        wall_clock: Callable[[], float],
        admit: Callable[[bytes], bool] | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
        drops: DropCounter | None = None,
        timers: Timers | None = None,
        on_handshake: Callable[[HandshakeKeys], None] | None = None,
    ) -> None:
        self.static = StaticKey(private_key)
        self.public_key = self.static.public
        self.drops = DropCounter() if drops is None else drops
        self.rng = rng
        self.entropy = entropy
        self.times = Timers() if timers is None else timers
        self.timers: TimerQueue[tuple[Peer[E], Alarm]] = TimerQueue()
        self.timestamps = TimestampSource(wall_clock)
        self.on_handshake = on_handshake
        self._admit = admit
        self._checker = CookieChecker(
            self.public_key, lifetime=self.times.cookie_lifetime, now=now, entropy=entropy
        )
        self._peers: dict[bytes, Peer[E]] = {}
        self._sessions: dict[int, tuple[Peer[E], Session]] = {}
        """By the first eight bytes of a data message: one look-up checks type and receiver."""
        self._handshakes: dict[int, Peer[E]] = {}
        self._held: dict[bytes, tuple[bytes, E]] = {}
        self._hold_until = float("-inf")
        self._transmits: deque[tuple[E, bytes]] = deque()
        self._events: deque[TunnelEvent] = deque()
        self._arena = memoryview(bytearray(_ARENA_SIZE))

    # --- peers -------------------------------------------------------------------------

    @property
    def peers(self) -> Mapping[bytes, Peer[E]]:
        """The peers by public key."""
        return self._peers

    def add_peer(
        self,
        public_key: bytes,
        *,
        preshared_key: bytes = bytes(32),
        endpoint: E | None = None,
        persistent_keepalive_interval: float | None = None,
        first_retries: Sequence[float] = (),
    ) -> Peer[E]:
        """Know a peer, or change what is known of it; sessions that live go on.

        ``first_retries``: seconds between the first initiations, before WireGuard's five.
        """
        peer = self._peers.get(public_key)
        if peer is None:
            peer = self._peers[public_key] = Peer(
                self,
                public_key,
                preshared_key=preshared_key,
                endpoint=endpoint,
                persistent_keepalive_interval=persistent_keepalive_interval,
                first_retries=first_retries,
            )
        else:
            if preshared_key != peer.preshared_key:
                # What is under way was begun with the other secret and could not be finished.
                peer.preshared_key = preshared_key
                peer.abandon_handshake()
                if peer.last_initiation is not None:
                    self.timers.arm((peer, Alarm.HELD), 0.0)
            if endpoint is not None:
                peer.endpoint = endpoint
            peer.persistent_keepalive_interval = persistent_keepalive_interval
            peer.first_retries = tuple(first_retries)
        if public_key in self._held:
            self.timers.arm((peer, Alarm.HELD), 0.0)
        return peer

    def remove_peer(self, public_key: bytes) -> None:
        """Forget a peer and all its keys; harmless if it is unknown."""
        peer = self._peers.pop(public_key, None)
        if peer is not None:
            peer.close()

    def hold_unknown(self, until: float) -> None:
        """Until then, keep a few initiations of unknown keys: ``add_peer`` may yet name them."""
        self._hold_until = max(self._hold_until, until)

    # --- what the runtime calls --------------------------------------------------------

    def receive(
        self, buffer: memoryview, segment_size: int, source: E, now: float
    ) -> list[tuple[Peer[E], list[memoryview]]]:
        """Take a batch from ``source``: datagrams of ``segment_size``, the last perhaps shorter.

        Returns opened inner packets per peer, in order: views into an arena that the next call
        overwrites. Empty packets and handshakes are dealt with here.
        """
        delivered: list[tuple[Peer[E], list[memoryview]]] = []
        size = len(buffer)
        if size > len(self._arena):
            self._arena = memoryview(bytearray(size))
        start = 0
        while start < size:
            if min(segment_size, size - start) >= MIN_DATA_SIZE and buffer[start] == DATA:
                (word,) = _data_head(buffer, start)
                found = self._sessions.get(word)
                if found is not None:
                    peer, session = found
                    if now < session.reject_at:
                        packets: list[memoryview] = []
                        start, authentic_size, newest = session.open_run(
                            buffer,
                            start,
                            segment_size,
                            arena=self._arena,
                            packets=packets,
                            drops=self.drops,
                        )
                        if authentic_size:
                            peer.heard_data(
                                session,
                                source,
                                authentic_size,
                                now,
                                has_packets=bool(packets),
                                newest=newest,
                            )
                        if packets:
                            delivered.append((peer, packets))
                        continue
                    self.drops.drop(Drop.TUNNEL_EXPIRED_SESSION)
                else:
                    known_type = word & _TYPE_MASK == DATA
                    self.drops.drop(
                        Drop.TUNNEL_UNKNOWN_SESSION if known_type else Drop.TUNNEL_UNKNOWN_TYPE
                    )
            else:
                self._handshake_message(buffer[start : start + segment_size], source, now)
            start += segment_size
        return delivered

    def poll_transmit(self) -> tuple[E, bytes] | None:
        """The next datagram to send: handshakes, cookies, keep-alives, single packets."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> TunnelEvent | None:
        """The next thing to know."""
        return self._events.popleft() if self._events else None

    def poll_timeout(self) -> float | None:
        """When ``handle_timeout`` wants to be called."""
        return self.timers.earliest()

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        for peer, alarm in self.timers.pop_due(now):
            peer.ring(alarm, now)

    # --- for the peers -----------------------------------------------------------------

    def transmit(self, endpoint: E, message: bytes) -> None:
        """Queue a datagram."""
        self._transmits.append((endpoint, message))

    def new_handshake_index(self, peer: Peer[E]) -> int:
        """A receiver index under which the response will find ``peer``."""
        index = self._new_index()
        self._handshakes[index] = peer
        return index

    def release_handshake(self, index: int) -> None:
        """The index is not waited for any more."""
        self._handshakes.pop(index, None)

    def release_session(self, session: Session) -> None:
        """Forget a session's keys."""
        self._sessions.pop(data_word(session.local_index), None)

    def report(self, event: TunnelEvent) -> None:
        """Queue an event."""
        self._events.append(event)

    def answer_held(self, peer: Peer[E], now: float) -> None:
        """Answer the initiation that was kept until ``peer`` was known, or its secret was.

        Whoever was told of a new pre-shared key first calls with it at once; what was answered with
        the old one is answered again.
        """
        held = self._held.pop(peer.public_key, None)
        if held is not None and now >= self._hold_until:
            held = None
        elif held is None and now - peer.last_initiation_at < REPEATED_WITHIN:
            held = peer.last_initiation
        if held is not None:
            message, source = held
            self._initiation(memoryview(message), source, now, checked=True)

    # --- handshake ---------------------------------------------------------------------

    def _handshake_message(self, message: memoryview, source: E, now: float) -> None:
        size = len(message)
        if size < TYPE_WORD.size:
            self.drops.drop(Drop.TUNNEL_RUNT)
            return
        (kind,) = TYPE_WORD.unpack_from(message)
        expected = SIZES.get(kind)
        if expected is None:
            self.drops.drop(Drop.TUNNEL_RUNT if kind == DATA else Drop.TUNNEL_UNKNOWN_TYPE)
        elif size != expected:
            self.drops.drop(Drop.TUNNEL_WRONG_SIZE)
        elif kind == COOKIE_REPLY:
            self._cookie_reply(message, now)
        elif not self._checker.has_mac1(message):
            self.drops.drop(Drop.TUNNEL_BAD_MAC1)
        elif self._is_affordable(message, source, now):
            if kind == INITIATION:
                self._initiation(message, source, now)
            else:
                self._response(message, source, now)

    def _is_affordable(self, message: memoryview, source: E, now: float) -> bool:
        """Under load, only whoever shows a cookie of its source gets our time (section 5.3)."""
        checker = self._checker
        if not checker.is_under_load(now):
            return True
        origin = str(source).encode()
        if not checker.has_mac2(message, origin, now):
            self.drops.drop(Drop.TUNNEL_COOKIE_WANTED)
            (sender,) = TYPE_WORD.unpack_from(message, 4)
            self.transmit(source, checker.reply(message, sender, origin, now))
            return False
        if not checker.allows(network_of(source), now):
            self.drops.drop(Drop.TUNNEL_HANDSHAKE_FLOOD)
            return False
        return True

    def _initiation(
        self, message: memoryview, source: E, now: float, *, checked: bool = False
    ) -> None:
        _, sender, ephemeral, static, timestamp, _, _ = INITIATION_LAYOUT.unpack(message)
        try:
            handshake = Responder(self.static, ephemeral, static, timestamp)
        except (InvalidTag, ValueError):
            self.drops.drop(Drop.TUNNEL_BAD_HANDSHAKE)
            return
        peer = self._peers.get(handshake.initiator)
        if peer is None:
            peer = self._unknown(handshake.initiator, message, source, now)
            if peer is None:
                return
        is_repeated = checked and handshake.timestamp == peer.last_timestamp
        if handshake.timestamp <= peer.last_timestamp and not is_repeated:
            self.drops.drop(Drop.TUNNEL_OLD_INITIATION)
            return
        if now - peer.last_initiation_at < self.times.flood_interval and not checked:
            self.drops.drop(Drop.TUNNEL_HANDSHAKE_FLOOD)
            return
        peer.last_timestamp = handshake.timestamp
        peer.last_initiation = (bytes(message), source)
        peer.last_initiation_at = now
        ephemeral = self.entropy(32)
        if self.on_handshake is not None:
            self.on_handshake(HandshakeKeys(peer.public_key, ephemeral, peer.preshared_key))
        public, sealed_empty, keys = handshake.respond(ephemeral, peer.preshared_key)
        session = self._new_session(peer, keys, self._new_index(), sender, now)
        peer.offer(session)
        peer.heard(len(message), now, in_session=False)
        # The endpoint stays: after a restart of ours this may be a replay, from wherever an
        # attacker likes. What follows a true one is a packet of the session, and that moves it.
        response = RESPONSE_LAYOUT.pack(
            RESPONSE, session.local_index, sender, public, sealed_empty, b"", b""
        )
        peer.transmit_handshake(source, response, now)

    def _unknown(
        self, public_key: bytes, message: memoryview, source: E, now: float
    ) -> Peer[E] | None:
        if self._admit is not None and self._admit(public_key):
            peer = self.add_peer(public_key)
            self._events.append(Admitted(peer))
            return peer
        if now < self._hold_until and (public_key in self._held or len(self._held) < MAX_HELD):
            self._held[public_key] = (bytes(message), source)
        elif now >= self._hold_until:
            self._held.clear()
        self.drops.drop(Drop.TUNNEL_UNKNOWN_PEER)
        return None

    def _response(self, message: memoryview, source: E, now: float) -> None:
        _, sender, receiver, ephemeral, sealed_empty, _, _ = RESPONSE_LAYOUT.unpack(message)
        peer = self._handshakes.get(receiver)
        if peer is None:
            self.drops.drop(Drop.TUNNEL_UNKNOWN_HANDSHAKE)
            return
        try:
            keys = peer.answered(receiver, ephemeral, sealed_empty, now)
        except (InvalidTag, ValueError):
            self.drops.drop(Drop.TUNNEL_BAD_HANDSHAKE)
            return
        session = self._new_session(peer, keys, receiver, sender, now, initiator=True)
        peer.newest_from = source
        peer.roam(source)
        peer.heard(len(message), now)
        peer.established(session, now)

    def _cookie_reply(self, message: memoryview, now: float) -> None:
        _, receiver, nonce, sealed = COOKIE_REPLY_LAYOUT.unpack(message)
        peer = self._handshakes.get(receiver)
        if peer is None:
            found = self._sessions.get(data_word(receiver))
            peer = found[0] if found is not None else None
        if peer is None or not peer.cookies.accept(nonce, sealed, now):
            self.drops.drop(Drop.TUNNEL_BAD_COOKIE)

    def _new_session(
        self,
        peer: Peer[E],
        keys: SessionKeys,
        local_index: int,
        remote_index: int,
        now: float,
        *,
        initiator: bool = False,
    ) -> Session:
        session = Session(
            keys=keys,
            local_index=local_index,
            remote_index=remote_index,
            initiator=initiator,
            now=now,
            times=self.times,
        )
        self._sessions[data_word(local_index)] = peer, session
        return session

    def _new_index(self) -> int:
        while True:
            index = int.from_bytes(self.entropy(4))
            if data_word(index) not in self._sessions and index not in self._handshakes:
                return index
