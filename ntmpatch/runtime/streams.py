"""Tunnel messages over TCP: the notification service's long-lived connection.

The same handshake and data messages as over UDP, each behind its length (u16, big-endian), so the
notification server is authenticated as everything else is and the NAT sees one idle TCP connection.
A server holds tens of thousands of them: an idle one is an object, a watcher and a descriptor.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
import struct
import time
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

DELIVERY_TIMEOUT = 20.0
"""Seconds in which the far end has to acknowledge what it is sent (RFC 5482); then it is gone.
Only while something is under way: Linux would apply it to the first lost probe as well."""

BACKLOG = 4096
"""Connections that wait to be accepted: after a restart all nodes come back at once. The kernel
takes less where ``net.core.somaxconn`` says so."""

MAX_ACCEPTED = 64
"""Connections that are accepted in one go; then others have a turn."""

PROBE_INTERVAL, PROBES = 10, 3
"""Seconds between the probes of a connection that does not answer them, and how many there are."""

_READ = 1
_WRITE = 2
_length = struct.Struct("!H")

# struct tcp_info of Linux: 8 bytes, 24 of u32, 4 of u64, then tcpi_segs_out and tcpi_segs_in, u32.
_TCP_INFO_SIZE = 144
_segments_in = struct.Struct("=140xI")


class TunnelStream:
    """One connected TCP socket that carries tunnel messages: a ``StreamLink``.

    ``on_message(stream, message)`` and ``on_closed(stream)`` run in the hub.
    """

    __slots__ = (
        "_connecting",
        "_delivering",
        "_incoming",
        "_on_closed",
        "_on_message",
        "_outgoing",
        "_reader",
        "_socket",
        "_writer",
        "peer_key",
    )

    def __init__(
        self,
        sock: _socket.socket,
        *,
        on_message: Callable[[TunnelStream, memoryview], None],
        on_closed: Callable[[TunnelStream], None],
        connecting: bool = False,
    ) -> None:
        self.peer_key: bytes | None = None
        """Whose messages it carries; None: a stranger's."""
        self._socket: _socket.socket | None = sock
        self._on_message = on_message
        self._on_closed = on_closed
        self._incoming = b""
        """The beginning of a message."""
        self._outgoing: deque[bytes] | None = None
        self._connecting = connecting
        self._delivering = False
        self._reader: Any = None
        self._writer: Any = None
        own(sock)
        if connecting:
            self._outgoing = deque()
            self._wait_to_write()
        else:
            self._wait_to_read()

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

    def local(self) -> Endpoint | None:
        """This end, as long as it is open."""
        try:
            return Endpoint(*self._socket.getsockname()[:2]) if self._socket else None
        except OSError:
            return None

    def claim(self, peer_key: bytes) -> None:
        """A peer has shown that it is at the far end; two cannot be."""
        if self.peer_key is None:
            self.peer_key = peer_key
        elif self.peer_key != peer_key:
            self.close()

    def keep_alive(self, interval: float) -> None:
        """Probe the far end whenever it was silent for ``interval`` seconds (RFC 1122 4.2.3.6)."""
        if self._socket is None:
            return
        idle = max(1, round(interval))
        # Linux waits for this long after every probe, also after one that was answered.
        again = min(PROBE_INTERVAL, idle)
        with contextlib.suppress(OSError):  # it broke: the watcher tells
            self._socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPINTVL, again)
            self._socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPCNT, PROBES)
            self._socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPIDLE, idle)
            self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)

    def segments_received(self) -> int | None:
        """How many segments the kernel has received, probes and acknowledgments too."""
        if self._socket is None or self._connecting:
            return None
        try:
            info = self._socket.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, _TCP_INFO_SIZE)
            (count,) = _segments_in.unpack(info)
        except (OSError, struct.error):
            return None
        return int(count)

    def send(self, message: bytes) -> None:
        """Queue one tunnel message; dropped if the connection is gone."""
        if self._socket is None:
            return
        if self._outgoing is None:
            self._outgoing = deque()
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
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._reader = self._writer = None
        disown(self._socket)
        self._socket.close()
        self._socket = None
        self._outgoing = None
        self._on_closed(self)

    def _wait_to_read(self) -> None:
        assert self._socket is not None
        self._reader = gevent.get_hub().loop.io(self._socket.fileno(), _READ)
        self._reader.start(self._readable)

    def _wait_to_write(self) -> None:
        if self._writer is None:
            assert self._socket is not None
            self._writer = gevent.get_hub().loop.io(self._socket.fileno(), _WRITE)
            self._writer.start(self._writable)

    def _writable(self) -> None:
        if self._socket is None:
            return
        if self._connecting:
            if self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR):
                self.close()
                return
            self._connecting = False
            self._wait_to_read()
        self._write()

    def _write(self) -> None:
        """Write what is queued; the queue and its watcher go when it is empty."""
        self._expect_acknowledgments(True)
        while self._outgoing and self._socket is not None:
            frame = self._outgoing[0]
            try:
                sent = self._socket.send(frame)
            except BlockingIOError:
                self._wait_to_write()
                return
            except OSError:
                self.close()
                return
            if sent < len(frame):
                self._outgoing[0] = frame[sent:]
            else:
                self._outgoing.popleft()
        self._outgoing = None
        if self._writer is not None:
            self._writer.stop()
            self._writer.close()
            self._writer = None

    def _expect_acknowledgments(self, expected: bool) -> None:
        if self._delivering == expected or self._socket is None:
            return
        self._delivering = expected
        timeout = round(1000 * DELIVERY_TIMEOUT) if expected else 0
        with contextlib.suppress(OSError):
            self._socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_USER_TIMEOUT, timeout)

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
        self._expect_acknowledgments(False)
        incoming = self._incoming + data
        start = 0
        while self._socket is not None and len(incoming) - start >= _length.size:
            (size,) = _length.unpack_from(incoming, start)
            if not 0 < size <= MAX_MESSAGE_SIZE:
                self.close()
                return
            if len(incoming) - start < _length.size + size:
                break
            start += _length.size + size
            self._on_message(self, memoryview(incoming)[start - size : start])
        self._incoming = incoming[start:]


