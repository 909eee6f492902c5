"""A node that moves: real negotiation, tunnel, paths, relay bindings and ends of paths.

What runtime/peers_managed.py, station.py and carrier.py decide for a node is repeated here, and
nothing more. It has no notification service (device type ``none``).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from mobility_world import WorldSeat

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import DropCounter
from ntmpatch.handover.bindings import RelayBindings, RelayedEndpoint, RelayFailed
from ntmpatch.handover.paths import PathManager
from ntmpatch.handover.ways import PathChanged, PathLost, PortedEndpoint, Suspected
from ntmpatch.negotiation.node import NodeNegotiation
from ntmpatch.packet.tunnel.tunnel import Established, Expired, HeardElsewhere, Waiting
from ntmpatch.runtime.ends import FAMILIES, NodeEnds
from ntmpatch.runtime.peers_managed import DOUBT
from ntmpatch.runtime.server_ends import ServerEnds
from ntmpatch.runtime.station import FIRST_RETRIES
from ntmpatch.wire.control import CONTROL_BYTE
from ntmpatch.wire.paths import PATH_BYTE, Candidate, CandidateKind
from ntmpatch.wire.relay import FRAME_DATA, RELAY_BYTE, RELAY_HEADER_SIZE
from ntmpatch.wire.wireguard import MIN_DATA_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mobility_access import Access
    from mobility_world import Path, World, WorldDomain

    from ntmpatch.handover.networks import Picture
    from ntmpatch.packet.tunnel.peer import Peer
    from ntmpatch.signalling.effects import Contact, RelayRoute

PORT = 5000
FIRST_FURTHER_PORT = 6000
APPLICATION_BYTE = 0x45
MESSAGE_SIZE = 60
TOLERANCE = 1e-6
"""Seconds: sums of instants are no more exact."""
LOOKUP_INTERVAL = 1.0
"""Seconds after which a program asks again for a name that was not found, or whose peer went."""


class _FurtherPort:
    """A UDP port beside the one that is everybody's."""

    def __init__(self, number: int) -> None:
        self.local = Endpoint("0.0.0.0", FIRST_FURTHER_PORT + number)
        self.index = 0

    def use_interface(self, index: int) -> bool:
        self.index = index
        return True


class _Ports:
    """What `NodeEnds` asks of a carrier."""

    def __init__(self) -> None:
        self.local_endpoints = (Endpoint("0.0.0.0", PORT), Endpoint("::", PORT))
        self.further: dict[int, _FurtherPort] = {}
        self.turned: dict[bool, int] = {}
        self._next = 1

    def open_port(self, bind: Endpoint, name: str) -> int:
        del bind, name
        number, self._next = self._next, self._next + 1
        self.further[number] = _FurtherPort(number)
        return number

    def further_port(self, number: int) -> _FurtherPort | None:
        return self.further.get(number)

    def close_port(self, number: int) -> None:
        self.further.pop(number, None)

    def use_interface(self, index: int, name: str, *, is_ipv6: bool) -> None:
        del name
        self.turned[is_ipv6] = index


class _Ends(NodeEnds):
    """`NodeEnds` that asks the node's kernel for routes, and not this machine's."""

    def __init__(self, has_route: Callable[[bool], bool]) -> None:
        super().__init__()
        self._has_route = has_route

    def _has_way(self, endpoint: Endpoint) -> bool:
        return self._has_route(endpoint.is_ipv6)


