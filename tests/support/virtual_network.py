"""Parties in virtual time over a seeded network that loses, doubles and reorders.

The tunnels are modelled, not run: a channel exists between two keys once one has called the other
with the same pre-shared key, and the other knew it or let it in. A party that restarts has lost
its channels, and what is sent into the old ones is lost too.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ntmpatch.signalling.effects import (
    CheckConnection,
    Contact,
    Effect,
    Forget,
    KeepAlive,
    Reconnect,
    Traced,
    Work,
)
from ntmpatch.wire.control import decode_untrusted

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.signalling.party import Party
    from ntmpatch.wire.control import Envelope

CONNECT_RETRIES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds between tries to connect to an NS; the last again and again, as runtime/links.py does."""
HANDSHAKE_RETRIES = (0.0, 0.1, 0.2, 0.4, 0.8, *(5.0,) * 17)
EPOCH = 1_800_000_000.0


@dataclass
class Captured:
    """A message as it was sent, first transmissions and repetitions alike."""

    at: float
    sender: str
    receiver: str
    envelope: Envelope
    delivered: bool


@dataclass
class Seat:
    """A party on the network: its place, and its channels as it sees them."""

    party: Party
    endpoint: Endpoint
    nat: Endpoint | None = None
    contacts: dict[bytes, Contact] = field(default_factory=dict)
    channels: dict[bytes, int] = field(default_factory=dict)
    opened: set[bytes] = field(default_factory=set)
    """Peers that this party's NAT lets in: it has sent to them."""
    effects: list[Effect] = field(default_factory=list)
    up: bool = True
    nat_timeout: float = float("inf")
    """Seconds of silence after which the NAT forgets a connection."""
    segments: int = 0
    """What the kernel counts on the connection to the NS; every look finds the probes of since."""
    probe_intervals: dict[bytes, float] = field(default_factory=dict)
    """Of an NS: how often its kernel probes a node's connection."""
    tries: int = 0
    failures: int = 0
    unreachable: set[bytes] = field(default_factory=set)
    """Nodes whose network has no way to this NS."""

    @property
    def seen(self) -> Endpoint:
        return self.nat or self.endpoint

    def of(self, kind: type) -> list[Any]:
        return [effect for effect in self.effects if isinstance(effect, kind)]