def connect_stream(
    remote: Endpoint,
    *,
    on_message: Callable[[TunnelStream, memoryview], None],
    on_closed: Callable[[TunnelStream], None],
    source: Endpoint | None = None,
    interface: str = "",
) -> TunnelStream | None:
    """Begin to connect to ``remote``, by ``interface`` if one is named; None if that fails."""
    sock = _tcp_socket(remote)
    try:
        if interface:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_BINDTODEVICE, interface.encode())
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
    """Accepts tunnel streams on one TCP port, at most ``limit`` of them and few per address.

    Who does not show within ``STRANGER_TIMEOUT`` who it is goes again.
    """

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
            self._socket.listen(BACKLOG)
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
        self._strangers: deque[tuple[float, TunnelStream]] = deque()
        """Oldest first, with when their time is over; one timer serves them all."""
        self._sweeper: Any = None
        self.refused = 0
        self._reader: Any = gevent.get_hub().loop.io(self._socket.fileno(), _READ)
        self._reader.start(self._acceptable)

    def close(self) -> None:
        """Close the port and every stream that came through it."""
        self._reader.stop()
        self._reader.close()
        self._socket.close()
        if self._sweeper is not None:
            self._sweeper.close()
        for stream in list(self._streams):
            stream.close()

    def __len__(self) -> int:
        return len(self._streams)

    def _acceptable(self) -> None:
        for _ in range(MAX_ACCEPTED):
            try:
                fd, address = self._socket._accept()  # type: ignore[attr-defined]  # CPython's own
            except OSError:
                return
            self._accept(fd, address[0])

    def _accept(self, fd: int, host: str) -> None:
        if len(self._streams) >= self._limit or self._hosts[host] >= self._limit_per_host:
            self.refused += 1
            os.close(fd)
            return
        sock = _socket.socket(fileno=fd)
        sock.setblocking(False)
        stream = TunnelStream(sock, on_message=self._on_message, on_closed=self._closed)
        self._streams[stream] = host
        self._hosts[host] += 1
        self._strangers.append((time.monotonic() + STRANGER_TIMEOUT, stream))
        if self._sweeper is None:
            self._sweeper = gevent.get_hub().loop.timer(STRANGER_TIMEOUT, STRANGER_TIMEOUT / 4)
            self._sweeper.start(self._sweep)

    def _sweep(self) -> None:
        now = time.monotonic()
        while self._strangers and self._strangers[0][0] <= now:
            _, stream = self._strangers.popleft()
            if stream.peer_key is None:
                stream.close()
        if not self._strangers:
            self._sweeper.stop()
            self._sweeper.close()
            self._sweeper = None

    def _closed(self, stream: TunnelStream) -> None:
        host = self._streams.pop(stream, None)
        if host is not None:
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
        self._on_stream_closed(stream)


def _tcp_socket(endpoint: Endpoint) -> _socket.socket:
    family = _socket.AF_INET6 if endpoint.is_ipv6 else _socket.AF_INET
    sock = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
    sock.setblocking(False)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    if endpoint.is_ipv6:
        sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
    return sock