class MobileNode(WorldSeat):
    """A node; ``attached`` are its access networks, the one that its kernel prefers first."""

    world: World

    def __init__(
        self, domain: WorldDomain, host: int, attached: Sequence[Access], *, keeps_warm: bool
    ) -> None:
        world = domain.network
        self.host = host
        self.name = f"node{host}"
        self.fqdn = f"{self.name}.{domain.name}"
        self.attached: list[Access] = []
        self.slept = 0.0
        """Seconds that this machine's clock has stood still."""
        self.is_asleep = False
        key = domain.new_key()
        party = NodeNegotiation(
            key,
            device_type="none",
            is_in_use=self._is_in_use,
            reserves_relays=True,
            traffic=self._traffic,
            **domain.identity(key, self.fqdn, "node"),
            **world.settings(),
        )
        super().__init__(world, party, Endpoint("0.0.0.0", PORT))
        rng = random.Random(world.rng.random())
        self.drops = DropCounter()
        self.ports = _Ports()
        self.ends = _Ends(lambda is_ipv6: self._route(is_ipv6) is not None)
        self._server_ends: Any = ServerEnds(self.reachable, self._has_way)
        self.ends.use(self.ports)  # type: ignore[arg-type]  # what of a carrier is asked
        self.paths: PathManager[Any] = PathManager(
            self.tunnel.public_key,
            ends=self.ends.ends,
            entropy=rng.randbytes,
            drops=self.drops,
            keeps_warm=keeps_warm,
            open_ports=self.ends.open_ports,
            close_ports=self.ends.close_ports,
        )
        self.relays = RelayBindings(
            is_used=self._is_used, is_active=self._is_in_use, drops=self.drops
        )
        self.changes: list[tuple[float, bytes, Path | None]] = []
        """Each time that data goes another way: when, to whom, and by what from then on."""
        self._paths_before: dict[bytes, Path | None] = {}
        self.told_unreachable: list[float] = []
        self.received: list[tuple[float, bytes, int]] = []
        """Application messages: when, from whom, and the number."""
        self._picture: Picture = ()
        self._seen: Endpoint | None = None
        self._asked_at: dict[str, float] = {}
        self._lookups: dict[int, str] = {}
        self._keys: dict[str, bytes] = {}
        self._contacts: dict[bytes, Contact] = {}
        world.seats[key] = self
        self._attach(attached)
        self.ends.update(self._picture)
        self.paths.ends_changed(self.clock())
        party.begin(self._local_endpoints(), self.clock())
        world.at(world.now, self.wake)

    def clock(self) -> float:
        """Linux's monotonic clock does not count sleep."""
        return self.world.now - self.slept

    # --- the machine -----------------------------------------------------------------------

    def _attach(self, attached: Sequence[Access]) -> None:
        """These are the access networks from now on; the kernel has yet to tell."""
        for access in self.attached:
            for is_ipv6 in access.gateways:
                self.world.place(access.address(self.host, is_ipv6=is_ipv6), None)
        self.attached = list(attached)
        for access in self.attached:
            for is_ipv6 in access.gateways:
                self.world.place(access.address(self.host, is_ipv6=is_ipv6), self)
        self._picture = tuple(
            network
            for order, access in enumerate(self.attached)
            for network in access.networks(self.host, 100 + 100 * order)
        )

    def move(self, attached: Sequence[Access], notice_after: float) -> None:
        """Other access networks; the handover module tells after ``notice_after`` seconds."""
        self._attach(attached)
        picture = self._picture

        def notice() -> None:
            if picture is self._picture:
                self._moved(is_interrupted=False)

        if not self.is_asleep:
            self.world.at(self.world.now + notice_after, notice)

    def sleep(self, seconds: float) -> None:
        """Suspend the machine, and resume it."""
        self.is_asleep = True
        self.up = False
        self.stop_alarm()
        began_at = self.world.now

        def resume() -> None:
            self.is_asleep = False
            self.up = True
            self.slept += self.world.now - began_at
            self._moved(is_interrupted=True)

        self.world.at(began_at + seconds, resume)

    def _route(self, is_ipv6: bool) -> Access | None:
        """The kernel's choice for everybody's ports, or what was turned to."""
        index = self.ports.turned.get(is_ipv6, 0)
        return next(
            (
                access
                for access in self.attached
                if is_ipv6 in access.gateways and index in (0, access.number + 1)
            ),
            None,
        )

    def _local_endpoints(self) -> tuple[Endpoint, ...]:
        found = [Endpoint(network.address, PORT) for network in self._picture]
        return tuple(dict.fromkeys(found))

    def _send_by(
        self, access: Access | None, port: int, destination: Endpoint, data: bytes
    ) -> None:
        if access is None or access not in self.attached:
            return
        is_ipv6 = destination.is_ipv6
        if is_ipv6 in access.gateways:
            source = Endpoint(access.address(self.host, is_ipv6=is_ipv6), port)
            self.world.send_from_node(access, source, destination, data)

    # --- as the carrier --------------------------------------------------------------------

    def arrive(self, source: Endpoint, destination: Endpoint, data: bytes) -> None:
        """A datagram is there."""
        if not self.up:
            return
        path: Any = source
        if destination.port != PORT:
            number = destination.port - FIRST_FURTHER_PORT
            port = self.ports.further.get(number)
            if port is None:
                return
            path = PortedEndpoint(number, source, f"net{port.index - 1}")
        elif data[0] == RELAY_BYTE:
            if data[1] != FRAME_DATA:
                self.relays.receive(data, source, self.clock())
                self.wake()
                return
            path = RelayedEndpoint(source, data[:RELAY_HEADER_SIZE])
            if not self.relays.accepts(path):
                return
            data = data[RELAY_HEADER_SIZE:]
        self.open(path, data)
        self.wake()

    def deliver(self, peer: Peer[Path], packet: memoryview, path: Path, now: float) -> None:
        """A message about paths, or the application's."""
        if packet[0] == PATH_BYTE:
            self.paths.message(peer, packet, path, now)
            return
        assert packet[0] == APPLICATION_BYTE != CONTROL_BYTE
        if not peer.roams and path != peer.endpoint:
            self.paths.elsewhere(peer, path, len(packet), now)
        self.received.append((self.world.now, peer.public_key, int.from_bytes(packet[1:9])))

    def transmit(self, path: Path, data: bytes) -> None:
        """Send one tunnel message."""
        if isinstance(path, PortedEndpoint):
            port = self.ports.further.get(path.port)
            if port is not None:
                access = next((a for a in self.attached if a.number + 1 == port.index), None)
                self._send_by(access, port.local.port, path.remote, data)
        elif isinstance(path, RelayedEndpoint):
            route = self._route(path.relay.is_ipv6)
            self._send_by(route, PORT, path.relay, path.header + data)
        else:
            self._send_by(self._route(path.is_ipv6), PORT, path, data)

    def run_paths(self, now: float) -> None:
        due_at = self.paths.poll_timeout()
        if due_at is not None and due_at <= now:
            self.paths.handle_timeout(now)
        due_at = self.relays.poll_timeout()
        if due_at is not None and due_at <= now:
            self.relays.handle_timeout(now)
        self._send_bindings()
        self._hear_of_relays(now)

    def _send_bindings(self) -> None:
        while (transmit := self.relays.poll_transmit()) is not None:
            relay, frame = transmit
            self._send_by(self._route(relay.is_ipv6), PORT, relay, frame)

    def tunnel_event(self, event: Any, now: float) -> None:
        key = event.peer.public_key
        if isinstance(event, Waiting):
            self.paths.waiting(event.peer, now)
        elif isinstance(event, HeardElsewhere):
            self.paths.elsewhere(event.peer, event.source, MIN_DATA_SIZE, now)
        elif isinstance(event, Established):
            self.paths.established(event.peer, now)
            self.party.tunnel_established(key, now, initiator=event.initiator)
        elif isinstance(event, Expired):
            self.party.tunnel_expired(key, now)
        else:
            super().tunnel_event(event, now)

    # --- as the station --------------------------------------------------------------------

    def _is_used(self, public_key: bytes, path: RelayedEndpoint) -> bool:
        peer = self.tunnel.peers.get(public_key)
        return peer is not None and peer.endpoint == path

    def _hear_of_relays(self, now: float) -> None:
        while (event := self.relays.poll_event()) is not None:
            key, relay_key = event.public_key, event.relay_key
            if isinstance(event, RelayFailed):
                self.world.tell(self.name, f"relay failed, in use: {event.in_use}")
                self.party.relay_failed(key, relay_key, now, in_use=event.in_use)
                continue
            self.paths.gone(key, event.path)
            if not event.replaced:
                self.party.relay_released(key, relay_key, now)

    def meet(self, contact: Contact, now: float) -> None:
        self._contacts[contact.public_key] = contact
        if contact.role != "node":
            super().meet(contact, now)
            self._server_ends.called(self.tunnel.peers[contact.public_key], contact, now)
            return
        route = contact.relay
        path = self._relayed(contact.public_key, route, now) if route is not None else None
        peer = self.tunnel.peers.get(contact.public_key)
        if peer is None or peer.preshared_key != contact.preshared_key:
            peer = self.tunnel.add_peer(
                contact.public_key,
                preshared_key=contact.preshared_key,
                persistent_keepalive_interval=contact.persistent_keepalive_interval,
                first_retries=FIRST_RETRIES,
            )
        else:
            peer.persistent_keepalive_interval = contact.persistent_keepalive_interval
        direct: list[Any] = self.reachable(contact.endpoints)
        ways = [path, *direct] if path is not None else direct
        how = "relayed" if contact.relay is not None else "direct"
        self.world.tell(self.name, f"directed to {contact.name} {how}, ways {len(ways)}")
        self._watch(peer, ways, now, contact.endpoints)
        if contact.initiate:
            self._to_call.append(peer)

    def _watch(
        self, peer: Peer[Path], ways: list[Any], now: float, endpoints: Sequence[Endpoint] = ()
    ) -> None:
        unique = list(dict.fromkeys(ways))
        leaving = self.relays.replaced(peer.public_key)
        self.paths.watch(peer, unique, now, endpoints, leaving=leaving)

    def _relayed(self, public_key: bytes, route: RelayRoute, now: float) -> RelayedEndpoint:
        relay = min(self.reachable(route.endpoints), key=self._is_other_family)
        return self.relays.take(public_key, route, relay, now)

    def _has_way(self, end: Endpoint) -> bool:
        return self._route(end.is_ipv6) is not None

    def _change_families(self, now: float) -> None:
        for key, contact in self._contacts.items():
            peer = self.tunnel.peers.get(key)
            if peer is None:
                continue
            if contact.role != "node":
                self._server_ends.moved(peer, contact)
                continue
            before, route = self.relays.path(key), self.relays.route(key)
            if before is not None and route is not None and not self._has_way(before.relay):
                self._watch(peer, [self._relayed(key, route, now)], now)

    def _turn_from_silent_servers(self) -> bool:
        turned = [
            self._server_ends.silent(peer, contact)
            for key, contact in self._contacts.items()
            if contact.role != "node" and (peer := self.tunnel.peers.get(key)) is not None
        ]
        return any(turned)

    def _is_other_family(self, end: Endpoint) -> bool:
        spoken_to = (
            self.tunnel.peers[key].endpoint
            for key, contact in self._contacts.items()
            if contact.role == "dc" and key in self.tunnel.peers
        )
        return any(isinstance(each, Endpoint) and each.is_ipv6 != end.is_ipv6 for each in spoken_to)

    def reachable(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        """As Station.reachable; a way is where the kernel has a route."""
        routable = [end for end in endpoints if self._route(end.is_ipv6) is not None]
        return routable or list(endpoints)

    def part(self, public_key: bytes) -> None:
        self._contacts.pop(public_key, None)
        self._server_ends.forget(public_key)
        self.world.tell(self.name, "a peer is forgotten")
        self.relays.forget(public_key)
        super().part(public_key)
        self.paths.forget(public_key)
        for name, key in list(self._keys.items()):
            if key == public_key:
                del self._keys[name]

    # --- as the managed peers --------------------------------------------------------------

    def before_transmit(self, now: float) -> None:
        while (event := self.paths.poll_event()) is not None:
            key = event.public_key
            if isinstance(event, PathChanged):
                peer = self.tunnel.peers.get(key)
                path = peer.endpoint if peer is not None else None
                if path != self._paths_before.get(key):  # or else it is the same one, alive again
                    self._paths_before[key] = path
                    self.changes.append((self.world.now, key, path))
                    self.world.tell(self.name, f"path changed to {_shown(path)}")
                self._follow_network(key)
            elif isinstance(event, PathLost):
                self._follow_network(key)
            elif isinstance(event, Suspected):
                self.relays.check(key, now)
            else:
                self.world.tell(self.name, "unreachable")
                self.told_unreachable.append(self.world.now)
                self.party.unreachable(key, now)
                self._doubt_network(now)
        if self.party.seen_endpoint != self._seen:
            self._seen = self.party.seen_endpoint
            self.world.tell(self.name, f"registered, seen at {self._seen}")
            self.paths.reachable_at(self._candidates(), now)
        self._hear_answers()
        self._send_bindings()

    def _is_in_use(self, public_key: bytes) -> bool:
        peer = self.tunnel.peers.get(public_key)
        session = None if peer is None else peer.current
        return session is not None and self.clock() < session.reject_at

    def _moved(self, *, is_interrupted: bool) -> None:
        now = self.clock()
        self.world.tell(self.name, "notices its networks")
        changed = self.ends.update(self._picture)
        families = FAMILIES if is_interrupted else changed
        self._change_families(now)
        self.paths.closed(lambda path: not self.ends.is_open(path), now)
        if families:
            self._leave_network(families)
        else:
            self.paths.ends_changed(now)
            self.paths.reachable_at(self._candidates(), now)
        self.wake()

    def _leave_network(self, families: frozenset[bool] = FAMILIES) -> None:
        now = self.clock()
        self.relays.refresh(now)
        own = self.ends.candidates(())
        self.paths.network_changed(now, own, lambda path: self.ends.is_preferred(path, families))
        for peer in list(self.tunnel.peers.values()):
            if peer.roams:
                peer.keepalive(now)
        self.party.network_changed(self._local_endpoints(), now)

    def _traffic(self, public_key: bytes) -> int:
        peer = self.tunnel.peers.get(public_key)
        return 0 if peer is None else peer.rx_bytes + peer.tx_bytes

    def _follow_network(self, public_key: bytes) -> None:
        peer = self.tunnel.peers.get(public_key)
        index = self.ends.interface_of(peer.endpoint if peer is not None else None)
        if index is None:
            return
        stays = self.paths.is_used if self.ends.is_kernels(index) else self.paths.works
        if not stays(self.ends.is_preferred):
            self._turn_to(index)

    def _doubt_network(self, now: float) -> None:
        self.party.confirm_network(now)
        self.world.at(self.world.now + DOUBT, self._turn_if_silent)

    def _turn_if_silent(self) -> None:
        since = self.party.unanswered_since
        if not self.up or since is None:
            return
        remaining = since + DOUBT - self.clock()
        if remaining > TOLERANCE:
            self.world.at(self.world.now + remaining, self._turn_if_silent)
            return
        index = self.ends.other_interface()
        if index is not None:
            self._turn_to(index)
        elif self._turn_from_silent_servers():
            self.party.network_changed(self._local_endpoints(), self.clock())
        self.wake()

    def _turn_to(self, index: int) -> None:
        if self.ends.turn_to(index):
            self.world.tell(self.name, f"turns to net{index - 1}")
            self._leave_network()

    def _candidates(self) -> list[Candidate]:
        mapped = [] if self._seen is None else [Candidate(CandidateKind.MAPPED, self._seen)]
        return self.ends.candidates(mapped)

    def instants(self) -> list[float | None]:
        return [*super().instants(), self.paths.poll_timeout(), self.relays.poll_timeout()]

    # --- as a program ----------------------------------------------------------------------

    def say(self, other: MobileNode, number: int) -> None:
        """Send an application message; look the peer up first, if it is not known."""
        if not self.up:
            return
        now = self.clock()
        key = self._keys.get(other.fqdn)
        peer = self.tunnel.peers.get(key) if key is not None else None
        if peer is None:
            self._look_up(other.fqdn, now)
            return
        if peer.budget is not None:
            if peer.budget < MESSAGE_SIZE:
                peer.is_starved = True
                return
            peer.budget -= MESSAGE_SIZE
        body = bytes((APPLICATION_BYTE,)) + number.to_bytes(8) + bytes(MESSAGE_SIZE - 9)
        peer.send(body, now)
        self.wake()

    def _look_up(self, fqdn: str, now: float) -> None:
        if now - self._asked_at.get(fqdn, float("-inf")) < LOOKUP_INTERVAL:
            return
        if fqdn in self._lookups.values():
            return
        self._asked_at[fqdn] = now
        self.tunnel.hold_unknown(now + 12.0)
        self._lookups[self.party.resolve(fqdn, now)] = fqdn
        self.wake()

    def _hear_answers(self) -> None:
        for effect in self.effects:
            request_id = getattr(effect, "request_id", None)
            fqdn = self._lookups.pop(request_id, None) if request_id is not None else None
            if fqdn is not None:
                public_key = getattr(effect, "public_key", None)
                self.world.tell(self.name, f"look-up: {type(effect).__name__}")
                if public_key is not None:
                    self._keys[fqdn] = public_key
        if self._asked_at:
            self.effects = [e for e in self.effects if not hasattr(e, "request_id")]

    def path_to(self, other: MobileNode) -> Any:
        """The path in use."""
        peer = self.tunnel.peers.get(other.tunnel.public_key)
        return None if peer is None else peer.endpoint


def _shown(path: Any) -> str:
    if isinstance(path, RelayedEndpoint):
        return f"relay {path.relay}"
    return str(path)
