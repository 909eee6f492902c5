"""The coordinator's DNS service: UDP and TCP on the hub around a ``Zone``."""

from __future__ import annotations

import _socket
import struct
from typing import TYPE_CHECKING, Any

import gevent

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop

if TYPE_CHECKING:
    from ntmpatch.servers.direction.zone import Zone

READS_A_WAKE_UP = 64
MAX_CONNECTIONS = 64
IDLE_TIMEOUT = 10.0
"""Seconds a TCP connection may stay without a whole query (RFC 7766, section 6.2.3)."""

_READ = 1
_WRITE = 2
_length = struct.Struct("!H")


class DnsService:
    """Serves ``zone`` at ``bind``, on UDP and TCP alike."""

    def __init__(self, bind: Endpoint, zone: Zone) -> None:
        self._zone = zone
        family = _socket.AF_INET6 if bind.is_ipv6 else _socket.AF_INET
        loop: Any = gevent.get_hub().loop
        self._udp = _socket.socket(family, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        self._tcp = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            for sock in (self._udp, self._tcp):
                sock.setblocking(False)
                if bind.is_ipv6:
                    sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
            self._tcp.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            self._tcp.bind((bind.host, bind.port))
            self.local = Endpoint(*self._tcp.getsockname()[:2])
            self._udp.bind((bind.host, self.local.port))
            self._tcp.listen(MAX_CONNECTIONS)
        except OSError:
            self._udp.close()
            self._tcp.close()
            raise
        self._connections: set[Any] = set()
        self._readers = [
            loop.io(self._udp.fileno(), _READ),
            loop.io(self._tcp.fileno(), _READ),
        ]
        self._readers[0].start(self._datagrams)
        self._readers[1].start(self._accept)

    def close(self) -> None:
        """Stop serving."""
        for reader in self._readers:
            reader.stop()
            reader.close()
        for greenlet in list(self._connections):
            greenlet.kill(block=False)
        self._udp.close()
        self._tcp.close()

    def _datagrams(self) -> None:
        for _ in range(READS_A_WAKE_UP):
            try:
                query, source = self._udp.recvfrom(4096)
            except OSError:
                return
            answer = self._zone.answer_untrusted(query, tcp=False)
            if answer is not None:
                try:
                    self._udp.sendto(answer, source)
                except OSError:
                    self._zone.drops.drop(Drop.DNS_UNSENT)

    def _accept(self) -> None:
        try:
            fd, _ = self._tcp._accept()  # type: ignore[attr-defined]  # CPython's own name
        except OSError:
            return
        connection = _socket.socket(fileno=fd)
        if len(self._connections) >= MAX_CONNECTIONS:
            self._zone.drops.drop(Drop.DNS_CONNECTIONS)
            connection.close()
            return
        connection.setblocking(False)
        greenlet = gevent.spawn(self._serve, connection)
        self._connections.add(greenlet)
        greenlet.rawlink(self._connections.discard)

    def _serve(self, connection: _socket.socket) -> None:
        try:
            while True:
                with gevent.Timeout(IDLE_TIMEOUT):
                    (size,) = _length.unpack(_receive(connection, _length.size))
                    query = _receive(connection, size)
                    answer = self._zone.answer_untrusted(query, tcp=True)
                    if answer is None:
                        return
                    _send(connection, _length.pack(len(answer)) + answer)
        except (OSError, EOFError, gevent.Timeout):
            return
        finally:
            connection.close()


def _receive(connection: _socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        try:
            part = connection.recv(size - len(data))
        except BlockingIOError:
            _wait(connection, _READ)
            continue
        if not part:
            raise EOFError
        data += part
    return data


def _send(connection: _socket.socket, data: bytes) -> None:
    while data:
        try:
            data = data[connection.send(data) :]
        except BlockingIOError:
            _wait(connection, _WRITE)


def _wait(connection: _socket.socket, events: int) -> None:
    hub: Any = gevent.get_hub()
    watcher = hub.loop.io(connection.fileno(), events)
    try:
        hub.wait(watcher)
    finally:
        watcher.stop()
        watcher.close()
