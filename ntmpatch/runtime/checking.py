"""``serve --check``: what would keep servers from working, found without changing anything.

`configuration_problems` needs the configuration alone; `machine_problems` looks at this machine:
files, rights, addresses, the database.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import dns.exception
import dns.message
import dns.query
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from ntmpatch.base.addresses import Endpoint, normalise_fqdn
from ntmpatch.base.config import policy_of
from ntmpatch.base.errors import ConfigError
from ntmpatch.runtime.database import check_database
from ntmpatch.runtime.devices import device_types
from ntmpatch.runtime.dns import exempt_prefixes
from ntmpatch.runtime.finder import make_finder, parse_resolver
from ntmpatch.runtime.places import (
    WILDCARDS,
    Place,
    PlaceError,
    dns_binds,
    metrics_bind,
    place_of,
    section_of,
)
from ntmpatch.runtime.settings import read_token
from ntmpatch.runtime.state import StateDirectory, default_state_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ntmpatch.base.config import ServeConfig

UNPRIVILEGED_START = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
CAP_NET_BIND_SERVICE = 10
RESOLVER_TIMEOUT = 3.0


class Problem(NamedTuple):
    """One thing that is wrong, and the key of the configuration where it is to be put right."""

    section: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"[{self.section}] {self.key}: {self.reason}" if self.key else self.reason


class _Port(NamedTuple):
    protocol: str
    bind: Endpoint
    section: str


def places_of(config: ServeConfig, roles: Sequence[str]) -> dict[str, Place]:
    """Where the servers are; PlaceError or ConfigError if one of them cannot be there."""
    domain = normalise_fqdn(config.serve.domain)
    return {role: place_of(config, role, domain) for role in roles}


def configuration_problems(config: ServeConfig, roles: Sequence[str]) -> list[Problem]:
    """What cannot be, whatever machine it is."""
    problems: list[Problem] = []
    try:
        domain = normalise_fqdn(config.serve.domain)
    except ConfigError as error:
        return [Problem("serve", "domain", str(error))]
    try:
        policy_of(config.policy)
    except ConfigError as error:
        problems.append(Problem("policy", "", str(error)))
    places: dict[str, Place] = {}
    for role in roles:
        try:
            places[role] = place_of(config, role, domain)
        except PlaceError as error:
            problem = Problem(error.section, error.key, _reason(error))
            if problem not in problems:
                problems.append(problem)
    for role, place in places.items():
        problems += _token_problems(config, role, place)
    if "dc" in places:
        problems += _dns_problems(config)
    if "ns" in places:
        try:
            device_types(config.ns.devices)
        except ConfigError as error:
            problems.append(Problem("ns", "devices", str(error)))
    try:
        ports = _ports(config, places)
    except PlaceError as error:
        return [*problems, Problem(error.section, error.key, _reason(error))]
    clashes: dict[str, Problem] = {}
    for index, port in enumerate(ports):
        for other in ports[:index]:
            if _clash(port, other):
                reason = f"{port.protocol} {port.bind} is [{other.section}]'s already"
                clashes.setdefault(port.section, Problem(port.section, "port", reason))
    return [*problems, *clashes.values()]


def machine_problems(config: ServeConfig, roles: Sequence[str]) -> list[Problem]:
    """What this machine does not allow or does not have; only for a good configuration."""
    places = places_of(config, roles)
    problems = list(_address_problems(_ports(config, places)))
    directory, state_problems = _state_directory(config)
    problems += state_problems
    if "as" not in places and directory is not None:
        problems += _enrolment_problems(config, places, directory)
    if "dc" in places:
        problems += _resolver_problems(config)
    if {"as", "dc"} & places.keys():
        problems += _database_problems(config, places, directory)
    return problems


# --- configuration ---------------------------------------------------------------------------


def _reason(error: PlaceError) -> str:
    return str(error).partition(": ")[2]


def _token_problems(config: ServeConfig, role: str, place: Place) -> Iterator[Problem]:
    text = section_of(config, role).token
    if not text:
        return
    try:
        fqdn = read_token(text).fqdn
    except ConfigError as error:
        yield Problem(role, "token", str(error))
        return
    if fqdn and fqdn != place.name:
        yield Problem(role, "token", f"it is for {fqdn}, and this server is {place.name}")


def _dns_problems(config: ServeConfig) -> Iterator[Problem]:
    for key, read in (("exempt", exempt_prefixes), ("resolver", make_finder)):
        try:
            read(config.dns)
        except ConfigError as error:
            yield Problem("dns", key, str(error).removeprefix(f"[dns] {key}: "))


def _ports(config: ServeConfig, places: dict[str, Place]) -> list[_Port]:
    ports = [_Port("UDP", bind, role) for role, place in places.items() for bind in place.binds]
    if "ns" in places:
        ports += [_Port("TCP", bind, "ns") for bind in places["ns"].binds]
    if "dc" in places:
        dns = dns_binds(config, places["dc"])
        ports += [_Port(protocol, bind, "dns") for protocol in ("UDP", "TCP") for bind in dns]
    metrics = metrics_bind(config)
    if metrics is not None:
        ports.append(_Port("TCP", metrics, "metrics"))
    return ports


def _clash(one: _Port, other: _Port) -> bool:
    if one.protocol != other.protocol or one.bind.port != other.bind.port or not one.bind.port:
        return False
    if one.bind.is_ipv6 != other.bind.is_ipv6:
        return False
    hosts = {one.bind.host, other.bind.host}
    return len(hosts) == 1 or bool(hosts & set(WILDCARDS))


# --- machine ---------------------------------------------------------------------------------


def _address_problems(ports: list[_Port]) -> Iterator[Problem]:
    told: set[tuple[str, str]] = set()
    for port in ports:
        problem = _foreign(port) or _unprivileged(port)
        if problem is not None and (problem.section, problem.key) not in told:
            told.add((problem.section, problem.key))
            yield problem


def _foreign(port: _Port) -> Problem | None:
    family = socket.AF_INET6 if port.bind.is_ipv6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((port.bind.host, 0))
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            reason = f"{port.bind.host} is not an address of this machine"
            return Problem(port.section, "listen", reason)
    return None


def _unprivileged(port: _Port) -> Problem | None:
    number = port.bind.port
    try:
        start = int(Path(UNPRIVILEGED_START).read_text())
    except (OSError, ValueError):
        start = 1024
    if not 0 < number < start or _may_bind_low_ports():
        return None
    reason = (
        f"{number} is below {start}: it needs CAP_NET_BIND_SERVICE, as docs/systemd's units give it"
    )
    return Problem(port.section, "port", reason)


def _may_bind_low_ports() -> bool:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "CapEff":
                return bool(int(value, 16) >> CAP_NET_BIND_SERVICE & 1)
    return os.geteuid() == 0


def _resolver_problems(config: ServeConfig) -> Iterator[Problem]:
    """Resolvers that do not say who leads the root, which every one of them can."""
    question = dns.message.make_query(".", "NS")
    for text in config.dns.resolver:
        resolver = parse_resolver(text)
        try:
            dns.query.udp(question, resolver.host, RESOLVER_TIMEOUT, resolver.port)
        except (OSError, EOFError, dns.exception.DNSException):
            yield Problem("dns", "resolver", f"{text} does not answer as a DNS server")


def _state_directory(config: ServeConfig) -> tuple[StateDirectory | None, list[Problem]]:
    path = Path(config.serve.state) if config.serve.state else default_state_directory() / "servers"
    try:
        state = StateDirectory(path, create=False)
    except ConfigError as error:
        return None, [Problem("serve", "state", str(error))]
    problems = []
    nearest = path.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        problems.append(Problem("serve", "state", f"{nearest} is not a directory"))
    elif not os.access(nearest, os.W_OK | os.X_OK):
        problems.append(Problem("serve", "state", f"{nearest} cannot be written to"))
    if path.is_dir() and not problems:
        for file in sorted(path.iterdir()):
            mode = file.stat().st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_IRWXG | stat.S_IRWXO):
                reason = f"{file}: others can read it (mode {stat.S_IMODE(mode):04o})"
                problems.append(Problem("serve", "state", f"{reason}: chmod 0600 it"))
    return state, problems


def _enrolment_problems(
    config: ServeConfig, places: dict[str, Place], state: StateDirectory
) -> Iterator[Problem]:
    for role, place in places.items():
        if section_of(config, role).token:
            continue
        try:
            enrolled = state.read(f"{role}.enrolment") is not None
        except ConfigError as error:
            yield Problem("serve", "state", str(error))
            continue
        if not enrolled:
            reason = (
                "expected, since the AS is not in this process: make one with"
                f" 'ntmpatch account add --role {role} {place.name}'"
            )
            yield Problem(role, "token", reason)


def _database_problems(
    config: ServeConfig, places: dict[str, Place], state: StateDirectory | None
) -> Iterator[Problem]:
    if config.serve.database:
        try:
            # A password in the URL is not for the line.
            shown = make_url(config.serve.database).render_as_string(hide_password=True)
        except SQLAlchemyError:
            yield Problem("serve", "database", "not a URL, as postgresql://host/ntmpatch")
            return
        file = make_url(config.serve.database).database
        if shown.startswith("sqlite") and file and not Path(file).exists():
            if not Path(file).absolute().parent.is_dir():
                yield Problem("serve", "database", f"{file}: there is no such directory")
            return
        yield from _database_at(config.serve.database, shown, "database")
        return
    for role, name in (("as", "account"), ("dc", "direction")):
        if role in places and state is not None:
            path = state.path.absolute() / f"{name}.db"
            if path.exists():
                yield from _database_at(f"sqlite:///file:{path}?mode=ro&uri=true", path, "state")


def _database_at(url: str, shown: object, key: str) -> Iterator[Problem]:
    """Problems of a database that is there; it gets its tables, or today's, at the next start."""
    try:
        check_database(url)
    except ConfigError as error:
        yield Problem("serve", key, f"{shown}: {error}")
