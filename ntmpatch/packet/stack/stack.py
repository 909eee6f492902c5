"""The virtual TCP/IP stack: packets and instants in, super-segments and callbacks out (Fig. 4)."""

from __future__ import annotations

import errno
import os
from collections import deque
from itertools import count as counting
from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.base.errors import UntrustedError
from ntmpatch.packet.stack.access import AccessTable
from ntmpatch.packet.stack.fragments import Reassembler
from ntmpatch.packet.stack.gro import extend_run
from ntmpatch.packet.stack.icmp import IcmpService
from ntmpatch.packet.stack.outcomes import Outcomes
from ntmpatch.packet.stack.pathmtu import PathMtuService
from ntmpatch.packet.stack.ports import Claim, os_error
from ntmpatch.packet.stack.tcp.service import TcpService
from ntmpatch.packet.stack.udp import UdpService
from ntmpatch.wire import ip, tcp
from ntmpatch.wire.checksum import is_valid
from ntmpatch.wire.segments import SuperSegment, cut

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Container, Sequence

    from ntmpatch.packet.stack.handlers import TcpHandler, UdpHandler
    from ntmpatch.packet.stack.tcp.connection import TcpConnection
    from ntmpatch.packet.stack.tcp.listener import TcpListener
    from ntmpatch.packet.stack.udp import UdpSocket

DEFAULT_MTU = 1376
"""Bytes of a packet: what every path of a tunnel carries in one datagram."""

MAX_QUEUED = 4096
"""Packets of no connection that wait to be sent; beyond, the newest is dropped."""

LOOPBACK_BATCH = 64

BULK_SIZE = 4096
"""Bytes of one super-segment, a few full segments: such traffic gains from larger packets."""


