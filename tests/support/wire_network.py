"""Parties with their real tunnels in virtual time, and an attacker on the wire between them.

Every datagram is one that `Tunnel` made and one that `Tunnel` opens: the attacker sees all of them,
and may drop, change, repeat and make up any. What runtime/station.py and runtime/carrier.py do with
sockets is done here with a queue. A node's connection to its NS is datagrams as well.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop
from ntmpatch.packet.tunnel.tunnel import Admitted, Established, Expired, Tunnel
from ntmpatch.signalling.effects import Contact, Effect, Forget, Traced, Work
from ntmpatch.wire.control import CONTROL_BYTE
from ntmpatch.wire.relay import (
    FRAME_DATA,
    RELAY_BYTE,
    RELAY_HEADER_SIZE,
    bind_frame,
    data_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.packet.tunnel.peer import Peer

EPOCH = 1_800_000_000.0
DELAY = 0.005
JOB_DELAY = 0.002
FIRST_RETRIES = (0.1, 0.2, 0.4, 0.8)
HOLD_TIMEOUT = 12.0


class Relayed(NamedTuple):
    """A peer behind a relay server, as runtime/carrier.py has it."""

    relay: Endpoint
    header: bytes


Path: TypeAlias = Endpoint | Relayed


class Datagram(NamedTuple):
    """What is on the wire, with the addresses that it shows there."""

    at: float
    source: Endpoint
    destination: Endpoint
    data: bytes


@dataclass(eq=False)
class Seat:
    """A party on the network, with its tunnel."""

    party: Any
    tunnel: Tunnel[Path]
    endpoint: Endpoint
    nat: Endpoint | None = None
    effects: list[Effect] = field(default_factory=list)
    packets: list[tuple[bytes, bytes]] = field(default_factory=list)
    """IP packets that came out of the tunnel, each with the peer's key."""
    opened: set[Endpoint] = field(default_factory=set)
    """Endpoints that the NAT lets in: something was sent there."""
    relays: set[Relayed] = field(default_factory=set)
    bytes_out: dict[Endpoint, int] = field(default_factory=dict)
    up: bool = True

    @property
    def seen(self) -> Endpoint:
        return self.nat or self.endpoint

    @property
    def drops(self) -> Any:
        """Of party and tunnel together."""
        return self.party.drops + self.tunnel.drops

    def of(self, kind: type) -> list[Any]:
        return [effect for effect in self.effects if isinstance(effect, kind)]


