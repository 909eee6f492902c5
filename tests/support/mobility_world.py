"""A world of moving nodes in virtual time: access networks, an Internet, and a domain's servers.

Every party is the real one behind its real tunnel; what runtime/station.py and runtime/carrier.py
do with sockets and greenlets is done here with a queue (`WorldSeat.wake`, in the carrier's order).
"""

from __future__ import annotations

import heapq
import itertools
import random
from typing import TYPE_CHECKING, Any, TypeAlias

from wire_domain import WireDomain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.handover.bindings import RelayedEndpoint
from ntmpatch.handover.ways import PortedEndpoint
from ntmpatch.packet.tunnel.tunnel import Admitted, Tunnel
from ntmpatch.runtime.station import FIRST_RETRIES
from ntmpatch.servers.direction.server import DirectionServer
from ntmpatch.servers.relay.server import RelayServer
from ntmpatch.signalling.effects import (
    Contact,
    Effect,
    Failed,
    Forget,
    Persist,
    Ready,
    Resolved,
    Unresolved,
    Work,
)
from ntmpatch.wire.control import CONTROL_BYTE
from ntmpatch.wire.relay import FRAME_DATA, RELAY_BYTE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from domain import Ticket
    from mobility_access import Access

    from ntmpatch.packet.tunnel.peer import Peer

EPOCH = 1_800_000_000.0
JOB_DELAY = 0.002
SERVER_DELAY = 0.003
"""Seconds between the Internet and a server."""
DUPLICATION = 0.002
"""Share of datagrams that arrive twice."""
RELAYS = ("rs1", "rs2")
_KEPT = (Ready, Persist, Resolved, Unresolved)
"""Effects that are looked at later; the others are carried out and forgotten."""

Path: TypeAlias = Endpoint | RelayedEndpoint | PortedEndpoint


def ipv6_twin(endpoint: Endpoint) -> Endpoint:
    """Where a server of this IPv4 endpoint is in IPv6."""
    return Endpoint("2001:db8:ffff::" + endpoint.host.rpartition(".")[2], endpoint.port)


