"""The DNS service on real sockets: UDP from any address, and what TCP connections may do."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING

import dns.message
import gevent
import gevent.socket
import pytest
from name_server import HOME, Asked, packed

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.config import DnsSection
from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.crypto.certificate import Certificate
from ntmpatch.runtime import dns as runtime_dns
from ntmpatch.runtime.dns import DnsService, make_name_server, stored_serial
from ntmpatch.runtime.state import StateDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE = 20.0


class Served(Asked):
    """A name server behind a service on loopback."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__(HOME)
        self.directory.put("cam.home.example", packed("198.18.16.2"))
        self.service = self._open(host)
        self.port = self.service.local.port

    def _open(self, host: str) -> DnsService:
        for _ in range(20):
            # The port that is free for TCP may be taken for UDP.
            with contextlib.suppress(OSError):
                return DnsService(Endpoint(host, 0), self.server)
        raise AssertionError("no port is free for both")

    def connect(self, host: str = "127.0.0.1") -> gevent.socket.socket:
        return gevent.socket.create_connection((host, self.port), timeout=PATIENCE)


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.service.close()


def framed(*names: str) -> bytes:
    wires = [dns.message.make_query(name, "A", id=n).to_wire() for n, name in enumerate(names)]
    return b"".join(struct.pack("!H", len(wire)) + wire for wire in wires)


def receive(client: gevent.socket.socket, count: int) -> list[dns.message.Message]:
    answers = []
    with client.makefile("rb") as stream:
        for _ in range(count):
            (size,) = struct.unpack("!H", stream.read(2))
            answers.append(dns.message.from_wire(stream.read(size)))
    return answers


def wait_until(condition: Callable[[], bool]) -> None:
    with gevent.Timeout(PATIENCE):
        while not condition():
            gevent.sleep(0.001)


@pytest.mark.parametrize(
    ("bind", "asked"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("0.0.0.0", "127.0.0.7"), ("::", "::1")],
)
def test_an_answer_comes_from_where_the_query_went(bind: str, asked: str) -> None:
    served = Served(bind)
    try:
        family = gevent.socket.AF_INET6 if ":" in asked else gevent.socket.AF_INET
        client = gevent.socket.socket(family, gevent.socket.SOCK_DGRAM)
        client.settimeout(PATIENCE)
        query = dns.message.make_query("cam.home.example", "A").to_wire()
        client.sendto(query, (asked, served.port))
        wire, source = client.recvfrom(4096)
        assert source[:2] == (asked, served.port)
        assert dns.message.from_wire(wire).answer
        client.close()
    finally:
        served.service.close()


def test_a_burst_of_datagrams_is_answered(served: Served) -> None:
    """More than one wake-up reads."""
    client = gevent.socket.socket(gevent.socket.AF_INET, gevent.socket.SOCK_DGRAM)
    client.settimeout(PATIENCE)
    client.connect(("127.0.0.1", served.port))
    for number in range(3 * runtime_dns.READS_A_WAKE_UP):
        client.send(dns.message.make_query("cam.home.example", "A", id=number).to_wire())
    seen = {struct.unpack_from("!H", client.recv(512))[0] for _ in range(150)}
    assert len(seen) == 150
    client.close()


def test_queries_may_be_pipelined(served: Served) -> None:
    """RFC 7766, section 6.2.1.1: in one segment or in many, answered in order."""
    client = served.connect()
    names = ["cam.home.example", "stranger.home.example"] * 100
    client.sendall(framed(*names))
    answers = receive(client, len(names))
    assert [answer.id for answer in answers] == list(range(len(names)))
    assert [bool(answer.answer) for answer in answers] == [True, False] * 100
    for byte in framed("cam.home.example"):
        client.sendall(bytes((byte,)))
    assert receive(client, 1)[0].answer
    client.close()


def test_a_connection_without_a_query_is_closed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_dns, "IDLE_TIMEOUT", 0.05)
    client = served.connect()
    client.sendall(b"\0\x20half a query")
    assert client.recv(1) == b""
    assert served.drops == {Drop.DNS_CONNECTION_SLOW: 1}


def test_a_client_that_reads_nothing_holds_little(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not read from while answers wait for it, and is closed in time."""
    monkeypatch.setattr(runtime_dns, "IDLE_TIMEOUT", 0.2)
    client = served.connect()
    client.settimeout(0.0)
    batch = framed(*["stranger.home.example"] * 1000)
    sent = 0
    with gevent.Timeout(PATIENCE):
        while not served.drops[Drop.DNS_CONNECTION_SLOW]:
            try:
                sent += client.send(batch)
            except BlockingIOError:
                gevent.sleep(0.01)
            except OSError:
                break
    wait_until(lambda: served.drops[Drop.DNS_CONNECTION_SLOW] == 1)
    assert sent < 64 << 20, "the kernel's buffers at most"


def test_connections_are_few_per_address_and_the_longest_idle_makes_room(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_dns, "MAX_CONNECTIONS_PER_HOST", 3)
    monkeypatch.setattr(runtime_dns, "MAX_CONNECTIONS", 3)
    clients = [served.connect() for _ in range(3)]
    for client in [*clients, clients[0]]:
        client.sendall(framed("cam.home.example"))
        assert receive(client, 1)[0].answer
    refused = served.connect()
    with contextlib.suppress(ConnectionError):
        assert refused.recv(1) == b""
    assert served.drops == {Drop.DNS_CONNECTIONS: 1}
    other = gevent.socket.socket()
    other.settimeout(PATIENCE)
    other.bind(("127.0.0.2", 0))
    other.connect(("127.0.0.1", served.port))
    other.sendall(framed("cam.home.example"))
    assert receive(other, 1)[0].answer
    assert clients[1].recv(1) == b"", "the first one has asked again meanwhile"
    assert served.drops[Drop.DNS_CONNECTION_IDLE] == 1
    for client in (clients[0], clients[2]):
        client.sendall(framed("cam.home.example"))
        assert receive(client, 1)[0].answer


def test_the_serial_is_stored(tmp_path: Path) -> None:
    """Ahead of its use, so that the next start begins beyond it."""
    state = StateDirectory(tmp_path / "servers")

    class Coordinator:
        """As a DC that has its certificate."""

        names = Asked().directory
        certificate = Certificate("dc", "dc.home.example", bytes(32), (), 0.0, 1.0)
        signed_certificate = b"signed"
        endpoints = (Endpoint("192.0.2.1", 3471),)

    def serial() -> int:
        server = make_name_server(DnsSection(), Coordinator(), {}, state, DropCounter())
        query = dns.message.make_query("home.example", "SOA").to_wire()
        answer = server.answer_untrusted(query, "192.0.2.9", 0.0, tcp=True)
        (soa,) = dns.message.from_wire(answer or b"").answer[0]
        return int(soa.serial)

    first = serial()
    wait_until(lambda: (stored_serial(state) or 0) > first)
    reserved = stored_serial(state) or 0
    assert serial() == reserved
    wait_until(lambda: (stored_serial(state) or 0) > reserved)
    state.write("dns.serial", b"broken")
    assert stored_serial(state) is None
