"""UDP sockets of the real network on the hub: read with GRO, written with GSO.

One system call carries up to 64 KB (UDP_GRO and UDP_SEGMENT, Linux 4.18 and 5.0); where the kernel
lacks either, the same calls work datagram by datagram.
"""

from __future__ import annotations

import _socket
import errno
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

import gevent

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.runtime.forking import disown, own

if TYPE_CHECKING:
    from collections.abc import Callable

UDP_SEGMENT = 103  # linux/udp.h
UDP_GRO = 104
SO_RCVBUFFORCE = 33
SO_SNDBUFFORCE = 32
IP_MTU_DISCOVER = 10
IPV6_MTU_DISCOVER = 23
PMTUDISC_DONT = 0
PMTUDISC_PROBE = 3
IPV6_DONTFRAG = 62
IP_UNICAST_IF = 50
IPV6_UNICAST_IF = 76

WHOLE_ABOVE = 1320
"""Larger datagrams are never fragmented: the loss of one tells path MTU discovery. Smaller ones
hold a packet of 1280 bytes or a control message, which every path has to carry, in fragments where
it must (a packet's 1280, 32 of its seal, 8 of a relay's header)."""

BUFFER_SIZE = 8 << 20
"""Asked for each direction; without CAP_NET_ADMIN the kernel gives what rmem_max allows."""

READ_BATCHES = 16
"""Batches read per wake-up, so that one busy socket cannot starve the hub's other watchers."""

MAX_SEGMENTS = 64
"""UDP_MAX_SEGMENTS: datagrams the kernel cuts from one call."""

MAX_BATCH_SIZE = 65507
"""The largest UDP payload over IPv4, and so the largest batch in one call."""

ARENA_SIZE = 65536
MAX_QUEUED = 256
"""Batches kept while the socket's send buffer is full; then the newest is refused."""

_READ = 1
_WRITE = 2
_segment_size = struct.Struct("=H")
_gro_size = struct.Struct("=i")