class WorldSeat:
    """A server in the world: a party with its tunnel. Nodes are `mobility_node.MobileNode`."""

    def __init__(self, world: World, party: Any, endpoint: Endpoint) -> None:
        self.world = world
        self.party = party
        self.endpoint = self.seen = endpoint
        self.endpoints = {False: endpoint, True: ipv6_twin(endpoint)}
        self.effects: list[Effect] = []
        self.up = True
        rng = random.Random(world.rng.random())
        self.tunnel: Tunnel[Path] = Tunnel(
            world.private_keys[party.public_key],
            now=self.clock(),
            rng=rng,
            wall_clock=world.wall_clock,
            entropy=rng.randbytes,
            admit=(lambda key: bool(party.admit(key, self.clock()))),
        )
        self._alarm_at = float("inf")
        self._alarm_number = 0
        self._to_call: list[Peer[Path]] = []

    def of(self, kind: type) -> list[Any]:
        """What the party told of that kind."""
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def clock(self) -> float:
        """This machine's monotonic clock."""
        return self.world.now

    # --- the carrier -----------------------------------------------------------------------

    def arrive(self, source: Endpoint, destination: Endpoint, data: bytes) -> None:
        """A datagram is there."""
        table = getattr(self.party, "table", None)
        if table is not None and data[0] == RELAY_BYTE:
            self._relay(table, source, destination, data)
            return
        self.open(source, data)
        self.wake()

    def open(self, path: Path, data: bytes) -> None:
        """Open a tunnel message that came by ``path``."""
        now = self.clock()
        for peer, packets in self.tunnel.receive(memoryview(data), len(data), path, now):
            for packet in packets:
                if packet[0] == CONTROL_BYTE:
                    seen = path if isinstance(path, Endpoint) else None
                    self.party.receive(peer.public_key, bytes(packet), now, seen)
                else:
                    self.deliver(peer, packet, path, now)

    def deliver(self, peer: Peer[Path], packet: memoryview, path: Path, now: float) -> None:
        """A packet that is no control message: servers have no use for any."""
        del peer, packet, path, now

    def _relay(self, table: Any, source: Endpoint, _destination: Endpoint, data: bytes) -> None:
        now = self.clock()
        send = self.world.send_from_server
        if data[1] == FRAME_DATA:
            for onward in table.forward(source, memoryview(data), len(data), now):
                send(self, onward.destination, bytes(onward.buffer))
            return
        answer = table.bind(source, data, now)
        if answer is not None:
            send(self, source, answer)

    def transmit(self, path: Path, data: bytes) -> None:
        """Send one tunnel message."""
        assert isinstance(path, Endpoint)
        self.world.send_from_server(self, path, data)

    def wake(self) -> None:
        """Let every core run what is due and send what it has, as Carrier.wake does."""
        if not self.up:
            return
        now = self.clock()
        due_at = self.tunnel.poll_timeout()
        if due_at is not None and due_at <= now:
            self.tunnel.handle_timeout(now)
        self._drain_events(now)
        self.run_paths(now)
        self._transmit_all()
        self._run_party(now)
        self._drain_events(now)
        self._transmit_all()
        self._ask_alarm()

    def run_paths(self, now: float) -> None:
        """What a node does between its tunnel and its party."""

    def _drain_events(self, now: float) -> None:
        while (event := self.tunnel.poll_event()) is not None:
            self.tunnel_event(event, now)

    def tunnel_event(self, event: Any, now: float) -> None:
        """The tunnel tells something."""
        if isinstance(event, Admitted):
            self.party.admitted(event.peer.public_key, now)

    def _transmit_all(self) -> None:
        while (transmit := self.tunnel.poll_transmit()) is not None:
            self.transmit(*transmit)

    def before_transmit(self, now: float) -> None:
        """What a node does before its party's messages go."""

    def _run_party(self, now: float) -> None:
        party = self.party
        due_at = party.poll_timeout()
        if due_at is not None and due_at <= now:
            party.handle_timeout(now)
        while True:
            while (effect := party.poll_effect()) is not None:
                self._carry_out(effect, now)
            self.before_transmit(now)
            transmit = party.poll_transmit()
            if transmit is None:
                break
            while transmit is not None:
                peer = self.tunnel.peers.get(transmit[0])
                if peer is not None:
                    peer.send(transmit[1], now)
                transmit = party.poll_transmit()
        while self._to_call:
            peer = self._to_call.pop()
            if self.tunnel.peers.get(peer.public_key) is peer:
                peer.initiate(now)

    # --- the alarm -------------------------------------------------------------------------

    def instants(self) -> list[float | None]:
        """When the cores want to be called, by this machine's clock."""
        return [self.tunnel.poll_timeout(), self.party.poll_timeout()]

    def _ask_alarm(self) -> None:
        due_at = min((at for at in self.instants() if at is not None), default=float("inf"))
        slept = self.world.now - self.clock()
        if slept:
            due_at += slept + 1e-9  # so that rounding never has it ring too early
        if due_at >= self._alarm_at:
            return
        self._alarm_at = due_at = max(due_at, self.world.now)
        self._alarm_number += 1
        number = self._alarm_number

        def ring() -> None:
            if number == self._alarm_number:
                self._alarm_at = float("inf")
                self.wake()

        self.world.at(due_at, ring)

    def stop_alarm(self) -> None:
        """Nothing is due any more."""
        self._alarm_at = float("inf")
        self._alarm_number += 1

    # --- the party -------------------------------------------------------------------------

    def _carry_out(self, effect: Effect, now: float) -> None:
        if isinstance(effect, _KEPT):
            self.effects.append(effect)
        if isinstance(effect, Work):
            self.world.at(self.world.now + JOB_DELAY, lambda: self._work(effect))
        elif isinstance(effect, Contact):
            self.meet(effect, now)
        elif isinstance(effect, Forget):
            self.part(effect.public_key)
        elif isinstance(effect, Failed):
            self.world.tell(self.party.title, f"failed: {effect.what}: {effect.error}")

    def _work(self, job: Work) -> None:
        if not self.up:
            return
        try:
            outcome: Any = job.run()
        except Exception as error:
            outcome = error
        self.party.complete(job, outcome, self.clock())
        self.wake()

    def meet(self, contact: Contact, now: float) -> None:
        """Keep a channel, as Station._meet does for what is no node."""
        del now
        path = next(iter(self.reachable(contact.endpoints)), None)
        peer = self.tunnel.peers.get(contact.public_key)
        if peer is None or peer.preshared_key != contact.preshared_key:
            peer = self.tunnel.add_peer(
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
        if contact.initiate:
            self._to_call.append(peer)

    def reachable(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        """Those that this machine has a way to."""
        return list(endpoints)

    def part(self, public_key: bytes) -> None:
        """Forget a peer."""
        self.tunnel.remove_peer(public_key)


class World:
    """The queue, the Internet, and who is where. It is the network of a `WorldDomain`."""

    def __init__(self, seed: int, *, private_keys: dict[bytes, bytes]) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.private_keys = private_keys
        self.seats: dict[bytes, Any] = {}
        self.accesses: list[Access] = []
        self.severed: set[frozenset[int]] = set()
        """Pairs of access networks between which nothing passes, by their numbers."""
        self.said: list[tuple[float, str, str]] = []
        """What happened, for people; kept if ``records``."""
        self.records = False
        self._servers: dict[str, WorldSeat] = {}
        self._outside: dict[str, Access] = {}
        self._inside: dict[str, Any] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = itertools.count()

    # --- for the domain ----------------------------------------------------------------------

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

    def seat(self, party: Any, endpoint: Endpoint, nat: Endpoint | None = None) -> WorldSeat:
        """Put a server on the Internet, or put it back there after a restart."""
        assert nat is None
        seat = self.seats[party.public_key] = WorldSeat(self, party, endpoint)
        for end in seat.endpoints.values():
            self._servers[end.host] = seat
        self.at(self.now, seat.wake)
        return seat

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Go on for so many virtual seconds, or until something is so; whether it became so."""
        end = self.now + seconds
        queue = self._queue
        for _ in range(1_000_000):
            if until():
                return True
            if not queue or queue[0][0] > end:
                self.now = end
                return until()
            self.now, _, action = heapq.heappop(queue)
            action()
        raise AssertionError("the world does not come to rest")

    def at(self, due_at: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (due_at, next(self._counter), action))

    def tell(self, who: str, what: str) -> None:
        """Note what happened."""
        if self.records:
            self.said.append((self.now, who, what))

    # --- the wire ----------------------------------------------------------------------------

    def add(self, access: Access) -> None:
        """Connect an access network to the Internet."""
        self.accesses.append(access)
        self._outside.update(dict.fromkeys(access.outside_hosts(), access))

    def place(self, host: str, node: Any) -> None:
        """A node has that address from now on; None: nobody has."""
        self._inside[host] = node

    def send_from_node(
        self, access: Access, source: Endpoint, destination: Endpoint, data: bytes
    ) -> None:
        """A datagram leaves a node by its access network."""
        gateway = access.gateways.get(destination.is_ipv6)
        if gateway is None or access.is_dead:
            return
        weather = access.weather
        if weather.loses(self.rng, self.now):
            return
        delay = weather.takes(self.rng)
        if destination.host in self._inside and self._is_local(access, destination):
            self.at(self.now + delay / 10, lambda: self._at_node(source, destination, data))
            return
        outside = gateway.out(source, destination, self.now)
        for _ in range(2 if self.rng.random() < DUPLICATION else 1):
            self.at(self.now + delay, lambda: self._across(access, outside, destination, data))

    def _is_local(self, access: Access, destination: Endpoint) -> bool:
        is_ipv6 = destination.is_ipv6
        return any(
            access.address(node.host, is_ipv6=is_ipv6) == destination.host
            for node in (self._inside[destination.host],)
            if node is not None
        )

    def send_from_server(self, seat: WorldSeat, destination: Endpoint, data: bytes) -> None:
        """A datagram leaves a server, with its address of that family."""
        if seat.up:
            source = seat.endpoints[destination.is_ipv6]
            delay = SERVER_DELAY
            self.at(self.now + delay, lambda: self._across(None, source, destination, data))

    def _across(
        self, access: Access | None, source: Endpoint, destination: Endpoint, data: bytes
    ) -> None:
        """It is on the Internet."""
        server = self._servers.get(destination.host)
        if server is not None:
            if server.up and server.endpoint.port == destination.port:
                at = self.now + SERVER_DELAY
                self.at(at, lambda: self._at_server(server, source, destination, data))
            return
        to = self._outside.get(destination.host)
        if to is None or to.is_dead:
            return
        if access is not None and frozenset((access.number, to.number)) in self.severed:
            return
        inside = to.gateways[destination.is_ipv6].into(source, destination, self.now)
        if inside is None or to.weather.loses(self.rng, self.now):
            return
        delay = to.weather.takes(self.rng)
        self.at(self.now + delay, lambda: self._at_node(source, inside, data))

    def _at_server(
        self, seat: WorldSeat, source: Endpoint, destination: Endpoint, data: bytes
    ) -> None:
        if seat.up:
            seat.arrive(source, destination, data)

    def _at_node(self, source: Endpoint, destination: Endpoint, data: bytes) -> None:
        node = self._inside.get(destination.host)
        if node is not None:
            node.arrive(source, destination, data)


class WorldDomain(WireDomain):
    """The domain of the nodes: AS, one DC and two RSs, each in both families."""

    network_type = World  # type: ignore[assignment]  # it offers what a domain asks of a network
    network: World  # type: ignore[assignment]
    coordinator: Any
    relays: dict[str, Any]

    def begin(self) -> None:
        """Start the servers; ready when it returns."""
        self.relay_keys = {label: self.new_key() for label in RELAYS}
        self.coordinator = self.start_coordinator()
        self.relays = {label: self.start_relay(label) for label in RELAYS}
        seats = [self.coordinator, *self.relays.values()]
        assert self.network.run(60.0, lambda: all(seat.of(Ready) for seat in seats))

    def start_coordinator(self) -> Any:
        """The DC; again after it has died."""
        return self._start(
            DirectionServer,
            self.dc_key,
            f"dc.{self.name}",
            "dc",
            self.endpoint(2),
            store=self.locations,
            finder=self.names,
            policy=self.policy,
        )

    def start_relay(self, label: str) -> Any:
        """An RS; again after it has died, and with no session left."""
        place = self.endpoint(4 + RELAYS.index(label))
        return self._start(RelayServer, self.relay_keys[label], f"{label}.{self.name}", "rs", place)

    def _start(
        self, make: Any, key: bytes, fqdn: str, role: str, endpoint: Endpoint, **settings: Any
    ) -> Any:
        party = make(
            key,
            endpoints=(endpoint, ipv6_twin(endpoint)),
            **self.identity(key, fqdn, role),
            **settings,
            **self.network.settings(),
        )
        party.begin(self.network.now)
        return self.network.seat(party, endpoint)

    def ticket(self, fqdn: str, role: str = "node", *, lifetime: float = 3600.0) -> Ticket:
        """Make an account and its token."""
        ticket = super().ticket(fqdn, role, lifetime=lifetime)
        both = (*ticket.endpoints, *map(ipv6_twin, ticket.endpoints))
        return ticket._replace(endpoints=both)