class WireNetwork:
    """The counterpart of VirtualNetwork, for `WireDomain`."""

    def __init__(self, seed: int, *, private_keys: dict[bytes, bytes]) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.private_keys = private_keys
        self.seats: dict[bytes, Seat] = {}
        self.wire: list[Datagram] = []
        """Everything that was sent, before the attacker dealt with it."""
        self.attack: Callable[[Datagram], list[Datagram]] = lambda datagram: [datagram]
        """What becomes of a datagram: what is returned goes on."""
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

    def seat(self, party: Any, endpoint: Endpoint, nat: Endpoint | None = None) -> Seat:
        """Put a party on the network, or put it back there after a restart."""
        rng = random.Random(self.rng.random())
        tunnel: Tunnel[Path] = Tunnel(
            self.private_keys[party.public_key],
            now=self.now,
            rng=rng,
            wall_clock=self.wall_clock,
            entropy=rng.randbytes,
            admit=(lambda key: bool(party.admit(key, self.now))),
        )
        assert tunnel.public_key == party.public_key
        seat = self.seats[party.public_key] = Seat(party, tunnel, endpoint, nat)
        return seat

    def at(self, due_at: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (due_at, next(self._counter), action))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Go on for so many virtual seconds, or until something is so; whether it became so."""
        end = self.now + seconds
        for _ in range(1_000_000):
            self._flush()
            if until():
                return True
            instants = [self._queue[0][0]] if self._queue else []
            for seat in self.seats.values():
                if seat.up:
                    due = (seat.party.poll_timeout(), seat.tunnel.poll_timeout())
                    instants += [instant for instant in due if instant is not None]
            next_at = max(min(instants, default=end + 1.0), self.now)
            if next_at > end:
                self.now = end
                return until()
            self.now = next_at
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
            for seat in list(self.seats.values()):
                for core in (seat.tunnel, seat.party):
                    due_at = core.poll_timeout() if seat.up else None
                    if due_at is not None and due_at <= self.now:
                        core.handle_timeout(self.now)
        raise AssertionError("the network does not come to rest")

    # --- the wire ------------------------------------------------------------------------

    def inject(
        self, source: Endpoint, destination: Endpoint, data: bytes, delay: float = DELAY
    ) -> None:
        """Let something arrive at ``destination`` that nobody need have sent."""
        self.at(self.now + delay, lambda: self._arrive(source, destination, data))

    def _send(self, seat: Seat, destination: Endpoint, data: bytes) -> None:
        seat.opened.add(destination)
        seat.bytes_out[destination] = seat.bytes_out.get(destination, 0) + len(data)
        datagram = Datagram(self.now, seat.seen, destination, data)
        self.wire.append(datagram)
        for each in self.attack(datagram):
            self.inject(each.source, each.destination, each.data)

    def _arrive(self, source: Endpoint, destination: Endpoint, data: bytes) -> None:
        for seat in self.seats.values():
            if not seat.up or destination != seat.seen:
                continue
            if seat.nat is None or source in seat.opened:
                self._receive(seat, source, data)

    def _receive(self, seat: Seat, source: Endpoint, data: bytes) -> None:
        path: Path = source
        if len(data) >= RELAY_HEADER_SIZE and data[0] == RELAY_BYTE:
            table = getattr(seat.party, "table", None)
            if table is not None:
                self._relay(seat, table, source, data)
                return
            path = Relayed(source, data[:RELAY_HEADER_SIZE])
            if path not in seat.relays:
                if data[1] == FRAME_DATA:
                    seat.tunnel.drops.drop(Drop.RELAY_UNKNOWN_SESSION)
                return
            data = data[RELAY_HEADER_SIZE:]
        for peer, packets in seat.tunnel.receive(memoryview(data), len(data) or 1, path, self.now):
            for packet in [bytes(each) for each in packets]:
                if packet[0] == CONTROL_BYTE:
                    seen = path if isinstance(path, Endpoint) else None
                    seat.party.receive(peer.public_key, packet, self.now, seen)
                else:
                    seat.packets.append((peer.public_key, packet))

    def _relay(self, seat: Seat, table: Any, source: Endpoint, data: bytes) -> None:
        if data[1] == FRAME_DATA:
            for onward in table.forward(source, memoryview(data), len(data), self.now):
                self._send(seat, onward.destination, bytes(onward.buffer))
            return
        answer = table.bind(source, data, self.now)
        if answer is not None:
            self._send(seat, source, answer)

    # --- what parties and tunnels want ---------------------------------------------------

    def _flush(self) -> None:
        busy = True
        while busy:
            busy = False
            for seat in list(self.seats.values()):
                while seat.up and self._flush_one(seat):
                    busy = True

    def _flush_one(self, seat: Seat) -> bool:
        event = seat.tunnel.poll_event()
        if event is not None:
            self._event(seat, event)
            return True
        effect = seat.party.poll_effect()
        if effect is not None:
            self._carry_out(seat, effect)
            return True
        control = seat.party.poll_transmit()
        if control is not None:
            peer = seat.tunnel.peers.get(control[0])
            if peer is not None:
                peer.send(control[1], self.now)
            return True
        transmit = seat.tunnel.poll_transmit()
        if transmit is not None:
            path, data = transmit
            if isinstance(path, Relayed):
                self._send(seat, path.relay, path.header + data)
            else:
                self._send(seat, path, data)
        return transmit is not None

    def _event(self, seat: Seat, event: Any) -> None:
        key, party = event.peer.public_key, seat.party
        if isinstance(event, Admitted):
            party.admitted(key, self.now)
        elif isinstance(event, Established) and hasattr(party, "tunnel_established"):
            party.tunnel_established(key, self.now)
        elif isinstance(event, Expired) and hasattr(party, "tunnel_expired"):
            party.tunnel_expired(key, self.now)

    def _carry_out(self, seat: Seat, effect: Effect) -> None:
        seat.effects.append(effect)
        if isinstance(effect, Work):
            self.at(self.now + JOB_DELAY, lambda: self._work(seat, effect))
        elif isinstance(effect, Contact):
            self._meet(seat, effect)
        elif isinstance(effect, Forget):
            seat.tunnel.remove_peer(effect.public_key)
        elif isinstance(effect, Traced):
            self.trace.append(effect)

    def _work(self, seat: Seat, job: Work) -> None:
        try:
            outcome: Any = job.run()
        except Exception as error:
            outcome = error
        if seat.up:
            seat.party.complete(job, outcome, self.now)

    def _meet(self, seat: Seat, contact: Contact) -> None:
        tunnel = seat.tunnel
        path: Path | None = contact.endpoints[0] if contact.endpoints else None
        if contact.relay is not None:
            route = contact.relay
            path = Relayed(route.endpoints[0], data_header(route.session_id))
            seat.relays.add(path)
            counter = int(self.wall_clock() * 1e9)
            frame = bind_frame(route.session_id, route.side, route.capability, counter)
            self._send(seat, path.relay, frame)
        peer: Peer[Path] | None = tunnel.peers.get(contact.public_key)
        if peer is None or peer.preshared_key != contact.preshared_key:
            peer = tunnel.add_peer(
                contact.public_key,
                preshared_key=contact.preshared_key,
                endpoint=path or (peer.endpoint if peer is not None else None),
                persistent_keepalive_interval=contact.persistent_keepalive_interval,
                first_retries=FIRST_RETRIES,
            )
        else:
            if path is not None and peer.endpoint is None:
                peer.endpoint = path
            peer.persistent_keepalive_interval = contact.persistent_keepalive_interval
        if contact.initiate or contact.connection:
            peer.initiate(self.now)
