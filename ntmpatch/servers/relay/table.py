"""The relay's forwarding table: who may send what to whom. It never opens a packet.

A batch as UDP_GRO delivers it goes on as it is, when all its segments are of one session; memory
is taken only for sessions that a coordinator asked for, never for what strangers send.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire.relay import (
    CAPABILITY_SIZE,
    FRAME_DATA,
    RELAY_BYTE,
    RELAY_HEADER_SIZE,
    bind_frame,
    decode_bind_untrusted,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

E = TypeVar("E", bound="Hashable")

MAX_SESSIONS = 100_000
MAX_LIFETIME = 24 * 3600.0
DEFAULT_BYTE_QUOTA = 1 << 40
BIND_TIMEOUT = 60.0
"""Seconds in which both ends must have bound; a session that nobody uses makes room."""
IDLE_TIMEOUT = 300.0
"""Seconds without a bind frame of either end: both have left (they bind as a keep-alive)."""


class Forwarded(NamedTuple, Generic[E]):
    """Datagrams to send on: ``buffer`` cut every ``segment_size`` bytes, the last may be short."""

    destination: E
    buffer: memoryview
    segment_size: int


class Grant(NamedTuple):
    """What the coordinator hands to the two ends."""

    session_id: int
    capabilities: tuple[bytes, bytes]
    lifetime: float


@dataclass(slots=True)
class _Session(Generic[E]):
    capabilities: tuple[bytes, bytes]
    expires_at: float
    idle_at: float
    bytes_left: int
    endpoints: list[E | None]
    counters: list[int]


class ForwardingTable(Generic[E]):
    """Sessions of two sides each; ``E`` is an endpoint, of which only equality matters."""

    def __init__(self, *, entropy: Callable[[int], bytes], drops: DropCounter) -> None:
        self._entropy = entropy
        self.drops = drops
        self._sessions: dict[int, _Session[E]] = {}
        self.forwarded_bytes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def load(self) -> float:
        """Share of the sessions that are taken, 0 to 1."""
        return len(self._sessions) / MAX_SESSIONS

    def grant(self, *, lifetime: float, byte_quota: int, now: float) -> Grant | None:
        """Prepare a session; None: there are too many."""
        if len(self._sessions) >= MAX_SESSIONS:
            self.expire(now)
            if len(self._sessions) >= MAX_SESSIONS:
                return None
        session_id = int.from_bytes(self._entropy(4))
        while session_id in self._sessions:
            session_id = int.from_bytes(self._entropy(4))
        capabilities = (self._entropy(CAPABILITY_SIZE), self._entropy(CAPABILITY_SIZE))
        lifetime = min(lifetime, MAX_LIFETIME)
        self._sessions[session_id] = _Session(
            capabilities=capabilities,
            expires_at=now + lifetime,
            idle_at=now + BIND_TIMEOUT,
            bytes_left=byte_quota or DEFAULT_BYTE_QUOTA,
            endpoints=[None, None],
            counters=[-1, -1],
        )
        return Grant(session_id, capabilities, lifetime)

    def expire(self, now: float) -> None:
        """Drop sessions whose time is over or that nobody uses."""
        over = [
            session_id
            for session_id, session in self._sessions.items()
            if now >= session.expires_at or now >= session.idle_at
        ]
        for session_id in over:
            del self._sessions[session_id]

    def bind(self, source: E, frame: bytes | memoryview, now: float) -> bytes | None:
        """Register ``source`` as a side's endpoint; the answer for it, as long as the frame.

        None for everything that a holder of the side's capability did not just make.
        """
        try:
            bind = decode_bind_untrusted(frame)
        except UntrustedError as error:
            self.drops.drop(error.drop)
            return None
        session = self._sessions.get(bind.session_id)
        if session is None:
            self.drops.drop(Drop.RELAY_UNKNOWN_SESSION)
        elif bind.bound or not bind.is_genuine(session.capabilities[bind.side]):
            self.drops.drop(Drop.RELAY_BAD_CAPABILITY)
        elif bind.counter <= session.counters[bind.side]:
            self.drops.drop(Drop.RELAY_REPLAYED_BIND)
        elif now >= session.expires_at:
            self.drops.drop(Drop.RELAY_EXPIRED)
        else:
            session.counters[bind.side] = bind.counter
            session.endpoints[bind.side] = source
            session.idle_at = now + IDLE_TIMEOUT
            return bind_frame(
                bind.session_id,
                bind.side,
                session.capabilities[bind.side],
                bind.counter,
                bound=True,
            )
        return None

    def forward(
        self, source: E, buffer: memoryview, segment_size: int, now: float
    ) -> list[Forwarded[E]]:
        """Where the data frames of one received batch go; usually the whole batch to one place."""
        size = len(buffer)
        if size <= segment_size:
            return self._forward_run(source, buffer, segment_size, now)
        header = buffer[:RELAY_HEADER_SIZE]
        start = 0
        forwarded: list[Forwarded[E]] = []
        for offset in range(segment_size, size, segment_size):
            if buffer[offset : offset + RELAY_HEADER_SIZE] != header:
                forwarded += self._forward_run(source, buffer[start:offset], segment_size, now)
                start = offset
                header = buffer[offset : offset + RELAY_HEADER_SIZE]
        return forwarded + self._forward_run(source, buffer[start:], segment_size, now)

    def _forward_run(
        self, source: E, run: memoryview, segment_size: int, now: float
    ) -> list[Forwarded[E]]:
        size = len(run)
        count = -(-size // segment_size) if segment_size else 1
        # An empty packet behind the header is as little use as a short header.
        if size <= RELAY_HEADER_SIZE:
            self.drops.drop(Drop.RELAY_RUNT, count)
            return []
        if run[0] != RELAY_BYTE or run[1] != FRAME_DATA:
            self.drops.drop(Drop.RELAY_UNKNOWN_FRAME, count)
            return []
        session = self._sessions.get(int.from_bytes(run[4:8]))
        if session is None:
            self.drops.drop(Drop.RELAY_UNKNOWN_SESSION, count)
            return []
        first, second = session.endpoints
        if source == first:
            destination = second
        elif source == second:
            destination = first
        else:
            self.drops.drop(Drop.RELAY_WRONG_SOURCE, count)
            return []
        if destination is None:
            self.drops.drop(Drop.RELAY_UNBOUND, count)
        elif now >= session.expires_at:
            self.drops.drop(Drop.RELAY_EXPIRED, count)
        elif size > session.bytes_left:
            self.drops.drop(Drop.RELAY_QUOTA, count)
        else:
            session.bytes_left -= size
            self.forwarded_bytes += size
            return [Forwarded(destination, run, segment_size)]
        return []
