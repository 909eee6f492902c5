"""UDP of one stack (RFC 768, RFC 1122 section 4.1)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.packet.stack.fragments import fragment
from ntmpatch.packet.stack.ports import addresses_overlap, choose_ephemeral, flow_hash, os_error
from ntmpatch.wire import ip, udp
from ntmpatch.wire.segments import SuperSegment

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from ntmpatch.base.drops import DropCounter
    from ntmpatch.packet.stack.handlers import UdpHandler


class UdpSocket:
    """One bound socket; ``local`` has an address of all zeros while bound to the wildcard."""

    def __init__(
        self,
        service: UdpService,
        family: int,
        address: bytes | None,
        port: int,
        handler: UdpHandler,
        *,
        reuse_address: bool,
        reuse_port: bool,
    ) -> None:
        self.family = family
        self.address = address
        self.port = port
        self.remote: tuple[bytes, int] | None = None
        self.handler = handler
        self.reuse_address = reuse_address
        self.reuse_port = reuse_port
        self._service = service

    @property
    def local(self) -> tuple[bytes, int]:
        """Packed address and port."""
        return self.address or bytes(4 if self.family == 4 else 16), self.port

    def send_to(self, payload: bytes | memoryview, remote: tuple[bytes, int], now: float) -> None:
        """Send one datagram. OSError EMSGSIZE, EADDRNOTAVAIL."""
        self._service.send(self, payload, remote, now)

    def connect(self, remote: tuple[bytes, int]) -> None:
        """Receive from ``remote`` only; fixes the local address."""
        if self.address is None:
            self.address = self._service.source_for(remote[0])
        self.remote = remote

    def close(self) -> None:
        """Free the port."""
        self._service.remove(self)


class UdpService:
    """All sockets of one stack."""

    def __init__(
        self,
        *,
        rng: random.Random,
        path_mtu: Callable[[bytes], int],
        path_used: Callable[[bytes, float], None],
        identify: Callable[[], int],
        drops: DropCounter,
        emit: Callable[[SuperSegment], None],
        source_for: Callable[[bytes], bytes],
    ) -> None:
        self.source_for = source_for
        self._rng = rng
        self._drops = drops
        self._emit = emit
        self._sockets: dict[tuple[int, int], list[UdpSocket]] = {}
        self._path_mtu = path_mtu
        self._path_used = path_used
        self._identify = identify

    def bind(
        self,
        address: bytes | None,
        port: int,
        handler: UdpHandler,
        *,
        family: int,
        reuse_address: bool,
        reuse_port: bool,
    ) -> UdpSocket:
        """OSError EADDRINUSE; port 0 chooses a free one."""
        if not port:
            port = self.choose_port((family,))
        others = self._sockets.setdefault((family, port), [])
        for other in others:
            shared = (other.reuse_address and reuse_address) or (other.reuse_port and reuse_port)
            if addresses_overlap(other.address, address) and not shared:
                raise os_error(errno.EADDRINUSE)
        socket = UdpSocket(
            self,
            family,
            address,
            port,
            handler,
            reuse_address=reuse_address,
            reuse_port=reuse_port,
        )
        others.append(socket)
        return socket

    def choose_port(self, families: Sequence[int]) -> int:
        """A port that nobody of ``families`` has."""
        return choose_ephemeral(
            self._rng,
            lambda each: not any((family, each) in self._sockets for family in families),
        )

    def remove(self, socket: UdpSocket) -> None:
        """Free its port; harmless if that was done."""
        key = (socket.family, socket.port)
        others = self._sockets.get(key, [])
        if socket in others:
            others.remove(socket)
        if not others:
            self._sockets.pop(key, None)

    def send(
        self, socket: UdpSocket, payload: bytes | memoryview, remote: tuple[bytes, int], now: float
    ) -> None:
        """Build the datagram, in fragments if it is larger than the path's packets."""
        if len(payload) > udp.MAX_PAYLOAD_SIZE:
            raise os_error(errno.EMSGSIZE)
        source = socket.address or self.source_for(remote[0])
        size = udp.HEADER_SIZE + len(payload)
        overhead = ip.header_size(source)
        mtu = self._path_mtu(remote[0])
        if overhead + size <= mtu:
            head = ip.build(source, remote[0], ip.UDP, size)
            head += udp.build(socket.port, remote[1], len(payload))
            body = memoryview(bytes(payload))
            self._emit(SuperSegment(remote[0], head, body, max(1, len(body)), overhead))
            return
        self._path_used(remote[0], now)
        datagram = udp.build_with_checksum((source, socket.port), remote, payload) + bytes(payload)
        for piece in fragment(
            source,
            remote[0],
            ip.UDP,
            memoryview(datagram),
            mtu=mtu,
            identification=self._identify(),
        ):
            self._emit(piece)

    def arrive(self, packet: ip.Packet, *, verify: bool) -> bool:
        """Hand a datagram to its socket; False if nobody is bound there."""
        try:
            source_port, port, payload = udp.parse_untrusted(
                packet.payload, packet.source, packet.destination, verify=verify
            )
        except UntrustedError as error:
            self._drops.drop(error.drop)
            return True
        remote = (packet.source, source_port)
        socket = self._find(packet.destination, port, remote)
        if socket is None:
            self._drops.drop(Drop.UDP_NO_SOCKET)
            return False
        socket.handler.datagram(payload, remote, (packet.destination, port))
        return True

    def error(
        self, local: tuple[bytes, int], remote: tuple[bytes, int], error: int, *, hard: bool
    ) -> None:
        """An ICMP error about a datagram of ours.

        As Linux without IP_RECVERR: only a connected socket hears of it, and only if it is hard.
        """
        socket = self._find(local[0], local[1], remote)
        if socket is None:
            self._drops.drop(Drop.ICMP_NO_FLOW)
        elif hard and socket.remote is not None:
            socket.handler.error(error, remote)

    def has_sent(self, local: tuple[bytes, int], remote: tuple[bytes, int]) -> bool:
        """Whether a socket of ours could have sent a datagram like that."""
        return self._find(local[0], local[1], remote) is not None

    def _find(self, address: bytes, port: int, remote: tuple[bytes, int]) -> UdpSocket | None:
        """The most particular socket: connected before bound before wildcard; the latest first.

        Those that have SO_REUSEPORT share by flow.
        """
        family = 4 if len(address) == 4 else 6
        best: list[UdpSocket] = []
        best_score = -1
        for socket in self._sockets.get((family, port), ()):
            if socket.address not in (None, address) or socket.remote not in (None, remote):
                continue
            score = 2 * (socket.remote is not None) + (socket.address is not None)
            if score > best_score:
                best, best_score = [socket], score
            elif score == best_score:
                best.append(socket)
        if len(best) > 1 and all(each.reuse_port for each in best):
            return best[flow_hash(remote) % len(best)]
        return best[-1] if best else None
