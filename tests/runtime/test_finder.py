"""Finding coordinators, through a resolver that says what the test wants, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.config import DnsSection
from ntmpatch.base.errors import ConfigError, UnavailableError
from ntmpatch.runtime import finder as runtime_finder
from ntmpatch.runtime.finder import DnsFinder, make_finder, parse_resolver
from ntmpatch.servers.direction.finding import FoundCoordinator, NoCoordinator
from ntmpatch.servers.direction.published import coordinator_text

CERTIFICATE = bytes(range(256)) + b"certificate"
TEXT = " ".join(f'"{string.decode()}"' for string in coordinator_text(3471, CERTIFICATE))
RECORDS = {
    ("home.example.", "NS"): ["dead.example.", "DC.home.example."],
    ("_ntm.dc.home.example.", "TXT"): ['"of something else"', TEXT],
    ("dc.home.example.", "A"): ["192.0.2.1"],
    ("dc.home.example.", "AAAA"): ["2001:db8::1"],
    ("plain.example.", "NS"): ["ns.plain.example."],
    ("ns.plain.example.", "A"): ["192.0.2.2"],
    ("nameless.example.", "A"): ["192.0.2.3"],
}
Handler: TypeAlias = Callable[[dns.message.Message, bool], list[dns.message.Message]]


def lookup(query: dns.message.Message, _tcp: bool) -> list[dns.message.Message]:
    """The answer from RECORDS."""
    question = query.question[0]
    name = question.name.to_text().lower()
    kind = dns.rdatatype.to_text(question.rdtype)
    answer = dns.message.make_response(query)
    if (name, kind) in RECORDS:
        values = RECORDS[name, kind]
        answer.answer.append(dns.rrset.from_text(question.name, 30, "IN", kind, *values))
    elif not any(known == name for known, _ in RECORDS):
        answer.set_rcode(dns.rcode.NXDOMAIN)
    return [answer]


class Resolver:
    """A resolver on loopback: ``handler`` makes the answers, in a thread of its own."""

    def __init__(self) -> None:
        self.handler: Handler = lookup
        self.asked: list[tuple[str, bool]] = []
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        while True:
            self._tcp = socket.create_server(("127.0.0.1", 0))
            with contextlib.suppress(OSError):  # the port may be taken for UDP
                self._udp.bind(self._tcp.getsockname())
                break
            self._tcp.close()
        self.endpoint = Endpoint(*self._tcp.getsockname())
        self._threads = [
            threading.Thread(target=serve, daemon=True)
            for serve in (self._serve_udp, self._serve_tcp)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        for sock in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes its thread, though UDP complains
        for thread in self._threads:
            thread.join(10.0)
        for sock in (self._udp, self._tcp):
            sock.close()

    def _answers(self, wire: bytes, tcp: bool) -> list[bytes]:
        query = dns.message.from_wire(wire)
        self.asked.append((query.question[0].to_text(), tcp))
        return [answer.to_wire() for answer in self.handler(query, tcp)]

    def _serve_udp(self) -> None:
        while True:
            try:
                wire, source = self._udp.recvfrom(4096)
            except OSError:
                return
            if not wire:
                return
            for answer in self._answers(wire, False):
                self._udp.sendto(answer, source)

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                (size,) = struct.unpack("!H", stream.read(2))
                for answer in self._answers(stream.read(size), True):
                    connection.sendall(struct.pack("!H", len(answer)) + answer)


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    resolver = Resolver()
    yield resolver
    resolver.close()


def test_a_coordinator_is_found_by_the_ns_record_of_its_domain(resolver: Resolver) -> None:
    expected = FoundCoordinator(
        "dc.home.example",
        (Endpoint("192.0.2.1", 3471), Endpoint("2001:db8::1", 3471)),
        CERTIFICATE,
    )
    assert DnsFinder([resolver.endpoint]).find("home.example") == [expected]


def test_why_there_is_none(resolver: Resolver) -> None:
    finder = DnsFinder([resolver.endpoint])
    with pytest.raises(NoCoordinator, match=r"there is no domain nowhere\.example"):
        finder.find("nowhere.example")
    with pytest.raises(NoCoordinator, match="has no coordinator: it has no name servers"):
        finder.find("nameless.example")
    with pytest.raises(NoCoordinator, match="none of its name servers says that it is one"):
        finder.find("plain.example")


def test_a_resolver_that_fails(resolver: Resolver) -> None:
    def fail(query: dns.message.Message, _tcp: bool) -> list[dns.message.Message]:
        answer = dns.message.make_response(query)
        answer.set_rcode(dns.rcode.SERVFAIL)
        return [answer]

    finder = DnsFinder([resolver.endpoint], timeout=0.3)
    resolver.handler = fail
    with pytest.raises(UnavailableError, match=r"cannot look up home\.example NS"):
        finder.find("home.example")
    resolver.handler = lambda _query, _tcp: []
    with pytest.raises(UnavailableError, match="no resolver answers in time"):
        finder.find("home.example")
    resolver.close()
    with pytest.raises(UnavailableError, match=r"no resolver answers \("):
        finder.find("home.example")


def test_the_next_resolver_is_asked_and_by_tcp_if_need_be(resolver: Resolver) -> None:
    def truncate(query: dns.message.Message, tcp: bool) -> list[dns.message.Message]:
        (answer,) = lookup(query, tcp)
        if not tcp and query.question[0].rdtype == dns.rdatatype.TXT:
            answer.answer.clear()
            answer.flags |= dns.flags.TC
        return [answer]

    resolver.handler = truncate
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        refused = Endpoint(*nobody.getsockname())
    assert DnsFinder([refused, resolver.endpoint]).find("home.example")
    assert ("_ntm.dc.home.example. IN TXT", True) in resolver.asked


def test_answers_to_other_questions_are_passed_over(resolver: Resolver) -> None:
    def spoof(query: dns.message.Message, tcp: bool) -> list[dns.message.Message]:
        (answer,) = lookup(query, tcp)
        forged = dns.message.make_response(query)
        forged.set_rcode(dns.rcode.NXDOMAIN)
        forged.id ^= 1
        other = dns.message.make_response(dns.message.make_query("other.example", "NS"))
        other.id = query.id
        return [forged, other, answer]

    resolver.handler = spoof
    assert DnsFinder([resolver.endpoint]).find("home.example")


def test_searches_at_once_are_few(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that nobody resolves do not take all threads; whoever comes then is told at once."""
    monkeypatch.setattr(runtime_finder, "MAX_SEARCHES", 1)
    finder = DnsFinder([resolver.endpoint])
    asked, held = threading.Event(), threading.Event()

    def hold(query: dns.message.Message, tcp: bool) -> list[dns.message.Message]:
        asked.set()
        held.wait(10.0)
        return lookup(query, tcp)

    resolver.handler = hold
    with ThreadPoolExecutor(1) as pool:
        search = pool.submit(finder.find, "home.example")
        assert asked.wait(10.0)
        with pytest.raises(UnavailableError, match="too many"):
            finder.find("other.example")
        resolver.handler = lookup
        held.set()
        search.exception()
    assert finder.find("home.example")


def test_resolvers_of_the_configuration() -> None:
    assert parse_resolver("192.0.2.53") == Endpoint("192.0.2.53", 53)
    assert parse_resolver("2001:db8::53") == Endpoint("2001:db8::53", 53)
    assert parse_resolver("[2001:db8::53]:5353") == Endpoint("2001:db8::53", 5353)
    with pytest.raises(ConfigError, match=r"resolver: 'dns\.example' is neither an address"):
        make_finder(DnsSection(resolver=("dns.example",)))
