"""The relay's forwarding table: who may send what to whom. It never opens a packet.

A batch as UDP_GRO delivers it goes on as it is, when all its segments are of one session; rates are
checked once a batch, and of one that is too large the beginning passes. Memory is taken only for
sessions that a coordinator asked for, never for what strangers send.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.base.errors import UntrustedError
from ntmpatch.base.rates import TokenBucket
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

BURST_TIME = 0.1
"""Seconds at the full rate that may pass at once."""
MIN_BURST = 128 * 1024
"""Bytes: two of the largest batches, however low the rate is."""
LOAD_WINDOW = 1.0
"""Seconds over which the bandwidth in use is measured, at least."""
FULL_BANDWIDTH_LOAD = 0.99
"""Load of a relay whose bandwidth is used up: the last to be chosen, but a session there gets its
share, and another way there may be none. Only a relay without a free session says 1."""
BIND_TIMEOUT = 60.0
"""Seconds in which both ends must have bound; a session that nobody uses makes room."""
RESERVE_LOAD = 0.5
"""Load from which on no session is granted that is only to be held in reserve."""
RESERVE_QUIET = 10.0
RESERVE_BYTES = 1024
"""A session in reserve is nobody's way if less passes in so many seconds; ends that look whether it
works send a fifth of that."""
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


@dataclass(slots=True, frozen=True)
class RelayLimits:
    """What the operator lets pass; of rates and the capacity, 0 is no limit."""

    max_sessions: int = 100_000
    max_lifetime: float = 24 * 3600.0
    """Seconds for which a session may be asked."""
    session_bytes: int = 1 << 40
    """Bytes that pass in a session in all, both directions together."""
    session_rate: float = 0.0
    """Bytes a second of one session, both directions together."""
    capacity: float = 0.0
    """Bytes a second of all sessions."""


@dataclass(slots=True)
class _Session(Generic[E]):
    capabilities: tuple[bytes, bytes]
    expires_at: float
    idle_at: float
    bytes_left: int
    bucket: TokenBucket | None
    asked_rate: float
    endpoints: list[E | None]
    counters: list[int]
    reserve: bool
    window_at: float
    window_bytes: int = 0
    """What has passed since then; at most RESERVE_QUIET ago."""
    busy_at: float = float("-inf")
    """When a session in reserve carried last what nobody sends for a trial."""

    def carry(self, size: int, now: float) -> None:
        """So many bytes pass."""
        self.bytes_left -= size
        if self.reserve:
            if now >= self.window_at + RESERVE_QUIET:
                self.window_at, self.window_bytes = now, 0
            self.window_bytes += size
            if self.window_bytes >= RESERVE_BYTES:
                self.busy_at = now


class ForwardingTable(Generic[E]):
    """Sessions of two sides each; ``E`` is an endpoint, of which only equality matters."""

    def __init__(
        self,
        *,
        entropy: Callable[[int], bytes],
        drops: DropCounter,
        limits: RelayLimits | None = None,
        now: float = 0.0,
    ) -> None:
        self._entropy = entropy
        self.drops = drops
        self._sessions: dict[int, _Session[E]] = {}
        self.limits = RelayLimits() if limits is None else limits
        self._bucket = _bucket(self.limits.capacity, now)
        self.forwarded_bytes = 0
        self._measured_bytes = 0
        self._measured_at = now
        self._bandwidth = 0.0

    def __len__(self) -> int:
        return len(self._sessions)

    def load(self, now: float) -> float:
        """How busy the relay is, 0 to 1: its sessions or its bandwidth, whichever is scarcer."""
        elapsed = now - self._measured_at
        if elapsed >= LOAD_WINDOW:
            passed = self.forwarded_bytes - self._measured_bytes
            self._bandwidth = passed / elapsed
            self._measured_bytes = self.forwarded_bytes
            self._measured_at = now
        capacity = self.limits.capacity
        bandwidth = min(self._bandwidth / capacity, FULL_BANDWIDTH_LOAD) if capacity else 0.0
        return max(min(len(self._sessions) / self.limits.max_sessions, 1.0), bandwidth)

    def limit(self, limits: RelayLimits, now: float) -> None:
        """Go by other limits from now on; what sessions were promised in bytes and time stays."""
        self.limits = limits
        self._bucket = _bucket(limits.capacity, now)
        for session in self._sessions.values():
            session.bucket = _bucket(_lower(session.asked_rate, limits.session_rate), now)

    def grant(
        self,
        *,
        lifetime: float,
        byte_quota: int,
        now: float,
        rate: float = 0.0,
        reserve: bool = False,
    ) -> Grant | None:
        """Prepare a session; None: there are too many, or too many for one held in ``reserve``.

        Asked for are seconds, bytes in all and bytes a second (0: whatever the limits say); of
        what is asked and what the limits say, the lower counts.
        """
        limits = self.limits
        if reserve and self.load(now) >= RESERVE_LOAD:
            return None
        if len(self._sessions) >= limits.max_sessions:
            self.expire(now)
            if len(self._sessions) >= limits.max_sessions:
                return None
        session_id = int.from_bytes(self._entropy(4))
        while session_id in self._sessions:
            session_id = int.from_bytes(self._entropy(4))
        capabilities = (self._entropy(CAPABILITY_SIZE), self._entropy(CAPABILITY_SIZE))
        lifetime = min(lifetime, limits.max_lifetime)
        self._sessions[session_id] = _Session(
            capabilities=capabilities,
            expires_at=now + lifetime,
            idle_at=now + BIND_TIMEOUT,
            bytes_left=min(byte_quota or limits.session_bytes, limits.session_bytes),
            bucket=_bucket(_lower(rate, limits.session_rate), now),
            asked_rate=rate,
            endpoints=[None, None],
            counters=[-1, -1],
            reserve=reserve,
            window_at=now,
        )
        return Grant(session_id, capabilities, lifetime)

    def expire(self, now: float) -> int:
        """Drop sessions whose time is over or that nobody uses; how many."""
        over = [
            session_id
            for session_id, session in self._sessions.items()
            if now >= session.expires_at or now >= session.idle_at
        ]
        for session_id in over:
            del self._sessions[session_id]
        return len(over)

    def is_needed(self, now: float) -> bool:
        """Whether any session is left that is not merely held in reserve."""
        return any(
            not session.reserve or now < session.busy_at + RESERVE_QUIET
            for session in self._sessions.values()
        )

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
            if session.bucket is not None or self._bucket is not None:
                run = self._within_rates(session, run, segment_size, now)
                size = len(run)
                if not size:
                    return []
            session.carry(size, now)
            self.forwarded_bytes += size
            return [Forwarded(destination, run, segment_size)]
        return []

    def _within_rates(
        self, session: _Session[E], run: memoryview, segment_size: int, now: float
    ) -> memoryview:
        """As many datagrams of the run as the session's rate and the capacity let pass."""
        buckets = [bucket for bucket in (session.bucket, self._bucket) if bucket is not None]
        size = len(run)
        allowed = min(bucket.available(now) for bucket in buckets)
        if size > allowed:
            fitting = int(allowed // segment_size)
            self.drops.drop(Drop.RELAY_RATE, -(-size // segment_size) - fitting)
            run = run[: fitting * segment_size]
            size = len(run)
        for bucket in buckets:
            bucket.spend(size)
        return run


def _bucket(rate: float, now: float) -> TokenBucket | None:
    return TokenBucket(rate, max(rate * BURST_TIME, MIN_BURST), now) if rate else None


def _lower(asked: float, limit: float) -> float:
    """The lower of two rates, of which 0 is none."""
    return min(filter(None, (asked, limit)), default=0.0)
