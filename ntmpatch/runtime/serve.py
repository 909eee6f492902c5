"""``serve``: the chosen servers in this process, until it is told to end.

The embedded default is all four with SQLite. Even then each speaks to the others over its own port
and the real protocol, so that taking one elsewhere changes its configuration and nothing else.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import signal
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gevent
import gevent.event

from ntmpatch.base.addresses import Endpoint, normalise_fqdn
from ntmpatch.base.config import (
    DEFAULT_ACCOUNT_PORT,
    DEFAULT_DIRECTION_PORT,
    DEFAULT_DNS_PORT,
    DEFAULT_NOTIFICATION_PORT,
    DEFAULT_RELAY_PORT,
    ServeConfig,
    ServerSection,
    policy_of,
)
from ntmpatch.base.errors import ConfigError, NtmpatchError, RefusedError
from ntmpatch.crypto.token import parse_token
from ntmpatch.runtime.accounts import Accounts, serve_state, server_database
from ntmpatch.runtime.batching import GroupedEngine
from ntmpatch.runtime.dns import DnsService, make_name_server
from ntmpatch.runtime.finder import make_finder
from ntmpatch.runtime.servers import NotificationLinks, RelayForwarding, ServerStation
from ntmpatch.runtime.settings import read_token
from ntmpatch.runtime.store import SqlAccountStore
from ntmpatch.runtime.store_direction import SqlDirectionStore
from ntmpatch.runtime.trace import TraceWriter
from ntmpatch.servers.account.server import AccountServer
from ntmpatch.servers.direction.limits import limits_of
from ntmpatch.servers.direction.names import packed_hosts
from ntmpatch.servers.direction.server import DirectionServer
from ntmpatch.servers.notification.server import NotificationServer
from ntmpatch.servers.relay.server import RelayServer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ntmpatch.base.drops import DropCounter
    from ntmpatch.crypto.token import Token
    from ntmpatch.signalling.party import Party

log = logging.getLogger("ntmpatch.serve")

ALL_ROLES = ("as", "dc", "ns", "rs")
TITLES = {"as": "AS", "dc": "DC", "ns": "NS", "rs": "RS"}
DATABASES = {"as": "account", "dc": "direction"}
"""Servers that keep something in a database, and what its SQLite file is called."""
_PORTS = {
    "as": DEFAULT_ACCOUNT_PORT,
    "dc": DEFAULT_DIRECTION_PORT,
    "ns": DEFAULT_NOTIFICATION_PORT,
    "rs": DEFAULT_RELAY_PORT,
}


@dataclass(frozen=True)
class Place:
    """Where a server listens, where others reach it, and what it is called."""

    role: str
    name: str
    bind: Endpoint
    public: Endpoint


class Servers:
    """The servers of this process. To be made, opened and closed in one hub."""

    def __init__(self, config: ServeConfig, roles: Sequence[str]) -> None:
        self.domain = normalise_fqdn(config.serve.domain)
        self.places = {role: place_of(config, role, self.domain) for role in ALL_ROLES}
        self.drops: dict[str, DropCounter] = {}
        self.ready = gevent.event.Event()
        self.failed: gevent.event.AsyncResult[None] = gevent.event.AsyncResult()
        self._config = config
        self._roles = tuple(roles)
        self._state = serve_state(config)
        self._accounts = Accounts(config) if "as" in self._roles else None
        self._waiting = set(self._roles)
        self._trace = TraceWriter()
        self._stations: dict[str, ServerStation] = {}
        self._engines: dict[str, GroupedEngine] = {}
        self._closers: list[Callable[[], None]] = []
        self.dns: DnsService | None = None

    def open(self) -> None:
        """Open all ports and begin; OSError if one is taken, ConfigError if a token is missing."""
        for role in self._roles:
            try:
                self._open(role)
            except OSError as error:
                # Which of the ports it is says the place, where a file's name would stand.
                place = f"[{role}] at {self.places[role].bind}"
                raise OSError(error.errno, error.strerror, place) from error
        for station in self._stations.values():
            station.begin()

    def _open(self, role: str) -> None:
        makers: dict[str, Callable[..., Party]] = {
            "as": self._make_account_server,
            "dc": self._make_direction_server,
            "ns": self._make_enrolled("ns", NotificationServer),
            "rs": self._make_enrolled("rs", RelayServer),
        }
        forwarding = RelayForwarding() if role == "rs" else None
        engine = self._engine(role)
        station = ServerStation(
            self._state.private_key(f"{role}.key"),
            makers[role],
            binds=[self.places[role].bind],
            trace=self._trace,
            persist=functools.partial(self._state.write, f"{role}.enrolment"),
            on_ready=functools.partial(self._is_ready, role),
            on_failed=self._has_failed,
            on_datagram=forwarding.datagram if forwarding is not None else None,
            group=engine.group if engine is not None else nullcontext,
        )
        self._stations[role] = station
        self._closers.append(station.close)
        self.drops[role] = station.station.tunnel.drops
        if forwarding is not None:
            forwarding.station = station.station
        if role == "ns":
            links = NotificationLinks(self.places[role].bind, station.station)
            self._closers.append(links.close)

    def close(self) -> None:
        """Close all ports."""
        if self.dns is not None:
            self.dns.close()
        for closer in reversed(self._closers):
            closer()
        self._trace.close()

    # --- parties -------------------------------------------------------------------------

    def _engine(self, role: str) -> GroupedEngine | None:
        """The database of a server that has one; jobs on it that wait are committed together."""
        if role not in self._engines and role in DATABASES:
            engine = server_database(self._config, self._state, DATABASES[role])
            self._engines[role] = GroupedEngine(engine)
        return self._engines.get(role)

    def _make_account_server(self, public_key: bytes, **common: Any) -> Party:
        assert self._accounts is not None
        return AccountServer(
            public_key,
            name=self.places["as"].name,
            store=SqlAccountStore(self._engines["as"].as_engine()),
            signing_key=self._accounts.signing_key,
            **common,
        )

    def _make_direction_server(self, public_key: bytes, **common: Any) -> Party:
        store = SqlDirectionStore(self._engines["dc"].as_engine())
        limits = self._config.limits
        return DirectionServer(
            public_key,
            store=store,
            finder=make_finder(self._config.dns),
            policy=policy_of(self._config.policy),
            limits=limits_of(
                registrations=limits.registrations_per_node,
                directions=limits.directions_per_node,
                lookups=limits.lookups_per_coordinator,
            ),
            **self._enrolled("dc"),
            **common,
        )

    def _make_enrolled(self, role: str, kind: type[Party]) -> Callable[..., Party]:
        def make(public_key: bytes, **common: Any) -> Party:
            return kind(public_key, **self._enrolled(role), **common)

        return make

    def _enrolled(self, role: str) -> dict[str, Any]:
        state = self._state.read(f"{role}.enrolment")
        return {
            "state": state,
            "token": None if state is not None else self._token(role),
            "endpoints": (self.places[role].public,),
        }

    def _token(self, role: str) -> Token:
        section: ServerSection = getattr(self._config, role)
        if section.token:
            return read_token(section.token)
        if self._accounts is None:
            raise ConfigError(
                f"[{role}] token: expected, since the AS is not in this process: make one with"
                f" 'ntmpatch account add --role {role} {self.places[role].name}'"
            )
        name = self.places[role].name
        try:
            return parse_token(self._accounts.add(name, role))
        except RefusedError:
            return parse_token(self._accounts.reissue(name))

    # --- progress ------------------------------------------------------------------------

    def _is_ready(self, role: str) -> None:
        if role == "dc" and self.dns is None:
            self._open_dns()
        self._waiting.discard(role)
        if not self._waiting:
            self.ready.set()

    def _has_failed(self, error: Exception) -> None:
        self.failed.set_exception(error)

    def _open_dns(self) -> None:
        section = self._config.dns
        hosts = {
            self.places[role].name: packed_hosts([self.places[role].public]) for role in self._roles
        }
        bind = Endpoint(
            section.listen or self.places["dc"].bind.host,
            section.port if section.port >= 0 else DEFAULT_DNS_PORT,
        )
        party = self._stations["dc"].party
        name_server = make_name_server(section, party, hosts, self._state, self.drops["dc"])
        try:
            self.dns = DnsService(bind, name_server)
        except OSError as error:
            self._has_failed(OSError(error.errno, f"DNS at {bind}: {error.strerror}"))


def place_of(config: ServeConfig, role: str, domain: str) -> Place:
    """Where a server of this configuration is."""
    section: ServerSection = config.account if role == "as" else getattr(config, role)
    port = section.port if section.port >= 0 else _PORTS[role]
    listen = section.listen or config.serve.listen
    public = section.public or config.serve.public or listen
    for key, text in (("listen", listen), ("public", public)):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise ConfigError(f"{key}: {text!r} is not an address, as 192.0.2.1") from None
    if not 0 < port < 65536:
        raise ConfigError(f"[{role}] port: expected 1 to 65535: others must know it")
    return Place(
        role=role,
        name=normalise_fqdn(section.name or f"{role}.{domain}"),
        bind=Endpoint(listen, port),
        public=Endpoint(public, port),
    )


def serve(
    config: ServeConfig, roles: Sequence[str], *, on_ready: Callable[[Servers], None]
) -> None:
    """Run until SIGTERM or SIGINT; ``on_ready`` once all servers can serve.

    ConfigError and OSError before that; RefusedError if the AS refuses one of them.
    """
    servers = Servers(config, roles)
    ended = gevent.event.Event()
    handlers = [
        gevent.signal_handler(number, ended.set) for number in (signal.SIGTERM, signal.SIGINT)
    ]
    try:
        servers.open()
        waiting = [servers.ready, servers.failed, ended]
        gevent.wait(waiting, count=1)
        if servers.ready.is_set():
            on_ready(servers)
        if not servers.failed.ready():
            gevent.wait([servers.failed, ended], count=1)
        if servers.failed.ready():
            error = servers.failed.exception
            raise error if isinstance(error, (NtmpatchError, OSError)) else ConfigError(str(error))
    finally:
        for handler in handlers:
            handler.cancel()
        servers.close()