class UdpPort:
    """One bound UDP socket. ``on_batch(buffer, segment_size, source)`` runs in the hub per batch;
    ``on_idle()`` after the last batch of a wake-up; ``on_writable()`` when a full socket drained.
    """

    def __init__(
        self,
        bind: Endpoint,
        *,
        on_batch: Callable[[memoryview, int, Endpoint], None],
        on_idle: Callable[[], None],
        on_writable: Callable[[], None],
        gso: bool = True,
        drops: DropCounter | None = None,
        arena: bytearray | None = None,
    ) -> None:
        """``arena``: 64 KB that ports of one hub may share: a batch is dealt with when read."""
        family = _socket.AF_INET6 if bind.is_ipv6 else _socket.AF_INET
        self._socket = _socket.socket(family, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, 0)
        try:
            if bind.is_ipv6:
                self._socket.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
            self._socket.setblocking(False)
            self._socket.bind((bind.host, bind.port))
        except OSError:
            self._socket.close()
            raise
        own(self._socket)
        _grow_buffers(self._socket)
        self._gso = gso and _option(self._socket, UDP_SEGMENT, 0)
        self._gro = gso and _option(self._socket, UDP_GRO, 1)
        self._drops = DropCounter() if drops is None else drops
        self._whole: bool | None = None
        self.local = Endpoint(*self._socket.getsockname()[:2])
        self._on_batch = on_batch
        self._on_idle = on_idle
        self._on_writable = on_writable
        self._arena = bytearray(ARENA_SIZE) if arena is None else arena
        self._view = memoryview(self._arena)
        self._queue: deque[tuple[bytes, int, Endpoint]] = deque()
        loop: Any = gevent.get_hub().loop
        self._reader = loop.io(self._socket.fileno(), _READ)
        self._reader.start(self._readable)
        self._writer = loop.io(self._socket.fileno(), _WRITE)
        self.refused = 0

    @property
    def congested(self) -> bool:
        """Whether batches wait for the kernel's send buffer: make no more until it drains."""
        return bool(self._queue)

    def close(self) -> None:
        """Stop reading and close the socket; what is still queued is dropped."""
        self._reader.stop()
        self._reader.close()
        self._writer.stop()
        self._writer.close()
        self._queue.clear()
        disown(self._socket)
        self._socket.close()

    def use_interface(self, index: int) -> bool:
        """Send by the interface of that index; 0: as the kernel's routes say.

        No privilege is needed, and what arrives elsewhere is still taken. False if it is gone.
        """
        level, option = (
            (_socket.IPPROTO_IPV6, IPV6_UNICAST_IF)
            if self.local.is_ipv6
            else (_socket.IPPROTO_IP, IP_UNICAST_IF)
        )
        try:
            self._socket.setsockopt(level, option, struct.pack("!I", index))
        except OSError:
            return False
        return True

    def send(self, batch: memoryview | bytes, segment_size: int, destination: Endpoint) -> bool:
        """Send ``batch`` as datagrams of ``segment_size`` bytes, the last one perhaps shorter.

        At most MAX_SEGMENTS datagrams and MAX_BATCH_SIZE bytes. A full send buffer queues a copy.
        Errors that concern the path (unreachable, refused) are as good as a lost datagram. False
        if the interface does not carry datagrams of this size.
        """
        if self._queue:
            self._enqueue(batch, segment_size, destination)
            return True
        try:
            return self._send_now(batch, segment_size, destination)
        except BlockingIOError:
            self._enqueue(batch, segment_size, destination)
            return True

    def _send_now(
        self, batch: memoryview | bytes, segment_size: int, destination: Endpoint
    ) -> bool:
        self._keep_whole(min(segment_size, len(batch)) > WHOLE_ABOVE)
        if len(batch) <= segment_size:
            return self._sendto(batch, destination)
        if self._gso:
            control = [(_socket.SOL_UDP, UDP_SEGMENT, _segment_size.pack(segment_size))]
            try:
                self._socket.sendmsg([batch], control, 0, destination)
            except BlockingIOError:
                raise
            except OSError as error:
                # EINVAL: a segment does not fit the route's MTU; EIO: the device cannot checksum.
                if error.errno not in (errno.EINVAL, errno.EIO, errno.EMSGSIZE):
                    return True
                if error.errno == errno.EIO:
                    self._gso = False
            else:
                return True
        for start in range(0, len(batch), segment_size):
            if not self._sendto(batch[start : start + segment_size], destination):
                # Those behind it are as large; one call for each would tell the same.
                self._drops.drop(Drop.TUNNEL_TOO_BIG, (len(batch) - start - 1) // segment_size)
                return False
        return True

    def _sendto(self, datagram: memoryview | bytes, destination: Endpoint) -> bool:
        try:
            self._socket.sendto(datagram, destination)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno == errno.EBADF:
                raise
            if error.errno == errno.EMSGSIZE:
                self._drops.drop(Drop.TUNNEL_TOO_BIG)
                return False
        return True

    def _keep_whole(self, whole: bool) -> None:
        """Let the kernel and routers fragment what is sent next, or not."""
        if whole is self._whole:
            return
        self._whole = whole
        # PROBE: don't-fragment, and what the kernel heard of the path's MTU does not matter.
        mode = PMTUDISC_PROBE if whole else PMTUDISC_DONT
        if self.local.is_ipv6:
            self._socket.setsockopt(_socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, mode)
            self._socket.setsockopt(_socket.IPPROTO_IPV6, IPV6_DONTFRAG, whole)
        else:
            self._socket.setsockopt(_socket.IPPROTO_IP, IP_MTU_DISCOVER, mode)

    def _enqueue(self, batch: memoryview | bytes, segment_size: int, destination: Endpoint) -> None:
        if len(self._queue) >= MAX_QUEUED:
            self.refused += 1
            return
        self._queue.append((bytes(batch), segment_size, destination))
        self._writer.start(self._drain)

    def _drain(self) -> None:
        queue = self._queue
        while queue:
            try:
                self._send_now(*queue[0])
            except BlockingIOError:
                return
            queue.popleft()
        self._writer.stop()
        self._on_writable()

    def _readable(self) -> None:
        receive = self._socket.recvmsg_into
        buffers = [self._arena]
        view = self._view
        on_batch = self._on_batch
        try:
            for _ in range(READ_BATCHES):
                try:
                    size, control, _flags, source = receive(buffers, 64)
                except BlockingIOError:
                    break
                except OSError:
                    # A pending ICMP error of an earlier datagram: reading it has cleared it.
                    continue
                segment_size = size or 1
                for level, kind, data in control:
                    if level == _socket.SOL_UDP and kind == UDP_GRO:
                        segment_size = _gro_size.unpack_from(data)[0]
                on_batch(view[:size], segment_size, Endpoint(source[0], source[1]))
                if self._socket.fileno() < 0:
                    return
        finally:
            self._on_idle()


def _option(sock: _socket.socket, option: int, value: int) -> bool:
    try:
        sock.setsockopt(_socket.SOL_UDP, option, value)
    except OSError:
        return False
    return True


def _grow_buffers(sock: _socket.socket) -> None:
    for forced, plain in ((SO_RCVBUFFORCE, _socket.SO_RCVBUF), (SO_SNDBUFFORCE, _socket.SO_SNDBUF)):
        try:
            sock.setsockopt(_socket.SOL_SOCKET, forced, BUFFER_SIZE)
        except OSError:
            sock.setsockopt(_socket.SOL_SOCKET, plain, BUFFER_SIZE)
