"""The coordinator's DNS service: UDP and TCP on the hub around a ``NameServer``."""

from __future__ import annotations

import _socket
import ipaddress
import logging
import os
import struct
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import gevent

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import ConfigError
from ntmpatch.servers.direction.nameserver import NameServer
from ntmpatch.servers.direction.published import Published
from ntmpatch.servers.direction.serial import ZoneSerial
from ntmpatch.servers.direction.zone import Zones

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ntmpatch.base.addresses import IPNetwork
    from ntmpatch.base.config import DnsSection
    from ntmpatch.base.drops import DropCounter
    from ntmpatch.runtime.state import StateDirectory
    from ntmpatch.servers.direction.published import Publisher

log = logging.getLogger("ntmpatch.dns")

SERIAL_FILE = "dns.serial"
"""In the state directory: the serial that was reserved last (`ZoneSerial`)."""

READS_A_WAKE_UP = 64
"""Queries answered per wake-up, so that a flood cannot starve the hub's other watchers."""
MAX_QUERY_SIZE = 4096
RECEIVE_BUFFER_SIZE = 1 << 20
"""A burst that comes while the hub is busy waits here; the kernel gives what rmem_max allows."""
MAX_CONNECTIONS = 256
MAX_CONNECTIONS_PER_HOST = 16
"""RFC 7766, section 6.2.2: so many clients may well be behind one address."""
BACKLOG = 128
IDLE_TIMEOUT = 10.0
"""Seconds a TCP connection may stay without a whole query (RFC 7766, section 6.2.3)."""
RECEIVE_SIZE = 65536

IP_MTU_DISCOVER = 10
IP_PMTUDISC_OMIT = 5
"""Linux: send by the interface's MTU, and believe no forged news of a smaller one."""
IP_PKTINFO = 8
IPV6_RECVPKTINFO = 49
IPV6_PKTINFO = 50
IPV6_MTU_DISCOVER = 23

_READ = 1
_WRITE = 2
_length = struct.Struct("!H")
# in_pktinfo: interface, source of what we send, destination of what we received
_pktinfo = struct.Struct("=i4s4s")
_pktinfo6 = struct.Struct("=16si")


