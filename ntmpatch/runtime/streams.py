"""Tunnel messages over TCP: the notification service's long-lived connection.

The same handshake and data messages as over UDP, each behind its length (u16, big-endian), so the
notification server is authenticated as everything else is and the NAT sees one idle TCP connection.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

import gevent

from ntmpatch.base.addresses import Endpoint
from ntmpatch.runtime.forking import disown, own

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_MESSAGE_SIZE = 2048
"""Control messages are one datagram; a longer frame is not ours."""

MAX_QUEUED = 64
"""Messages that wait for a slow connection; then it is closed as dead."""

STRANGER_TIMEOUT = 10.0
"""Seconds an accepted connection may stay without an authenticated message."""

_READ = 1
_WRITE = 2
_length = struct.Struct("!H")


class TunnelStream:
    """One connected TCP socket that carries tunnel messages: a ``StreamLink``.

    ``on_message(stream, message)`` and ``on_closed(stream)`` run in the hub.
    """

    def __init__(
        self,
        sock: _socket.socket,
        *,
        on_message: Callable[[TunnelStream, memoryview], None],
        on_closed: Callable[[TunnelStream], None],
        connecting: bool = False,
    ) -> None:
        self.authenticated = False
        """Set by whoever opened a message of this stream: it is no stranger's."""
        self._socket: _socket.socket | None = sock
        self._on_message = on_message
        self._on_closed = on_closed
        self._incoming = bytearray()
        self._outgoing: deque[bytes] = deque()
        self._connecting = connecting
        own(sock)
        loop: Any = gevent.get_hub().loop
        self._reader = loop.io(sock.fileno(), _READ)
        self._writer = loop.io(sock.fileno(), _WRITE)
        if connecting:
            self._writer.start(self._writable)
        else:
            self._reader.start(self._readable)

    def __str__(self) -> str:
        remote = self.remote()
        return f"tcp {remote}" if remote is not None else "tcp, not connected"

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._socket is None

    def remote(self) -> Endpoint | None:
        """The far end, if it is still connected."""
        try:
            return Endpoint(*self._socket.getpeername()[:2]) if self._socket else None
        except OSError:
            return None

    def send(self, message: bytes) -> None:
        """Queue one tunnel message; dropped if the connection is gone."""
        if self._socket is None:
            return
        if len(self._outgoing) >= MAX_QUEUED:
            self.close()
            return
        self._outgoing.append(_length.pack(len(message)) + message)
        if not self._connecting:
            self._write()

    def close(self) -> None:
        """Close, and tell ``on_closed`` once."""
        if self._socket is None:
            return
        for watcher in (self._reader, self._writer):
            watcher.stop()
            watcher.close()
        disown(self._socket)
        self._socket.close()
        self._socket = None
        self._on_closed(self)

    def _writable(self) -> None:
        if self._socket is None:
            return
        if self._connecting:
            if self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR):
                self.close()
                return
            self._connecting = False
            self._reader.start(self._readable)
        self._write()

    def _write(self) -> None:
        while self._outgoing and self._socket is not None:
            frame = self._outgoing[0]
            try:
                sent = self._socket.send(frame)
            except BlockingIOError:
                self._writer.start(self._writable)
                return
            except OSError:
                self.close()
                return
            if sent < len(frame):
                self._outgoing[0] = frame[sent:]
            else:
                self._outgoing.popleft()
        self._writer.stop()

    def _readable(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        incoming = self._incoming
        incoming += data
        start = 0
        while self._socket is not None and len(incoming) - start >= _length.size:
            (size,) = _length.unpack_from(incoming, start)
            if not 0 < size <= MAX_MESSAGE_SIZE:
                self.close()
                return
            if len(incoming) - start < _length.size + size:
                break
            start += _length.size + size
            self._on_message(self, memoryview(bytes(incoming[start - size : start])))
        del incoming[:start]


def connect_stream(
    remote: Endpoint,
    *,
    on_message: Callable[[TunnelStream, memoryview], None],
    on_closed: Callable[[TunnelStream], None],
    source: Endpoint | None = None,
) -> TunnelStream | None:
    """Begin to connect to ``remote``; None if that fails at once."""
    sock = _tcp_socket(remote)
    try:
        if source is not None:
            sock.bind((source.host, 0))
        code = sock.connect_ex((remote.host, remote.port))
    except OSError as error:
        code = error.errno or errno.EIO
    if code not in (0, errno.EINPROGRESS):
        sock.close()
        return None
    return TunnelStream(sock, on_message=on_message, on_closed=on_closed, connecting=True)


class StreamListener:
    """Accepts tunnel streams on one TCP port, at most ``limit`` of them and few per address."""

    def __init__(
        self,
        bind: Endpoint,
        *,
        on_message: Callable[[TunnelStream, memoryview], None],
        on_closed: Callable[[TunnelStream], None],
        limit: int = 16384,
        limit_per_host: int = 1024,
    ) -> None:
        self._socket = _tcp_socket(bind)
        try:
            self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            self._socket.bind((bind.host, bind.port))
            self._socket.listen(256)
        except OSError:
            self._socket.close()
            raise
        self.local = Endpoint(*self._socket.getsockname()[:2])
        self._on_message = on_message
        self._on_stream_closed = on_closed
        self._limit = limit
        self._limit_per_host = limit_per_host
        self._streams: dict[TunnelStream, str] = {}
        self._hosts: Counter[str] = Counter()
        self.refused = 0
        self._reader: Any = gevent.get_hub().loop.io(self._socket.fileno(), _READ)
        self._reader.start(self._acceptable)

    def close(self) -> None:
        """Close the port and every stream that came through it."""
        self._reader.stop()
        self._reader.close()
        self._socket.close()
        for stream in list(self._streams):
            stream.close()

    def _acceptable(self) -> None:
        try:
            fd, address = self._socket._accept()  # type: ignore[attr-defined]  # CPython's own name
        except OSError:
            return
        host = address[0]
        if len(self._streams) >= self._limit or self._hosts[host] >= self._limit_per_host:
            self.refused += 1
            os.close(fd)
            return
        sock = _socket.socket(fileno=fd)
        sock.setblocking(False)
        stream = TunnelStream(sock, on_message=self._on_message, on_closed=self._closed)
        self._streams[stream] = host
        self._hosts[host] += 1
        gevent.spawn_later(STRANGER_TIMEOUT, _close_stranger, stream)

    def _closed(self, stream: TunnelStream) -> None:
        host = self._streams.pop(stream, None)
        if host is not None:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
        self._on_stream_closed(stream)


def _close_stranger(stream: TunnelStream) -> None:
    if not stream.authenticated:
        stream.close()


def _tcp_socket(endpoint: Endpoint) -> _socket.socket:
    family = _socket.AF_INET6 if endpoint.is_ipv6 else _socket.AF_INET
    sock = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
    sock.setblocking(False)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    if endpoint.is_ipv6:
        sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
    return sock
