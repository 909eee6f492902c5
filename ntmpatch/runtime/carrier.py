"""The carrier: a tunnel's datagrams on real sockets, whatever stands above the tunnel.

Nodes and servers alike have one: UDP ports, the WireGuard peers of one static key, and the two
kinds of inner payload, IP packets and control messages, sorted to those who want them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, TypeAlias

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop
from ntmpatch.handover.bindings import RelayedEndpoint
from ntmpatch.handover.ways import PortedEndpoint
from ntmpatch.packet.capsulation import Capsulator
from ntmpatch.packet.tunnel.tunnel import Established, HeardElsewhere, Waiting
from ntmpatch.runtime.alarm import Alarm
from ntmpatch.runtime.streams import MAX_MESSAGE_SIZE
from ntmpatch.runtime.udp import ARENA_SIZE, UdpPort
from ntmpatch.wire.control import CONTROL_BYTE
from ntmpatch.wire.paths import PATH_BYTE
from ntmpatch.wire.relay import FRAME_DATA, RELAY_BYTE, RELAY_HEADER_SIZE
from ntmpatch.wire.wireguard import MIN_DATA_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ntmpatch.handover.bindings import RelayBindings
    from ntmpatch.handover.paths import PathManager
    from ntmpatch.packet.tunnel.peer import Peer
    from ntmpatch.packet.tunnel.tunnel import Tunnel, TunnelEvent
    from ntmpatch.wire.segments import SuperSegment


_SHARED = frozenset((0x00, 0x01, RELAY_BYTE))
"""First bytes at a relay server: of STUN, of its answers and of tunnel requests, of frames."""
MAX_SMALL = 64


class StreamLink(Protocol):
    """A TCP connection that carries tunnel messages (the notification service's link)."""

    def send(self, message: bytes) -> None:
        """Queue one tunnel message; dropped if the connection is gone."""


Path: TypeAlias = Endpoint | RelayedEndpoint | PortedEndpoint | StreamLink
"""Where a peer is: the endpoint of the tunnel room, which only compares it."""


class Carrier:
    """Carries one ``Tunnel``. All callbacks run in the hub.

    ``on_packets(peer, packets, now)`` gets inner IP packets, views valid during the call;
    ``on_control(peer, payload, path, now)`` one control message; ``on_event`` the tunnel's events;
    ``before_wait(now)`` runs once after each wake-up, when output should be made, and returns the
    next instant at which the cores above want to be called (None: never).
    ``paths`` is told how peers are reached, and says so for those that it watches; ``relays``
    binds our ends of relayed sessions, whose frames are accepted.
    ``on_datagram(buffer, segment_size, source)`` sees a batch first and may claim it (relaying).
    """

    def __init__(
        self,
        tunnel: Tunnel[Path],
        *,
        on_packets: Callable[[Peer[Path], list[memoryview], float], None],
        on_control: Callable[[Peer[Path], memoryview, Path, float], None],
        on_event: Callable[[TunnelEvent, float], None],
        before_wait: Callable[[float], float | None],
        on_datagram: Callable[[memoryview, int, Endpoint], bool] | None = None,
        paths: PathManager[Path] | None = None,
        relays: RelayBindings | None = None,
        gso: bool = True,
    ) -> None:
        self.tunnel = tunnel
        self._paths = paths
        self._relays = relays
        self._on_packets = on_packets
        self._on_control = on_control
        self._on_event = on_event
        self._before_wait = before_wait
        self._on_datagram = on_datagram
        self._gso = gso
        self._ports: list[UdpPort] = []
        self._by_family: dict[bool, UdpPort] = {}
        self.interfaces: dict[bool, str] = {}
        """By family, the interface that is used in spite of the kernel's routes."""
        self._further: dict[int, UdpPort] = {}
        self._next_port = 1
        self._arena = bytearray(ARENA_SIZE)
        self._capsulator = Capsulator()
        self._alarm = Alarm(self.wake)
        self._flushing = False
        self._closed = False

    @property
    def local_endpoints(self) -> tuple[Endpoint, ...]:
        """What the UDP ports are bound to, wildcards as wildcards."""
        return tuple(port.local for port in self._ports)

    @property
    def congested(self) -> bool:
        """Whether the kernel's send buffer is full: output waits until it drains."""
        if self._further and any(port.congested for port in self._further.values()):
            return True
        return any(port.congested for port in self._ports)

    def bind(self, binds: Sequence[Endpoint]) -> None:
        """Open a UDP port at each of ``binds`` in place of those open now; OSError leaves these."""
        fresh: list[UdpPort] = []
        try:
            fresh.extend(
                UdpPort(
                    bind,
                    on_batch=self._batch,
                    on_idle=self.wake,
                    on_writable=self.wake,
                    gso=self._gso,
                    drops=self.tunnel.drops,
                    arena=self._arena,
                )
                for bind in binds
            )
        except OSError:
            for port in fresh:
                port.close()
            raise
        for port in self._ports:
            port.close()
        self._ports = fresh
        self._by_family = {port.local.is_ipv6: port for port in reversed(fresh)}

    def open_port(self, bind: Endpoint, name: str) -> int:
        """Open a further port beside those of `bind`; its number. OSError if there is none."""
        number = self._next_port

        def batch(buffer: memoryview, segment_size: int, source: Endpoint) -> None:
            self.receive(buffer, segment_size, PortedEndpoint(number, source, name))

        self._further[number] = UdpPort(
            bind,
            on_batch=batch,
            on_idle=self.wake,
            on_writable=self.wake,
            gso=self._gso,
            drops=self.tunnel.drops,
            arena=self._arena,
        )
        self._next_port += 1
        return number

    def further_port(self, number: int) -> UdpPort | None:
        """A port that was opened so, and is not closed yet."""
        return self._further.get(number)

    def close_port(self, number: int) -> None:
        """Close a further port."""
        port = self._further.pop(number, None)
        if port is not None:
            port.close()

    def use_interface(self, index: int, name: str, *, is_ipv6: bool) -> None:
        """Send what is for the ports of `bind` by that interface; 0: as the routes say."""
        port = self._by_family.get(is_ipv6)
        if port is not None:
            port.use_interface(index)
        self.interfaces[is_ipv6] = name if index else ""

    def announce(self) -> None:
        """Send every peer that follows what it hears a keep-alive: so it learns our new address."""
        now = time.monotonic()
        for peer in list(self.tunnel.peers.values()):
            if peer.roams:
                peer.keepalive(now)
        self.wake()

    def close(self) -> None:
        """Close the ports; nothing is sent or received any more."""
        self._closed = True
        self._alarm.close()
        for port in (*self._ports, *self._further.values()):
            port.close()
        self._ports = []
        self._by_family = {}
        self._further = {}

    def receive(self, buffer: memoryview, segment_size: int, path: Path) -> None:
        """Open tunnel messages that came by ``path``; output waits for ``wake``."""
        now = time.monotonic()
        for peer, packets in self.tunnel.receive(buffer, segment_size, path, now):
            special = [packet for packet in packets if packet[0] >= CONTROL_BYTE]
            if special:
                packets = [packet for packet in packets if packet[0] < CONTROL_BYTE]  # noqa: PLW2901  # the rest of the batch
                for payload in special:
                    if payload[0] != PATH_BYTE:
                        self._on_control(peer, payload, path, now)
                    elif self._paths is not None:
                        self._paths.message(peer, payload, path, now)
                    else:
                        self.tunnel.drops.drop(Drop.PATH_UNASKED)
            if packets:
                if not peer.roams and path != peer.endpoint and self._paths is not None:
                    size = sum(map(len, packets))
                    self._paths.elsewhere(peer, path, size, now)
                self._on_packets(peer, packets, now)

    def send_control(self, public_key: bytes, payload: bytes, now: float) -> None:
        """Send one control message to a peer; a peer unknown by now gets nothing."""
        peer = self.tunnel.peers.get(public_key)
        if peer is not None:
            peer.send(payload, now)

    def send_segment(
        self, peer: Peer[Path], segment: SuperSegment, now: float, *, checksums: bool
    ) -> bool:
        """Fig. 4 (2), (3): encapsulate and send; without a session, stage and shake hands first.

        False if the packets are larger than the interface or the link carries.
        """
        session = peer.session(now)
        path = peer.endpoint
        if peer.budget is not None and not self._spend(peer, segment):
            return True
        if session is None or path is None:
            for packet in self._capsulator.cut(segment, checksums=checksums):
                peer.send(bytes(packet), now)
            return True
        prefix = path.header if isinstance(path, RelayedEndpoint) else b""
        for batch, size in self._capsulator.encapsulate(
            segment, session, checksums=checksums, prefix=prefix
        ):
            if not self._transmit_batch(path, batch, size):
                return False
        peer.note_sent(now)
        return True

    def _spend(self, peer: Peer[Path], segment: SuperSegment) -> bool:
        """Whether so much may go to an endpoint that the peer has not proven yet."""
        assert peer.budget is not None
        size = len(segment.payload) + segment.packet_count * len(segment.header)
        if size > peer.budget:
            self.tunnel.drops.drop(Drop.PATH_UNPROVEN, segment.packet_count)
            peer.is_starved = True
            return False
        peer.budget -= size
        return True

    def send_datagram(self, datagram: bytes | memoryview, destination: Endpoint) -> None:
        """Send one datagram that is no tunnel message of ours (relay frames, bindings)."""
        self.forward(datagram, len(datagram), destination)

    def forward(self, batch: bytes | memoryview, segment_size: int, destination: Endpoint) -> bool:
        """Send a batch as it is; False if its datagrams are larger than the interface carries."""
        port = self._by_family.get(destination.is_ipv6)
        return port is None or port.send(batch, segment_size, destination)

    def wake(self) -> None:
        """Let every core run what is due and send what it has; safe to call from within itself."""
        if self._flushing or self._closed:
            return
        self._flushing = True
        try:
            now = time.monotonic()
            tunnel = self.tunnel
            due_at = tunnel.poll_timeout()
            if due_at is not None and due_at <= now:
                tunnel.handle_timeout(now)
            self._drain_events(now)
            paths = self._paths
            if paths is not None:
                due_at = paths.poll_timeout()
                if due_at is not None and due_at <= now:
                    paths.handle_timeout(now)
            relays = self._relays
            if relays is not None:
                due_at = relays.poll_timeout()
                if due_at is not None and due_at <= now:
                    relays.handle_timeout(now)
                self._send_bindings(relays)  # before data, which needs them
            # What lets a peer follow us goes before the data that it is to follow by.
            self._transmit_all()
            wanted_at = self._before_wait(now)
            if relays is not None:
                self._send_bindings(relays)
            self._drain_events(now)
            self._transmit_all()
        finally:
            self._flushing = False
        self._alarm.ask(wanted_at)
        self._alarm.ask(tunnel.poll_timeout())
        if paths is not None:
            self._alarm.ask(paths.poll_timeout())
        if relays is not None:
            self._alarm.ask(relays.poll_timeout())

    def _send_bindings(self, relays: RelayBindings) -> None:
        while (transmit := relays.poll_transmit()) is not None:
            relay, frame = transmit
            self.send_datagram(frame, relay)

    def _transmit_all(self) -> None:
        poll_transmit = self.tunnel.poll_transmit
        while (transmit := poll_transmit()) is not None:
            self._transmit_one(*transmit)

    def _drain_events(self, now: float) -> None:
        paths = self._paths
        while (event := self.tunnel.poll_event()) is not None:
            if paths is not None:
                if isinstance(event, Waiting):
                    paths.waiting(event.peer, now)
                    continue
                if isinstance(event, HeardElsewhere):
                    paths.elsewhere(event.peer, event.source, MIN_DATA_SIZE, now)
                    continue
                if isinstance(event, Established):
                    paths.established(event.peer, now)
            self._on_event(event, now)

    def _batch(self, buffer: memoryview, segment_size: int, source: Endpoint) -> None:
        if (
            len(buffer) > segment_size
            and buffer[0] in _SHARED
            and self._part(buffer, segment_size, source)
        ):
            return
        if self._on_datagram is not None and self._on_datagram(buffer, segment_size, source):
            return
        if len(buffer) > RELAY_HEADER_SIZE and buffer[0] == RELAY_BYTE:
            self._relayed_batch(buffer, segment_size, source)
            return
        self.receive(buffer, segment_size, source)

    def _part(self, buffer: memoryview, segment_size: int, source: Endpoint) -> bool:
        """Take apart what the kernel has merged of a relay server's port; False: it is of one kind.

        Only the last datagram may be of another size, and so of another kind, but where all are
        as small as STUN and the answers to bindings.
        """
        if segment_size <= MAX_SMALL:
            for start in range(0, len(buffer), segment_size):
                segment = buffer[start : start + segment_size]
                self._batch(segment, len(segment), source)
            return True
        start = (len(buffer) - 1) // segment_size * segment_size
        last = buffer[start:]
        if last[0] == buffer[0]:
            return False
        self._batch(buffer[:start], segment_size, source)
        self._batch(last, len(last), source)
        return True

    def _relayed_batch(self, buffer: memoryview, segment_size: int, source: Endpoint) -> None:
        relays = self._relays
        for start in range(0, len(buffer), segment_size):
            frame = buffer[start : start + segment_size]
            path = RelayedEndpoint(source, bytes(frame[:RELAY_HEADER_SIZE]))
            if relays is not None and frame[1] != FRAME_DATA:
                relays.receive(frame, source, time.monotonic())
                continue
            if relays is None or not relays.accepts(path):
                self.tunnel.drops.drop(Drop.RELAY_UNKNOWN_SESSION)
                continue
            message = frame[RELAY_HEADER_SIZE:]
            self.receive(message, max(1, len(message)), path)

    def _transmit_batch(self, path: Path, batch: memoryview, size: int) -> bool:
        if isinstance(path, Endpoint):
            return self.forward(batch, size, path)
        if isinstance(path, RelayedEndpoint):
            return self.forward(batch, size, path.relay)
        if isinstance(path, PortedEndpoint):
            port = self._further.get(path.port)
            return port is None or port.send(batch, size, path.remote)
        if size > MAX_MESSAGE_SIZE:
            self.tunnel.drops.drop(Drop.TUNNEL_TOO_BIG, -(-len(batch) // size))
            return False
        for start in range(0, len(batch), size):
            path.send(bytes(batch[start : start + size]))
        return True

    def _transmit_one(self, path: Path, message: bytes) -> None:
        if isinstance(path, Endpoint):
            self.forward(message, len(message), path)
        elif isinstance(path, RelayedEndpoint):
            self.send_datagram(path.header + message, path.relay)
        elif isinstance(path, PortedEndpoint):
            port = self._further.get(path.port)
            if port is not None:
                port.send(message, len(message), path.remote)
        else:
            path.send(message)