class DnsService:
    """Serves by ``server`` at ``bind``, on UDP and TCP alike. To be made and closed in the hub."""

    def __init__(self, bind: Endpoint, server: NameServer) -> None:
        self._server = server
        self.answers = 0
        family = _socket.AF_INET6 if bind.is_ipv6 else _socket.AF_INET
        loop: Any = gevent.get_hub().loop
        self._udp = _socket.socket(family, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        self._tcp = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            for sock in (self._udp, self._tcp):
                sock.setblocking(False)
                if bind.is_ipv6:
                    sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
            self._udp.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, RECEIVE_BUFFER_SIZE)
            if not bind.is_ipv6:
                self._udp.setsockopt(_socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_OMIT)
            else:
                self._udp.setsockopt(_socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_OMIT)
            self._tcp.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            self._tcp.bind((bind.host, bind.port))
            self.local = Endpoint(*self._tcp.getsockname()[:2])
            self._udp.bind((bind.host, self.local.port))
            self._tcp.listen(BACKLOG)
            read = self._datagrams
            if bind.host in ("0.0.0.0", "::"):
                # A resolver takes answers only from the address that it asked.
                read = self._datagrams_by_address
                if bind.is_ipv6:
                    self._udp.setsockopt(_socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
                else:
                    self._udp.setsockopt(_socket.IPPROTO_IP, IP_PKTINFO, 1)
        except OSError:
            self._udp.close()
            self._tcp.close()
            raise
        self._connections: dict[_Connection, None] = {}
        """Longest idle first."""
        self._hosts: Counter[str] = Counter()
        self._readers = [
            loop.io(self._udp.fileno(), _READ),
            loop.io(self._tcp.fileno(), _READ),
        ]
        self._readers[0].start(read)
        self._readers[1].start(self._accept)

    def close(self) -> None:
        """Stop serving."""
        for reader in self._readers:
            reader.stop()
            reader.close()
        for connection in list(self._connections):
            connection.greenlet.kill(block=False)
        self._udp.close()
        self._tcp.close()

    # --- UDP -----------------------------------------------------------------------------

    def _datagrams(self) -> None:
        udp, server = self._udp, self._server
        now = time.monotonic()
        for _ in range(READS_A_WAKE_UP):
            try:
                query, source = udp.recvfrom(MAX_QUERY_SIZE)
            except OSError:
                return
            answer = server.answer_untrusted(query, source[0], now, tcp=False)
            if answer is not None:
                self.answers += 1
                try:
                    udp.sendto(answer, source)
                except OSError:
                    server.drops.drop(Drop.DNS_UNSENT)

    def _datagrams_by_address(self) -> None:
        """The same on all addresses: each answer comes from where its query went."""
        udp, server = self._udp, self._server
        now = time.monotonic()
        for _ in range(READS_A_WAKE_UP):
            try:
                query, control, _flags, source = udp.recvmsg(MAX_QUERY_SIZE, 128)
            except OSError:
                return
            answer = server.answer_untrusted(query, source[0], now, tcp=False)
            if answer is not None:
                self.answers += 1
                try:
                    udp.sendmsg([answer], _reply_from(control), 0, source)
                except OSError:
                    server.drops.drop(Drop.DNS_UNSENT)

    # --- TCP -----------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            fd, address = self._tcp._accept()  # type: ignore[attr-defined]  # CPython's own name
        except OSError:
            return
        host = address[0]
        sock = _socket.socket(fileno=fd)
        if self._hosts[host] >= MAX_CONNECTIONS_PER_HOST:
            self._server.drops.drop(Drop.DNS_CONNECTIONS)
            sock.close()
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            # RFC 7766, section 6.2.3: a busy server closes idle connections early.
            self._server.drops.drop(Drop.DNS_CONNECTION_IDLE)
            oldest = next(iter(self._connections))
            self._forget(oldest)
            oldest.greenlet.kill(block=False)
        sock.setblocking(False)
        connection = _Connection(sock, host)
        self._connections[connection] = None
        self._hosts[host] += 1
        connection.greenlet = gevent.spawn(self._serve, connection)

    def _forget(self, connection: _Connection) -> None:
        if connection in self._connections:
            del self._connections[connection]
            self._hosts[connection.host] -= 1
            if not self._hosts[connection.host]:
                del self._hosts[connection.host]

    def _serve(self, connection: _Connection) -> None:
        try:
            while True:
                with gevent.Timeout(IDLE_TIMEOUT):
                    queries = connection.receive()
                    answers = self._answers(queries, connection.host)
                    connection.send(answers)
                if connection in self._connections:
                    self._connections[connection] = self._connections.pop(connection)
                gevent.sleep(0)  # whoever sends queries one after another is not alone
        except gevent.Timeout:
            self._server.drops.drop(Drop.DNS_CONNECTION_SLOW)
        except (OSError, EOFError):
            return
        finally:
            connection.socket.close()
            self._forget(connection)

    def _answers(self, queries: list[bytes], host: str) -> bytes:
        """The answers to pipelined queries (RFC 7766, section 6.2.1.1), each behind its size."""
        now = time.monotonic()
        framed = []
        for query in queries:
            answer = self._server.answer_untrusted(query, host, now, tcp=True)
            if answer is None:
                raise EOFError  # whoever sends such things has nothing more to say
            framed += [_length.pack(len(answer)), answer]
            self.answers += 1
        return b"".join(framed)


class _Connection:
    """One accepted TCP connection."""

    def __init__(self, sock: _socket.socket, host: str) -> None:
        self.socket = sock
        self.host = host
        self.greenlet: Any = None
        self._incoming = bytearray()

    def receive(self) -> list[bytes]:
        """Wait for queries: at least one, at most READS_A_WAKE_UP. EOFError at the end."""
        while not (queries := self._take()):
            try:
                part = self.socket.recv(RECEIVE_SIZE)
            except BlockingIOError:
                self._wait(_READ)
                continue
            if not part:
                raise EOFError
            self._incoming += part
        return queries

    def _take(self) -> list[bytes]:
        incoming = self._incoming
        queries: list[bytes] = []
        start = 0
        while len(queries) < READS_A_WAKE_UP and len(incoming) - start >= _length.size:
            (size,) = _length.unpack_from(incoming, start)
            end = start + _length.size + size
            if len(incoming) < end:
                break
            queries.append(bytes(incoming[start + _length.size : end]))
            start = end
        del incoming[:start]
        return queries

    def send(self, data: bytes) -> None:
        """Send all of it; meanwhile nothing is received."""
        while data:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                self._wait(_WRITE)

    def _wait(self, events: int) -> None:
        hub: Any = gevent.get_hub()
        watcher = hub.loop.io(self.socket.fileno(), events)
        try:
            hub.wait(watcher)
        finally:
            watcher.stop()
            watcher.close()


def make_name_server(
    section: DnsSection,
    coordinator: Publisher,
    hosts: Mapping[str, Sequence[bytes]],
    state: StateDirectory,
    drops: DropCounter,
) -> NameServer:
    """The name server of a coordinator that runs in this hub, as ``section`` wants it.

    ``hosts``: further servers by name, their addresses packed.
    """
    threadpool: Any = gevent.get_hub().threadpool

    def reserve(serial: int) -> None:
        threadpool.spawn(_store_serial, state, serial)

    serial = ZoneSerial(time.time, stored=stored_serial(state), reserve=reserve)
    return NameServer(
        Zones(Published(coordinator, hosts=hosts, ttl=section.ttl), serial),
        drops,
        entropy=os.urandom,
        now=time.monotonic(),
        excess_rate=section.excess_rate,
        exempt=exempt_prefixes(section),
    )


def exempt_prefixes(section: DnsSection) -> list[IPNetwork]:
    """``[dns] exempt``; ConfigError if one is no prefix."""
    try:
        return [ipaddress.ip_network(text) for text in section.exempt]
    except ValueError as error:
        raise ConfigError(f"[dns] exempt: {error}: expected prefixes, as 192.0.2.0/24") from None


def stored_serial(state: StateDirectory) -> int | None:
    """The serial that was reserved last; None if none was, or if it cannot be read any more."""
    stored = state.read(SERIAL_FILE) or b""
    return int(stored) if stored.isdigit() and len(stored) <= 10 else None


def _store_serial(state: StateDirectory, serial: int) -> None:
    try:
        state.write(SERIAL_FILE, str(serial).encode())
    except ConfigError as error:
        log.warning("the zones' serial is not stored: %s", error)


def _reply_from(control: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """The control message by which an answer leaves from the address that its query came to."""
    for level, kind, data in control:
        if level == _socket.IPPROTO_IP and kind == IP_PKTINFO:
            _, local, _ = _pktinfo.unpack(data[: _pktinfo.size])
            return [(level, kind, _pktinfo.pack(0, local, bytes(4)))]
        if level == _socket.IPPROTO_IPV6 and kind == IPV6_PKTINFO:
            local, interface = _pktinfo6.unpack(data[: _pktinfo6.size])
            # Only a link-local address needs to be told of which interface it is.
            return [
                (level, kind, _pktinfo6.pack(local, interface if local[:2] == b"\xfe\x80" else 0))
            ]
    return []
