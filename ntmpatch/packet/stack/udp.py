"""UDP of one stack (RFC 768, RFC 1122 section 4.1)."""

from __future__ import annotations

import errno
from collections import OrderedDict
from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.packet.stack.fragments import fragment
from ntmpatch.packet.stack.ports import Claim, PortTable, family_of, flow_hash, os_error
from ntmpatch.wire import ip, udp
from ntmpatch.wire.segments import SuperSegment

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from ntmpatch.base.drops import DropCounter
    from ntmpatch.packet.stack.access import AccessTable
    from ntmpatch.packet.stack.handlers import UdpHandler

MAX_ASKED = 1024
"""Restricted peers and ports whose answers one socket waits for."""


class UdpSocket:
    """One bound socket; its ``address`` is None while it is bound to the wildcard."""

    def __init__(
        self,
        service: UdpService,
        claim: Claim,
        handler: UdpHandler,
    ) -> None:
        self.claim = claim
        self.port = claim.port
        self.address = claim.address
        self.remote: tuple[bytes, int] | None = None
        self.handler = handler
        self.is_closed = False
        self.asked: OrderedDict[tuple[bytes, int], None] = OrderedDict()
        """Restricted peers that this socket has sent to, of late: their answers may come in."""
        self._service = service

    def send_to(self, payload: bytes | memoryview, remote: tuple[bytes, int], now: float) -> None:
        """Send one datagram. OSError EMSGSIZE, EADDRNOTAVAIL, EAFNOSUPPORT."""
        self._service.send(self, payload, remote, now)

    def connect(self, remote: tuple[bytes, int]) -> None:
        """Receive from ``remote`` only; fixes the local address."""
        if self.address is None:
            self.address = self._service.source_for(remote[0])
        self.remote = remote

    def close(self) -> None:
        """Free the port."""
        if not self.is_closed:
            self.is_closed = True
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
        access: AccessTable,
    ) -> None:
        self._access = access
        self.source_for = source_for
        self.ports = PortTable(rng)
        self._drops = drops
        self._emit = emit
        self._sockets: dict[tuple[int, int], list[UdpSocket]] = {}
        self._path_mtu = path_mtu
        self._path_used = path_used
        self._identify = identify

    def bind(self, wanted: Claim, handler: UdpHandler) -> UdpSocket:
        """OSError EADDRINUSE; port 0 chooses a free one."""
        socket = UdpSocket(self, self.ports.claim(wanted), handler)
        for key in self._keys(socket):
            self._sockets.setdefault(key, []).append(socket)
        return socket

    def remove(self, socket: UdpSocket) -> None:
        """Free the port of a socket that is bound."""
        self.ports.release(socket.claim)
        for key in self._keys(socket):
            self._sockets[key].remove(socket)
            if not self._sockets[key]:
                del self._sockets[key]

    @staticmethod
    def _keys(socket: UdpSocket) -> list[tuple[int, int]]:
        return [(family, socket.port) for family in socket.claim.families]

    def send(
        self, socket: UdpSocket, payload: bytes | memoryview, remote: tuple[bytes, int], now: float
    ) -> None:
        """Build the datagram, in fragments if it is larger than the path's packets."""
        if len(payload) > udp.MAX_PAYLOAD_SIZE:
            raise os_error(errno.EMSGSIZE)
        if family_of(remote[0]) not in socket.claim.families:
            raise os_error(errno.EAFNOSUPPORT)
        if self._access.is_restricted(remote[0]):
            socket.asked[remote] = None
            if len(socket.asked) > MAX_ASKED:
                socket.asked.popitem(last=False)
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
        if not (
            self._access.admits(ip.UDP, packet.source, port)
            or socket.remote is not None
            or remote in socket.asked
        ):
            self._drops.drop(Drop.PACKET_DENIED)
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
        best: list[UdpSocket] = []
        best_score = -1
        for socket in self._sockets.get((family_of(address), port), ()):
            if socket.address not in (None, address) or socket.remote not in (None, remote):
                continue
            score = 2 * (socket.remote is not None) + (socket.address is not None)
            if score > best_score:
                best, best_score = [socket], score
            elif score == best_score:
                best.append(socket)
        if len(best) > 1 and all(each.claim.reuse_port for each in best):
            return best[flow_hash(remote) % len(best)]
        return best[-1] if best else None