class VirtualNetwork:
    """Runs parties; ``loss``, ``duplication`` are shares of datagrams, delays are seconds."""

    def __init__(self, seed: int, *, loss: float = 0.0, duplication: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.loss = loss
        self.duplication = duplication
        self.delays = (0.005, 0.040 if loss or duplication else 0.005)
        self.job_delay = 0.004
        self.seats: dict[bytes, Seat] = {}
        self.captured: list[Captured] = []
        self.trace: list[Traced] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = itertools.count(1)

    def wall_clock(self) -> float:
        return EPOCH + self.now

    def settings(self) -> dict[str, Any]:
        """What every party's constructor takes."""
        rng = random.Random(self.rng.random())
        return {
            "now": self.now,
            "rng": rng,
            "wall_clock": self.wall_clock,
            "entropy": rng.randbytes,
        }

    def seat(self, party: Party, endpoint: Endpoint, nat: Endpoint | None = None) -> Seat:
        """Put a party on the network, or put it back there after a restart."""
        seat = Seat(party, endpoint, nat)
        self.seats[party.public_key] = seat
        return seat

    def at(self, due_at: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (due_at, next(self._counter), action))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Go on for so many virtual seconds, or until something is so; whether it became so."""
        end = self.now + seconds
        for _ in range(2_000_000):
            self._flush()
            if until():
                return True
            instants = [self._queue[0][0]] if self._queue else []
            instants += [
                due_at
                for seat in self.seats.values()
                if seat.up and (due_at := seat.party.poll_timeout()) is not None
            ]
            next_at = max(min(instants, default=end), self.now)
            if next_at > end:
                self.now = end
                return until()
            self.now = next_at
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
            for seat in list(self.seats.values()):
                due_at = seat.party.poll_timeout() if seat.up else None
                if due_at is not None and due_at <= self.now:
                    seat.party.handle_timeout(self.now)
        raise AssertionError("the network does not come to rest")

    # --- what parties want ---------------------------------------------------------------

    def _flush(self) -> None:
        for seat in list(self.seats.values()):
            while (effect := seat.party.poll_effect()) is not None:
                if seat.up:
                    self._carry_out(seat, effect)
            while (transmit := seat.party.poll_transmit()) is not None:
                if seat.up:
                    self._send(seat, *transmit)

    def _carry_out(self, seat: Seat, effect: Effect) -> None:
        seat.effects.append(effect)
        if isinstance(effect, Work):
            self.at(
                self.now + self.rng.uniform(0.0, self.job_delay), lambda: self._work(seat, effect)
            )
        elif isinstance(effect, Contact) and effect.connection:
            seat.contacts[effect.public_key] = effect
            self._connect(seat, effect.public_key)
        elif isinstance(effect, Reconnect):
            seat.channels.pop(effect.public_key, None)
            self._connect(seat, effect.public_key)
        elif isinstance(effect, KeepAlive):
            seat.probe_intervals[effect.public_key] = effect.interval
        elif isinstance(effect, CheckConnection):
            self._check(seat, effect)
        elif isinstance(effect, Contact):
            before = seat.contacts.get(effect.public_key)
            seat.contacts[effect.public_key] = effect
            if before is not None and before.preshared_key != effect.preshared_key:
                seat.channels.pop(effect.public_key, None)
            if effect.initiate:
                self._call(seat, effect.public_key, 0)
        elif isinstance(effect, Forget):
            contact = seat.contacts.pop(effect.public_key, None)
            channel = seat.channels.pop(effect.public_key, None)
            if contact is not None and contact.connection and channel is not None:
                self._disconnect(self.seats[effect.public_key], seat.party.public_key)
        elif isinstance(effect, Traced):
            self.trace.append(effect)

    def _work(self, seat: Seat, job: Work) -> None:
        try:
            outcome: Any = job.run()
        except Exception as error:
            outcome = error
        if seat.up:
            seat.party.complete(job, outcome, self.now)

    # --- connections ---------------------------------------------------------------------

    def kill(self, seat: Seat) -> None:
        """A process ends; the kernel tells those that were connected to it."""
        seat.up = False
        key = seat.party.public_key
        for other in list(self.seats.values()):
            contact = other.contacts.get(key)
            if contact is not None and contact.connection:
                other.channels.pop(key, None)
                self._connection_failed(other, key)

    def _connect(self, seat: Seat, peer: bytes) -> None:
        """A connection and the handshake on it; again until it succeeds."""
        seat.tries += 1
        tries = seat.tries

        def attempt() -> None:
            if tries != seat.tries or not seat.up or peer not in seat.contacts:
                return
            far = self.seats.get(peer)
            if far is None or not far.up or seat.party.public_key in far.unreachable:
                self._connection_failed(seat, peer)
                return
            if not self._handshaken(seat, far, seat.contacts[peer]):
                self._connection_failed(seat, peer)
                return
            seat.failures = 0

        self.at(self.now + 2.0 * self.rng.uniform(*self.delays), attempt)

    def _disconnect(self, server: Seat, peer: bytes) -> None:
        """The far end of a connection learns of its end."""
        if server.up:
            server.channels.pop(peer, None)
            server.party.disconnected(peer, self.now)  # type: ignore[attr-defined]  # it is an NS

    def _connection_failed(self, seat: Seat, peer: bytes) -> None:
        pause = CONNECT_RETRIES[min(seat.failures, len(CONNECT_RETRIES) - 1)]
        seat.failures += 1
        seat.tries += 1
        tries = seat.tries
        seat.party.connection_failed(peer, self.now)  # type: ignore[attr-defined]  # it is a node's

        def again() -> None:
            if tries == seat.tries and peer in seat.contacts:
                self._connect(seat, peer)

        self.at(self.now + pause * self.rng.uniform(0.75, 1.0), again)

    def _check(self, seat: Seat, effect: CheckConnection) -> None:
        """Whether the NS's probes came through depends on the NAT's memory."""
        far = self.seats.get(effect.public_key)
        key = seat.party.public_key
        connected = effect.public_key in seat.channels
        if far is not None and far.up and connected:
            if far.probe_intervals.get(key, 0.0) <= seat.nat_timeout:
                seat.segments += 1
            else:
                far.channels.pop(key, None)  # nothing of it arrives any more
        effect.answer(seat.segments if connected else None, self.now)

    # --- channels ------------------------------------------------------------------------

    def _call(self, seat: Seat, peer: bytes, attempt: int) -> None:
        """Send a tunnel request after the retry's interval; again until it is answered."""
        if attempt >= len(HANDSHAKE_RETRIES):
            return
        delay = HANDSHAKE_RETRIES[attempt] + self.rng.uniform(*self.delays)
        self.at(self.now + delay, lambda: self._handshake(seat, peer, attempt))

    def _handshake(self, seat: Seat, peer: bytes, attempt: int) -> None:
        contact = seat.contacts.get(peer)
        if contact is None or not seat.up or self.seats.get(seat.party.public_key) is not seat:
            return
        seat.opened.add(peer)
        far = self.seats.get(peer)
        if (
            far is None
            or not far.up
            or not self._passes(seat, far, contact)
            or not self._handshaken(seat, far, contact)
        ):
            self._call(seat, peer, attempt + 1)

    def _handshaken(self, seat: Seat, far: Seat, contact: Contact) -> bool:
        """The far end lets us in, and there is a channel."""
        key, peer = seat.party.public_key, far.party.public_key
        known = far.contacts.get(key)
        if known is None:
            if not far.party.admit(key, self.now):
                return False
            far.contacts[key] = known = Contact(key)
            far.party.admitted(key, self.now)
        if known.preshared_key != contact.preshared_key:
            return False
        far.opened.add(key)
        seat.channels[peer] = far.channels[key] = next(self._counter)
        for one, other in ((seat, peer), (far, key)):
            established = getattr(one.party, "tunnel_established", None)
            if established is not None:
                established(other, self.now, initiator=one is seat)
        return True

    def _passes(self, seat: Seat, far: Seat, contact: Contact) -> bool:
        if contact.relay is not None:
            theirs = far.contacts.get(seat.party.public_key)
            return (
                theirs is not None
                and theirs.relay is not None
                and theirs.relay.session_id == contact.relay.session_id
                and {theirs.relay.side, contact.relay.side} == {0, 1}
            )
        if not set(contact.endpoints) & {far.endpoint, far.seen}:
            return False
        return far.nat is None or seat.party.public_key in far.opened

    def _send(self, seat: Seat, peer: bytes, payload: bytes) -> None:
        far = self.seats.get(peer)
        channel = seat.channels.get(peer)
        lost = self.rng.random() < self.loss
        name = far.party.title if far is not None else "nobody"
        self.captured.append(
            Captured(self.now, seat.party.title, name, decode_untrusted(payload), not lost)
        )
        if channel is None and peer in seat.contacts:
            # The tunnel keeps what has no session yet; the handshake is on its way.
            self.at(self.now + 0.05, lambda: self._deliver(seat, peer, payload, None))
            return
        if lost or channel is None:
            return
        for _ in range(2 if self.rng.random() < self.duplication else 1):
            delay = self.rng.uniform(*self.delays)
            self.at(self.now + delay, lambda: self._deliver(seat, peer, payload, channel))

    def _deliver(self, seat: Seat, peer: bytes, payload: bytes, channel: int | None) -> None:
        key = seat.party.public_key
        far = self.seats.get(peer)
        if channel is None:
            channel = seat.channels.get(peer)
        if channel is not None and far is not None and far.up and far.channels.get(key) == channel:
            far.party.receive(key, payload, self.now, seat.seen)
