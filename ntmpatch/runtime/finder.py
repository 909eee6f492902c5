"""Finds the coordinators of a domain by its NS record, through recursive resolvers: Fig. 3 (3).

Blocks, so it is for the hub's thread pool, and it is thread-safe. Queries and answers are
dnspython's; the sockets are CPython's own, which nobody patches.
"""

from __future__ import annotations

import _socket
import contextlib
import ipaddress
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.resolver

from ntmpatch.base.addresses import Endpoint, parse_endpoint
from ntmpatch.base.errors import ConfigError, UnavailableError
from ntmpatch.servers.direction.finding import FoundCoordinator, NoCoordinator
from ntmpatch.servers.direction.published import (
    COORDINATOR_LABEL,
    read_coordinator_text_untrusted,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.base.config import DnsSection

FIND_TIMEOUT = 2.0
"""Seconds that a whole search may take; a look-up of a program waits for it."""
LOOK_UP_TIMEOUT = 1.0
"""Of that, seconds for one name and type, so that one dead name server does not use up all."""
ATTEMPT_TIMEOUT = 0.5
"""Seconds until the next resolver is asked, or the same one again."""
MAX_NAME_SERVERS = 4
"""Name servers of a domain that are looked at."""
MAX_SEARCHES = 5
"""Searches at once: half of the hub's threads, so that names that nobody resolves cannot keep the
database's jobs waiting."""
EDNS_SIZE = 1232
RESOLVER_PORT = 53

_length = struct.Struct("!H")


class DnsFinder:
    """A ``CoordinatorFinder``. Without ``resolvers`` the system's are asked (/etc/resolv.conf).

    It remembers nothing: the resolvers do by TTL, and whoever calls it knows what it has verified.
    """

    def __init__(
        self, resolvers: Sequence[Endpoint] = (), *, timeout: float = FIND_TIMEOUT
    ) -> None:
        self._resolvers = tuple(resolvers)
        self._timeout = timeout
        self._free = threading.BoundedSemaphore(MAX_SEARCHES)

    def find(self, domain: str) -> list[FoundCoordinator]:
        """The coordinators of ``domain``, at least one.

        NoCoordinator: there is no such domain, or it has no coordinator. UnavailableError: no
        resolver answers, they cannot resolve its names, or too many searches are under way.
        """
        if not self._free.acquire(blocking=False):
            raise UnavailableError(f"{domain}: too many domains are being looked up")
        try:
            return _Search(self._resolver(), self._timeout).run(domain)
        except (dns.exception.DNSException, OSError, ValueError) as error:
            raise UnavailableError(f"{domain} cannot be looked up: {error}") from None
        finally:
            self._free.release()

    def _resolver(self) -> dns.resolver.Resolver:
        servers = self._resolvers
        if not servers:
            try:
                system = dns.resolver.Resolver()
            except dns.resolver.NoResolverConfiguration:
                raise UnavailableError("no resolver: /etc/resolv.conf names none") from None
            servers = tuple(
                Endpoint(server, RESOLVER_PORT)
                for server in system.nameservers
                if isinstance(server, str)
            )
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = [_Recursor(server) for server in servers]
        resolver.timeout = ATTEMPT_TIMEOUT
        resolver.use_edns(0, 0, EDNS_SIZE)
        return resolver


class _Search:
    """One search for the coordinators of a domain."""

    def __init__(self, resolver: dns.resolver.Resolver, timeout: float) -> None:
        self._resolver = resolver
        self._ends_at = time.monotonic() + timeout

    def run(self, domain: str) -> list[FoundCoordinator]:
        """See `DnsFinder.find`."""
        try:
            servers = self._look_up(domain, "NS")
        except dns.resolver.NXDOMAIN:
            raise NoCoordinator(f"there is no domain {domain}") from None
        if not servers:
            raise NoCoordinator(f"{domain} has no coordinator: it has no name servers of its own")
        found: list[FoundCoordinator] = []
        failure: UnavailableError | None = None
        for server in servers[:MAX_NAME_SERVERS]:
            fqdn = server.target.to_text(omit_final_dot=True).lower()
            try:
                found += self._coordinators(fqdn)
            except UnavailableError as error:
                failure = error
        if not found:
            raise failure or NoCoordinator(
                f"{domain} has no coordinator: none of its name servers says that it is one"
            )
        return found

    def _coordinators(self, fqdn: str) -> list[FoundCoordinator]:
        """What the name server publishes about itself, if it is a coordinator."""
        try:
            texts = [
                text
                for record in self._look_up(f"{COORDINATOR_LABEL}.{fqdn}", "TXT")
                if (text := read_coordinator_text_untrusted(record.strings)) is not None
            ]
            if not texts:
                return []
            hosts = [
                record.address for kind in ("A", "AAAA") for record in self._look_up(fqdn, kind)
            ]
        except dns.resolver.NXDOMAIN:
            return []
        return [
            FoundCoordinator(fqdn, tuple(Endpoint(host, port) for host in hosts), certificate)
            for port, certificate in texts
            if hosts
        ]

    def _look_up(self, name: str, kind: str) -> list[Any]:
        """The records of a name; dns.resolver.NXDOMAIN if it does not exist."""
        remaining = min(self._ends_at - time.monotonic(), LOOK_UP_TIMEOUT)
        try:
            if remaining <= 0:
                raise dns.exception.Timeout
            answer = self._resolver.resolve(
                dns.name.from_text(name),
                kind,
                raise_on_no_answer=False,
                lifetime=remaining,
                search=False,
            )
        except dns.resolver.NoNameservers as error:
            if all(isinstance(each[3], OSError | EOFError) for each in error.kwargs["errors"]):
                raise UnavailableError(f"no resolver answers ({name} {kind})") from None
            raise UnavailableError(
                f"the resolver cannot look up {name} {kind}: its name servers do not answer"
            ) from None
        except dns.exception.Timeout:
            raise UnavailableError(f"no resolver answers in time ({name} {kind})") from None
        return [] if answer.rrset is None else list(answer.rrset)


class _Recursor(dns.nameserver.AddressAndPortNameserver):
    """A recursive resolver, asked through sockets of our own."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint.host, endpoint.port)

    def kind(self) -> str:
        """As dnspython calls it."""
        return "Do53"

    def query(
        self,
        request: dns.message.QueryMessage,
        timeout: float,
        source: str | None,  # noqa: ARG002 (dnspython's signature)
        source_port: int,  # noqa: ARG002
        max_size: bool,
        one_rr_per_rrset: bool = False,  # noqa: ARG002
        ignore_trailing: bool = False,  # noqa: ARG002
    ) -> dns.message.Message:
        """Ask, by TCP if ``max_size``; dns.message.Truncated if an answer by UDP is."""
        ends_at = time.monotonic() + timeout
        family = _socket.AF_INET6 if ":" in self.address else _socket.AF_INET
        kind = _socket.SOCK_STREAM if max_size else _socket.SOCK_DGRAM
        sock = _socket.socket(family, kind | _socket.SOCK_CLOEXEC)
        try:
            exchange = _ask_tcp if max_size else _ask_udp
            sock.settimeout(timeout)
            sock.connect((self.address, self.port))
            return exchange(sock, request, ends_at)
        except TimeoutError:
            raise dns.exception.Timeout from None
        finally:
            sock.close()


def _ask_udp(
    sock: _socket.socket, request: dns.message.QueryMessage, ends_at: float
) -> dns.message.Message:
    sock.send(request.to_wire())
    while True:
        sock.settimeout(_until(ends_at))
        data = sock.recv(65535)
        # What answers another question, or nothing at all, may be an attempt to spoof: wait on.
        with contextlib.suppress(dns.exception.DNSException, ValueError):
            response = dns.message.from_wire(data)
            if request.is_response(response):
                break
    if response.flags & dns.flags.TC:
        raise dns.message.Truncated
    return response


def _ask_tcp(
    sock: _socket.socket, request: dns.message.QueryMessage, ends_at: float
) -> dns.message.Message:
    wire = request.to_wire()
    sock.sendall(_length.pack(len(wire)) + wire)
    (size,) = _length.unpack(_receive(sock, _length.size, ends_at))
    response = dns.message.from_wire(_receive(sock, size, ends_at))
    if not request.is_response(response):
        raise dns.exception.FormError
    return response


def _receive(sock: _socket.socket, size: int, ends_at: float) -> bytes:
    data = b""
    while len(data) < size:
        sock.settimeout(_until(ends_at))
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _until(ends_at: float) -> float:
    """Seconds until an instant; TimeoutError if it is over (zero would not block)."""
    remaining = ends_at - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining


def make_finder(section: DnsSection) -> DnsFinder:
    """The finder that asks ``[dns] resolver``; ConfigError if one is no address."""
    return DnsFinder([parse_resolver(text) for text in section.resolver])


def parse_resolver(text: str) -> Endpoint:
    """A resolver of the configuration: an address, or ADDRESS:PORT with [] around an IPv6 one."""
    try:
        return Endpoint(str(ipaddress.ip_address(text)), RESOLVER_PORT)
    except ValueError:
        pass
    try:
        return parse_endpoint(text)
    except ConfigError:
        raise ConfigError(
            f"[dns] resolver: {text!r} is neither an address nor ADDRESS:PORT: expected one as"
            " 192.0.2.53 or [2001:db8::53]:5353"
        ) from None
