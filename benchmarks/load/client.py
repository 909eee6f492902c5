"""A light node: the real tunnel and the real transactions, and no more than the load needs.

It has no stack, no retries of its own and no timers but the tunnel's and the engine's. Each
process (`register`, `attach`, `look_up`, `enrol`) is one operation that is counted.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

from load.world import SERVERS_HOST, node_host, node_key
from ntmpatch.base.addresses import Endpoint
from ntmpatch.packet.tunnel.events import Established
from ntmpatch.packet.tunnel.tunnel import Tunnel
from ntmpatch.signalling.effects import Contact, Failed, Forget
from ntmpatch.signalling.enrolled import EnrolledParty
from ntmpatch.signalling.party import Reply
from ntmpatch.signalling.process import Event, Process, ask, wait
from ntmpatch.wire.control import CONTROL_BYTE, Kind
from ntmpatch.wire.control_messages import (
    Ack,
    Address,
    DirectionRequest,
    EnrolmentRequest,
    EnrolmentResponse,
    Notification,
    RouteDirection,
    ServiceRegistration,
)
from ntmpatch.wire.control_registration import RegistrationRequest, RegistrationResponse

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from load.loop import Loop
    from load.world import World
    from ntmpatch.signalling.engine import Request

FIRST_RETRIES = (0.1, 0.2, 0.4, 0.8)
"""As in runtime/station.py."""
ESTABLISHMENT_TIMEOUT = 6.0
_length = struct.Struct("!H")


class LightNode(EnrolledParty):
    """The party of a light node."""

    role = "node"

    def __init__(self, public_key: bytes, local: Endpoint, world: World, **settings: Any) -> None:
        super().__init__(public_key, **settings)
        self.local = local
        self.world = world
        self.directions: dict[bytes, RouteDirection] = {}
        self.answer: RegistrationResponse | None = None
        self._established: dict[bytes, Event] = {}
        self._serial = 0
        self._served_by = b""
        self.on(RouteDirection, self._directed)
        self.on(Notification, self._notified)

    def register(self, *, moved: bool = False, hidden: bool = False) -> Process[None]:
        """Fig. 5 (3), (6); ``moved``: from another port; ``hidden``: as if behind a NAT."""
        self._serial = max(self._serial + 1, int(self.wall_clock() * 1e6))
        port = 1024 + self._serial % 60000 if moved else self.local.port
        host = "192.0.2.1" if hidden else self.local.host
        self.answer = yield from ask(
            self.world.coordinator,
            RegistrationRequest(
                self.enrolment.certificate,
                (Address(host, port),),
                "tcp",
                self._serial,
                self._served_by,
            ),
            RegistrationResponse,
            "5.3" if moved else "",
        )

    def attach(self) -> Process[None]:
        """Fig. 5 (7), (8): the connection to the NS that the registration named."""
        assert self.answer is not None
        location = next(each for each in self.answer.servers if each.role == "ns")
        key = self.verify(location.certificate, role="ns").public_key
        endpoints = tuple(address.endpoint() for address in location.endpoints)
        self.emit(Contact(key, endpoints, initiate=True, connection=True))
        registration = ServiceRegistration(self.enrolment.certificate, self.world.coordinator)
        yield from ask(key, registration, Ack)
        self._served_by = key

    def look_up(self, fqdn: str) -> Process[tuple[float, float]]:
        """Fig. 3 (2)-(18); the instants at which (15) came and the tunnel was up."""
        direction = yield from ask(
            self.world.coordinator,
            DirectionRequest(fqdn, (Address(self.local.host, self.local.port),)),
            RouteDirection,
            "3.2",
        )
        directed_at = self.now
        key = self.verify(direction.certificate, role="node").public_key
        if direction.relay is None:
            yield from wait(self._established[key], ESTABLISHMENT_TIMEOUT)
        return directed_at, self.now

    def enrol_by(self, token_id: bytes, secret: bytes) -> Process[None]:
        """Be certified by the AS."""
        answer = yield from ask(
            self.account_server, EnrolmentRequest(token_id, secret), EnrolmentResponse
        )
        self.verify(answer.certificate, public_key=self.public_key)

    def session_with(self, public_key: bytes) -> Process[None]:
        """The next session with this key."""
        event = self._established[public_key] = Event()
        return wait(event, ESTABLISHMENT_TIMEOUT)

    def established(self, public_key: bytes, now: float) -> None:
        """A tunnel is up, or a channel."""
        self.now = now
        event = self._established.get(public_key)
        if event is not None:
            event.set()
            self._pump()

    def _directed(self, message: RouteDirection, request: Request) -> Ack:
        """Fig. 3 (12) → (13), (15) → (16)."""
        key = self.verify(message.certificate, role="node").public_key
        known = self.directions.get(key)
        if known is None or message.serial > known.serial:
            self.directions[key] = message
            waited_for = self._established.get(key)
            if waited_for is None or waited_for.is_set:  # else this direction took over
                self._established[key] = Event()
            if message.relay is None:
                endpoints = tuple(address.endpoint() for address in message.endpoints)
                self.emit(
                    Contact(
                        key,
                        endpoints,
                        preshared_key=message.preshared_key,
                        initiate=message.initiate,
                    )
                )
        if message.answers:
            self.conclude(request.peer, message.answers, message)
        return Ack()

    def _notified(self, message: Notification, _: Request) -> Reply:
        """Fig. 3 (10) → (11)."""
        return Reply(Ack(), to=message.coordinator, kind=Kind.RESPONSE)


class Stream:
    """The TCP connection of a light node to its NS."""

    def __init__(self, client: LightClient, remote: Endpoint) -> None:
        self._client = client
        self._outgoing: deque[bytes] = deque()
        self._incoming = bytearray()
        self._connected = False
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.bind((client.host, 0))
        code = self.socket.connect_ex(remote)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, f"connecting to {remote}")
        client.loop.watch(self.socket.fileno(), self._ready, select.EPOLLOUT)

    def send(self, message: bytes) -> None:
        """Queue one tunnel message."""
        self._outgoing.append(_length.pack(len(message)) + message)
        if self._connected:
            self._write()

    def close(self) -> None:
        """Close the connection."""
        self._client.loop.unwatch(self.socket.fileno())
        self.socket.close()

    def _write(self) -> None:
        # A light node sends some hundred bytes in all: the kernel's buffer takes them.
        while self._outgoing:
            self.socket.sendall(self._outgoing.popleft())

    def _ready(self, events: int) -> None:
        if not self._connected:
            self._connected = True
            self._client.loop.watch(self.socket.fileno(), self._ready)
            self._write()
            return
        try:
            data = self.socket.recv(65536) if events & select.EPOLLIN else b""
        except OSError:
            data = b""
        if not data:
            self._client.lost_connections += 1
            self.close()
            return
        incoming = self._incoming
        incoming += data
        while len(incoming) >= 2:
            (size,) = _length.unpack_from(incoming)
            if len(incoming) < 2 + size:
                break
            message = bytes(incoming[2 : 2 + size])
            del incoming[: 2 + size]
            self._client.arrived(message, self)


Path: TypeAlias = Endpoint | Stream


class Traffic:
    """What light nodes and servers sent each other, with the headers of IPv4, UDP and TCP."""

    UDP_HEADERS = 20 + 8
    TCP_HEADERS = 20 + 32 + 2
    """With the timestamps option, and the length that our frames have in front."""
    TCP_ACKNOWLEDGEMENT = 20 + 32

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0

    def count(self, size: int, path: Path) -> None:
        """One tunnel message, sent or received; those between two nodes do not count."""
        if isinstance(path, Stream):
            self.bytes += size + self.TCP_HEADERS + self.TCP_ACKNOWLEDGEMENT
        elif path.host == SERVERS_HOST:
            self.bytes += size + self.UDP_HEADERS
        else:
            return
        self.messages += 1


class LightClient:
    """One light node with its sockets."""

    def __init__(
        self,
        loop: Loop,
        number: int,
        world: World,
        rng: random.Random,
        *,
        traffic: Traffic,
        enrolled: bool = True,
    ) -> None:
        self.loop = loop
        self._traffic = traffic
        self.number = number
        self.host = node_host(number)
        self.failures: list[str] = []
        self.lost_connections = 0
        self.calls = 0
        """Look-ups of other nodes so far."""
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((self.host, 0))
        now = time.monotonic()
        self.tunnel: Tunnel[Path] = Tunnel(node_key(number), now=now, rng=rng, wall_clock=time.time)
        local = Endpoint(self.host, self.socket.getsockname()[1])
        self.party = LightNode(
            self.tunnel.public_key,
            local,
            world,
            now=now,
            rng=rng,
            wall_clock=time.time,
            state=world.enrolment(number, enrolled=enrolled),
        )
        self.streams: dict[bytes, Stream] = {}
        self._armed_at = float("inf")
        self._waking = False
        self.tunnel.add_peer(
            world.coordinator, endpoint=world.coordinator_endpoint, first_retries=FIRST_RETRIES
        )
        self.tunnel.add_peer(
            world.account_server,
            endpoint=world.account_server_endpoint,
            first_retries=FIRST_RETRIES,
        )
        loop.watch(self.socket.fileno(), self._readable)

    def close(self) -> None:
        """Close all sockets."""
        self.loop.unwatch(self.socket.fileno())
        self.socket.close()
        for stream in self.streams.values():
            if stream.socket.fileno() >= 0:
                stream.close()

    def run(self, process: Process[Any], done: Callable[[Any, Exception | None], None]) -> None:
        """Run one of the party's processes."""
        self.party.now = time.monotonic()
        self.party.start(process, done)
        self.wake(self.party.now)

    def shake_hands(self, public_key: bytes, done: Callable[[Any, Exception | None], None]) -> None:
        """A new session with a server that this node knows."""
        process = self.party.session_with(public_key)
        self.tunnel.peers[public_key].restart_handshake(time.monotonic())
        self.run(process, done)

    def arrived(self, message: bytes, path: Path) -> None:
        """Open one tunnel message."""
        self._traffic.count(len(message), path)
        now = time.monotonic()
        source = path if isinstance(path, Endpoint) else None
        for peer, packets in self.tunnel.receive(memoryview(message), len(message), path, now):
            for packet in packets:
                if packet[0] == CONTROL_BYTE:
                    self.party.receive(peer.public_key, bytes(packet), now, source)
        self.wake(now)

    def wake(self, now: float) -> None:
        """Do what is due, and send what there is."""
        if self._waking:
            return
        self._waking = True
        tunnel, party = self.tunnel, self.party
        try:
            if (due_at := tunnel.poll_timeout()) is not None and due_at <= now:
                tunnel.handle_timeout(now)
            if (due_at := party.poll_timeout()) is not None and due_at <= now:
                party.handle_timeout(now)
            while (event := tunnel.poll_event()) is not None:
                if isinstance(event, Established):
                    party.established(event.peer.public_key, now)
            while True:
                while (effect := party.poll_effect()) is not None:
                    self._carry_out(effect, now)
                transmit = party.poll_transmit()
                if transmit is None:
                    break
                peer = tunnel.peers.get(transmit[0])
                if peer is not None:
                    peer.send(transmit[1], now)
            while (message := tunnel.poll_transmit()) is not None:
                self._send(*message)
        finally:
            self._waking = False
        for due_at in (tunnel.poll_timeout(), party.poll_timeout()):
            if due_at is not None and due_at < self._armed_at:
                self._armed_at = due_at
                self.loop.call_at(due_at, self._due)

    def _due(self, now: float) -> None:
        if now >= self._armed_at:
            self._armed_at = float("inf")
            self.wake(now)

    def _carry_out(self, effect: object, now: float) -> None:
        match effect:
            case Contact():
                self._meet(effect, now)
            case Forget():
                self.tunnel.remove_peer(effect.public_key)
            case Failed():
                self.failures.append(f"{effect.what}: {effect.error}")
            case _:
                pass

    def _meet(self, contact: Contact, now: float) -> None:
        key = contact.public_key
        path: Path = contact.endpoints[0]
        if contact.connection:
            if key in self.streams:
                return
            path = self.streams[key] = Stream(self, contact.endpoints[0])
        peer = self.tunnel.add_peer(
            key, preshared_key=contact.preshared_key, endpoint=path, first_retries=FIRST_RETRIES
        )
        if contact.connection or contact.initiate:
            peer.restart_handshake(now)

    def _send(self, path: Path, message: bytes) -> None:
        self._traffic.count(len(message), path)
        if isinstance(path, Stream):
            if path.socket.fileno() >= 0:
                path.send(message)
            return
        try:
            self.socket.sendto(message, path)
        except OSError:
            return  # as good as lost

    def _readable(self, _: int) -> None:
        try:
            message, source = self.socket.recvfrom(2048)
        except OSError:
            return
        self.arrived(message, Endpoint(*source))
