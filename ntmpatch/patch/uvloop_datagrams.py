"""Datagram endpoints of uvloop where a virtual address may be meant: in Python, on its readiness.

libuv cannot have these sockets: records of virtual ones begin with an address, and where a socket
serves both networks there are two behind its descriptor.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_DATAGRAM_SIZE = 256 * 1024
_HIGH_WATER_SIZE = 64 * 1024
"""Bytes waiting to be sent above which the protocol is asked to pause, as in asyncio."""


async def create_endpoint(
    loop: Any,
    protocol_factory: Callable[[], Any],
    local_addr: Any,
    remote_addr: Any,
    *,
    family: int,
    proto: int,
    flags: int,
    reuse_port: bool,
    allow_broadcast: bool,
    sock: Any,
) -> tuple[DatagramEndpoint, Any]:
    """As ``asyncio.loop.create_datagram_endpoint``, with Python's sockets."""
    if sock is None:
        sock = await _open(
            loop, local_addr, remote_addr, family, proto, flags, reuse_port, allow_broadcast
        )
    sock.setblocking(False)
    protocol = protocol_factory()
    return DatagramEndpoint(loop, sock, protocol), protocol


async def _open(
    loop: Any,
    local_addr: Any,
    remote_addr: Any,
    family: int,
    proto: int,
    flags: int,
    reuse_port: bool,
    allow_broadcast: bool,
) -> Any:
    """A socket that is bound and connected as asked, with the first addresses that it takes."""
    if local_addr is None and remote_addr is None:
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise ValueError("unexpected address family")
        return socket.socket(family, socket.SOCK_DGRAM, proto)
    ends: dict[int, list[Any]] = {}
    for index, address in enumerate((local_addr, remote_addr)):
        if address is None:
            continue
        if not isinstance(address, (tuple, list)) or len(address) != 2:
            raise TypeError("an address must be a tuple of (host, port)")
        found = await loop.run_in_executor(
            None, socket.getaddrinfo, *address, family, socket.SOCK_DGRAM, proto, flags
        )
        for each_family, _, _, _, each in found:
            pair = ends.setdefault(each_family, [None, None])
            pair[index] = pair[index] or each
    errors: list[OSError] = []
    for each_family, (local, remote) in ends.items():
        if (local_addr and local is None) or (remote_addr and remote is None):
            continue
        sock = socket.socket(each_family, socket.SOCK_DGRAM, proto)
        try:
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if allow_broadcast:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setblocking(False)
            if local is not None:
                sock.bind(local)
            if remote is not None:
                sock.connect(remote)
            return sock
        except OSError as error:
            sock.close()
            errors.append(error)
        except BaseException:
            sock.close()
            raise
    if not errors:
        raise ValueError("can not get address information")
    raise errors[0]


class DatagramEndpoint(asyncio.DatagramTransport):
    """A socket that the loop only watches."""

    def __init__(self, loop: Any, sock: Any, protocol: Any) -> None:
        peer = None
        with contextlib.suppress(OSError):
            peer = sock.getpeername()
        extra = {"socket": sock, "sockname": sock.getsockname(), "peername": peer}
        super().__init__(extra)
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._is_connected = peer is not None
        self._is_closing = False
        self._is_paused = False
        self._waiting: collections.deque[tuple[bytes, Any]] = collections.deque()
        self._waiting_size = 0
        loop.call_soon(protocol.connection_made, self)
        loop.call_soon(self._begin)

    def _begin(self) -> None:
        if not self._is_closing:
            self._loop.add_reader(self._sock, self._receive)

    # ---------------------------------------------------------------------------- the interface

    def set_protocol(self, protocol: Any) -> None:
        """Who is told from now on."""
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """Who is told."""
        return self._protocol

    def is_closing(self) -> bool:
        """Whether it is closed, or will be when all is sent."""
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        """Bytes that wait to be sent."""
        return self._waiting_size

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send now, or when the socket takes it."""
        if self._is_closing:
            return
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data: expecting a bytes-like object, got {type(data).__name__}")
        if not self._waiting:
            try:
                self._send(data, addr)
                return
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._sock, self._send_waiting)
            except OSError as error:
                self._protocol.error_received(error)
                return
        self._waiting.append((bytes(data), addr))
        self._waiting_size += len(data)
        if self._waiting_size > _HIGH_WATER_SIZE and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()

    def close(self) -> None:
        """Receive no more; close when what waits is sent."""
        if self._is_closing:
            return
        self._is_closing = True
        self._loop.remove_reader(self._sock)
        if not self._waiting:
            self._loop.call_soon(self._end, None)

    def abort(self) -> None:
        """Close at once."""
        is_ending = self._is_closing and not self._waiting
        self._waiting.clear()
        self._waiting_size = 0
        self._is_closing = True
        if not is_ending:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._loop.call_soon(self._end, None)

    # -------------------------------------------------------------------------------- the socket

    def _send(self, data: Any, addr: Any) -> None:
        # As asyncio: the address of a connected socket may be given, and says nothing.
        if self._is_connected or addr is None:
            self._sock.send(data)
        else:
            self._sock.sendto(data, addr)

    def _send_waiting(self) -> None:
        while self._waiting:
            data, addr = self._waiting[0]
            try:
                self._send(data, addr)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._protocol.error_received(error)
            self._waiting.popleft()
            self._waiting_size -= len(data)
        if self._is_paused and self._waiting_size <= _HIGH_WATER_SIZE // 4:
            self._is_paused = False
            self._protocol.resume_writing()
        if not self._waiting:
            self._loop.remove_writer(self._sock)
            if self._is_closing:
                self._end(None)

    def _receive(self) -> None:
        if self._is_closing:
            return
        try:
            data, address = self._sock.recvfrom(_MAX_DATAGRAM_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._protocol.error_received(error)
            return
        self._protocol.datagram_received(data, address)

    def _end(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._sock.close()