class Stack:
    """One node's stack. Addresses are packed: 4 or 16 bytes.

    ``mtu`` is the size of the packets that a path begins with, ``max_mtu`` what whoever carries
    them could take at most: path MTU discovery looks for the largest in between.
    """

    def __init__(
        self,
        *,
        rng: random.Random,
        now: float,
        mtu: int = DEFAULT_MTU,
        max_mtu: int | None = None,
        drops: DropCounter | None = None,
        secret: bytes | None = None,
    ) -> None:
        self.drops = DropCounter() if drops is None else drops
        self.mtu = mtu
        self._addresses: dict[bytes, None] = {}
        self._queue: deque[SuperSegment] = deque()
        self._loopback: deque[bytes] = deque()
        self._reassembler = Reassembler(self.drops)
        secret = os.urandom(16) if secret is None else secret
        self.access = AccessTable()
        self.paths = PathMtuService(
            base=mtu,
            limit=mtu if max_mtu is None else max_mtu,
            secret=secret,
            drops=self.drops,
            emit=self._emit,
            source_for=self.source_for,
            is_own=self._addresses.__contains__,
            changed=self._mtu_changed,
        )
        self.tcp = TcpService(
            rng=rng,
            secret=secret,
            now=now,
            paths=self.paths,
            drops=self.drops,
            emit=self._emit,
            is_own=self._addresses.__contains__,
            access=self.access,
        )
        identify = counting(rng.getrandbits(32)).__next__
        self.udp = UdpService(
            rng=rng,
            path_mtu=self.paths.mtu,
            path_used=self.paths.used,
            identify=identify,
            drops=self.drops,
            emit=self._emit,
            source_for=self.source_for,
            access=self.access,
        )
        self._icmp = IcmpService(
            now=now,
            drops=self.drops,
            emit=self._emit,
            path_mtu=self.paths.mtu,
            identify=identify,
            user=Outcomes(tcp=self.tcp, udp=self.udp, paths=self.paths, drops=self.drops),
        )
        self._scratch = memoryview(bytearray(1 << 18))

    # --- addresses ---------------------------------------------------------------------------

    def add_address(self, address: bytes) -> None:
        """Answer for ``address``."""
        self._addresses[address] = None

    def remove_address(self, address: bytes) -> None:
        """Answer for it no more; connections that use it end with ENETDOWN."""
        self._addresses.pop(address, None)
        for conn in self.tcp.connections:
            if conn.local[0] == address:
                conn.fail(errno.ENETDOWN)

    def source_for(self, remote: bytes) -> bytes:
        """Our address of the family of ``remote``; OSError EADDRNOTAVAIL if there is none."""
        if remote in self._addresses:
            return remote
        for address in self._addresses:
            if len(address) == len(remote):
                return address
        raise os_error(errno.EADDRNOTAVAIL)

    # --- sockets -----------------------------------------------------------------------------

    def bind_tcp(self, wanted: Claim) -> Claim:
        """Keep a port for a socket that may listen, connect, or ``release_tcp`` it again."""
        self._require(wanted.address)
        return self.tcp.ports.claim(wanted)

    def release_tcp(self, claim: Claim) -> None:
        """The socket has ended that claimed the port, and did nothing else with it."""
        self.tcp.ports.release(claim)

    def listen_tcp(
        self,
        wanted: Claim,
        *,
        backlog: int,
        accept: Callable[[TcpConnection], TcpHandler],
        bound: Claim | None = None,
    ) -> TcpListener:
        """Accept connections to a port; ``bound`` is what ``bind_tcp`` gave, if it did."""
        self._require(wanted.address)
        return self.tcp.listen(wanted, backlog=backlog, accept=accept, bound=bound)

    def connect_tcp(
        self,
        remote: bytes,
        port: int,
        handler: TcpHandler,
        now: float,
        *,
        local: bytes | None = None,
        local_port: int = 0,
        bound: Claim | None = None,
    ) -> TcpConnection:
        """Begin to open a connection; its outcome is told to ``handler``.

        ``bound`` is what ``bind_tcp`` gave, if it did; ``local_port`` is its port then.
        """
        self._require(local)
        source = self.source_for(remote) if local is None else local
        ends = (source, local_port), (remote, port)
        return self.tcp.connect(*ends, handler, now, bound=bound)

    def bind_udp(self, wanted: Claim, handler: UdpHandler) -> UdpSocket:
        """Bind a UDP socket."""
        self._require(wanted.address)
        return self.udp.bind(wanted, handler)

    def _require(self, address: bytes | None) -> None:
        if address is not None and address not in self._addresses:
            raise os_error(errno.EADDRNOTAVAIL)

    def has_unacknowledged_data(self) -> bool:
        """Whether anything that programs wrote has not arrived at the far end."""
        return any(conn.is_unsent() for conn in self.tcp.connections)

    # --- packets -----------------------------------------------------------------------------

    def receive(
        self,
        packets: Sequence[memoryview],
        allowed: Container[bytes],
        now: float,
        *,
        verify: bool = False,
    ) -> None:
        """Take packets of one peer, in order; sources not ``allowed`` are dropped by name.

        ``verify``: check transport checksums, which a peer with a kernel's stack fills in.
        """
        index = 0
        count = len(packets)
        while index < count:
            whole = packets[index]
            index += 1
            try:
                packet = ip.parse_untrusted(whole)
            except UntrustedError as error:
                self.drops.drop(error.drop)
                continue
            source = packet.source
            if source not in allowed:
                is_host = ip.is_host_address(source)
                self.drops.drop(Drop.PACKET_WRONG_SOURCE if is_host else Drop.PACKET_BAD_SOURCE)
                continue
            if packet.destination not in self._addresses:
                is_group = ip.is_group_address(packet.destination)
                self.drops.drop(Drop.PACKET_MULTICAST if is_group else Drop.PACKET_NOT_OURS)
                continue
            if packet.is_fragment:
                assembled = self._reassembler.add(packet, now)
                if assembled is None:
                    continue
                packet = assembled
                whole = self._reassembler.quotable(packet)
            if packet.protocol != ip.TCP:
                self._other(packet, whole, allowed, now, verify=verify)
                continue
            segment = self._segment(packet, verify=verify)
            if segment is None:
                continue
            if packet.ecn == ip.CE:
                segment.flags |= tcp.CE
            if (
                index < count
                and segment.size
                and not verify
                and not segment.flags & ~(tcp.ACK | tcp.PSH)
            ):
                header_size = len(packet.payload) - segment.size
                header = bytes(packet.payload[8:header_size])
                flow = source + packet.destination
                index = extend_run(segment, packets, index, flow, header)
            self.tcp.arrive(source, packet.destination, segment, now)

    def _segment(self, packet: ip.Packet, *, verify: bool) -> tcp.Segment | None:
        if verify and not is_valid(packet.source + packet.destination, ip.TCP, packet.payload):
            self.drops.drop(Drop.TRANSPORT_BAD_CHECKSUM)
            return None
        try:
            return tcp.parse_untrusted(packet.payload)
        except UntrustedError as error:
            self.drops.drop(error.drop)
            return None

    def _other(
        self,
        packet: ip.Packet,
        whole: memoryview,
        allowed: Container[bytes],
        now: float,
        *,
        verify: bool,
    ) -> None:
        if packet.protocol == ip.UDP:
            if not self.udp.arrive(packet, verify=verify):
                self._icmp.port_unreachable(packet, whole, now)
        elif packet.protocol == (ip.ICMP if len(packet.source) == 4 else ip.ICMPV6):
            self._icmp.arrive(packet, allowed, now, verify=verify)
        else:
            self.drops.drop(Drop.PACKET_UNKNOWN_PROTOCOL)

    def poll_transmit(self, now: float) -> SuperSegment | None:
        """The next super-segment for the tunnel; what is for ourselves is dealt with here."""
        while True:
            segment = self._queue.popleft() if self._queue else self.tcp.poll(now)
            if segment is None:
                if not self._loopback:
                    return None
                self._deliver_loopback(now)
                continue
            if segment.destination not in self._addresses:
                if len(segment.payload) >= BULK_SIZE and segment.packet_count > 1:
                    self.paths.used(segment.destination, now)
                return segment
            for packet in cut(segment, self._scratch, checksums=False):
                self._loopback.append(bytes(packet))
            if len(self._loopback) >= LOOPBACK_BATCH:
                self._deliver_loopback(now)

    def _deliver_loopback(self, now: float) -> None:
        packets = [memoryview(packet) for packet in self._loopback]
        self._loopback.clear()
        self.receive(packets, self._addresses, now)

    def poll_timeout(self) -> float | None:
        """When ``handle_timeout`` wants to be called."""
        instants = (
            self.tcp.timers.earliest(),
            self._reassembler.poll_timeout(),
            self.paths.poll_timeout(),
        )
        return min((each for each in instants if each is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        self.tcp.handle_timeout(now)
        for first in self._reassembler.handle_timeout(now):
            self._icmp.reassembly_timeout(first, self._reassembler.quotable(first), now)
        self.paths.handle_timeout(now)

    def path_changed(self, remote: bytes, now: float, *, abrupt: bool = True) -> None:
        """The way to ``remote`` is another one: its connections go on at once.

        ``abrupt``: what is under way is lost; if not, it arrives by the old way.
        """
        self.paths.forget(remote, now)
        if abrupt:
            self.tcp.path_changed(remote, now)

    def path_mtu(self, remote: bytes) -> int:
        """Bytes of the largest packet that is sent to ``remote``."""
        return self.paths.mtu(remote)

    def packet_refused(self, segment: SuperSegment, now: float) -> None:
        """Whoever carries packets to the destination cannot carry any of this size now."""
        size = len(segment.header) + min(len(segment.payload), segment.segment_size)
        self.paths.refused(segment.destination, size, now)

    def _mtu_changed(self, remote: bytes, mtu: int, now: float) -> None:
        self.tcp.mtu_changed(remote, mtu, now)

    def host_unreachable(self, destination: bytes, now: float) -> None:
        """Nobody carries packets to ``destination``: connections being opened fail."""
        del now
        self.tcp.unreachable(destination, errno.EHOSTUNREACH)

    def _emit(self, segment: SuperSegment) -> None:
        if len(self._queue) >= MAX_QUEUED:
            self.drops.drop(Drop.PACKET_QUEUE_FULL)
            return
        self._queue.append(segment)
