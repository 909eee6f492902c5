"""``serve``: the chosen servers in this process, until it is told to end.

The embedded default is all four with SQLite. Even then each speaks to the others over its own port
and the real protocol, so that taking one elsewhere changes its configuration and nothing else.
"""

from __future__ import annotations

import functools
import logging
import signal
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import gevent
import gevent.event

from ntmpatch.base.addresses import normalise_fqdn
from ntmpatch.base.config import policy_of
from ntmpatch.base.errors import ConfigError, NtmpatchError, RefusedError
from ntmpatch.crypto.token import parse_token
from ntmpatch.runtime.accounts import Accounts, serve_state, server_database
from ntmpatch.runtime.batching import GroupedEngine
from ntmpatch.runtime.devices import device_types
from ntmpatch.runtime.dns import DnsService, make_name_server
from ntmpatch.runtime.drop_reports import DropReports
from ntmpatch.runtime.finder import make_finder
from ntmpatch.runtime.limits import raise_descriptor_limit
from ntmpatch.runtime.links import NotificationLinks
from ntmpatch.runtime.logs import log_event
from ntmpatch.runtime.places import dns_binds, metrics_bind, place_of, section_of
from ntmpatch.runtime.reloading import relay_limits, reload
from ntmpatch.runtime.servers import RelayForwarding, ServerStation
from ntmpatch.runtime.settings import read_token
from ntmpatch.runtime.shutdown import drain
from ntmpatch.runtime.store import SqlAccountStore
from ntmpatch.runtime.store_direction import SqlDirectionStore
from ntmpatch.runtime.systemd import ServiceManager
from ntmpatch.runtime.trace import TraceWriter
from ntmpatch.servers.account.server import AccountServer
from ntmpatch.servers.direction.limits import limits_of
from ntmpatch.servers.direction.names import packed_hosts
from ntmpatch.servers.direction.server import DirectionServer
from ntmpatch.servers.notification.server import NotificationServer
from ntmpatch.servers.relay.server import RelayServer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ntmpatch.base.config import ServeConfig
    from ntmpatch.base.drops import DropCounter
    from ntmpatch.crypto.token import Token
    from ntmpatch.signalling.party import Party

log = logging.getLogger("ntmpatch.serve")

DATABASES = {"as": "account", "dc": "direction"}
"""Servers that keep something in a database, and what its SQLite file is called."""


class Servers:
    """The servers of this process. To be made, opened and closed in one hub."""

    def __init__(self, config: ServeConfig, roles: Sequence[str]) -> None:
        self.domain = normalise_fqdn(config.serve.domain)
        self.config = config
        self.places = {role: place_of(config, role, self.domain) for role in roles}
        self.drops: dict[str, DropCounter] = {}
        self.ready = gevent.event.Event()
        self.failed: gevent.event.AsyncResult[None] = gevent.event.AsyncResult()
        self.stations: dict[str, ServerStation] = {}
        """By role; a server that has ended is not among them."""
        self.dns: list[DnsService] = []
        self._state = serve_state(config)
        self._accounts = Accounts(config) if "as" in roles else None
        self._waiting = set(roles)
        self._trace = TraceWriter()
        self._engines: dict[str, GroupedEngine] = {}
        self._closers: dict[str, list[Callable[[], None]]] = {role: [] for role in ("", *roles)}
        self._max_connections = 0

    def open(self) -> None:
        """Open all ports and begin; OSError if one is taken, ConfigError if a token is missing."""
        for role, place in self.places.items():
            try:
                self._open(role)
            except OSError as error:
                # Which of the ports it is says the place, where a file's name would stand.
                where = f"[{role}] at {', '.join(map(str, place.binds))}"
                raise OSError(error.errno, error.strerror, where) from error
        self._open_metrics()
        for station in self.stations.values():
            station.begin()

    def _open(self, role: str) -> None:
        makers: dict[str, Callable[..., Party]] = {
            "as": self._make_account_server,
            "dc": self._make_direction_server,
            "ns": self._make_notification_server,
            "rs": self._make_enrolled("rs", RelayServer, limits=relay_limits(self.config)),
        }
        binds = self.places[role].binds
        forwarding = RelayForwarding() if role == "rs" else None
        engine = self._engine(role)
        station = ServerStation(
            self._state.private_key(f"{role}.key"),
            makers[role],
            binds=binds,
            trace=self._trace,
            persist=functools.partial(self._state.write, f"{role}.enrolment"),
            on_ready=functools.partial(self._is_ready, role),
            on_failed=self._has_failed,
            on_datagram=forwarding.datagram if forwarding is not None else None,
            group=engine.group if engine is not None else nullcontext,
        )
        self.stations[role] = station
        self._closers[role].append(station.close)
        self.drops[role] = station.drops
        if forwarding is not None:
            forwarding.station = station.station
        if role == "ns":
            for bind in binds:
                links = NotificationLinks(
                    bind,
                    station.station,
                    limit=self._max_connections,
                    limit_per_host=self.config.ns.max_connections_per_address,
                )
                self._closers[role].append(links.close)

    def _open_metrics(self) -> None:
        bind = metrics_bind(self.config)
        if bind is None:
            return
        from ntmpatch.runtime.metrics import MetricsService  # noqa: PLC0415 (most do without it)

        try:
            self._closers[""].append(MetricsService(bind, self).close)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"[metrics] at {bind}") from error

    def close_role(self, role: str) -> None:
        """Close the ports of one server."""
        self.stations.pop(role, None)
        for closer in reversed(self._closers.pop(role, [])):
            closer()

    def close(self) -> None:
        """Close all ports."""
        for role in reversed(list(self._closers)):
            self.close_role(role)
        self._trace.close()

    # --- parties -------------------------------------------------------------------------

    def _engine(self, role: str) -> GroupedEngine | None:
        """The database of a server that has one; jobs on it that wait are committed together."""
        if role not in self._engines and role in DATABASES:
            engine = server_database(self.config, self._state, DATABASES[role])
            self._engines[role] = GroupedEngine(engine)
        return self._engines.get(role)

    def _make_account_server(self, public_key: bytes, **common: Any) -> Party:
        assert self._accounts is not None
        return AccountServer(
            public_key,
            name=self.places["as"].name,
            store=SqlAccountStore(self._engines["as"].as_engine()),
            signing_key=self._accounts.signing_keys,
            **common,
        )

    def _make_direction_server(self, public_key: bytes, **common: Any) -> Party:
        store = SqlDirectionStore(self._engines["dc"].as_engine())
        limits = self.config.limits
        return DirectionServer(
            public_key,
            store=store,
            finder=make_finder(self.config.dns),
            policy=policy_of(self.config.policy),
            limits=limits_of(
                registrations=limits.registrations_per_node,
                directions=limits.directions_per_node,
                lookups=limits.lookups_per_coordinator,
            ),
            **self._enrolled("dc"),
            **common,
        )

    def _make_notification_server(self, public_key: bytes, **common: Any) -> Party:
        self._max_connections = raise_descriptor_limit()
        section = self.config.ns
        return NotificationServer(
            public_key,
            device_types=device_types(section.devices),
            capacity=min(section.max_nodes, self._max_connections),
            **self._enrolled("ns"),
            **common,
        )

    def _make_enrolled(self, role: str, kind: type[Party], **settings: Any) -> Callable[..., Party]:
        def make(public_key: bytes, **common: Any) -> Party:
            return kind(public_key, **self._enrolled(role), **settings, **common)

        return make

    def _enrolled(self, role: str) -> dict[str, Any]:
        state = self._state.read(f"{role}.enrolment")
        return {
            "state": state,
            "token": None if state is not None else self._token(role),
            "endpoints": self.places[role].publics,
        }

    def _token(self, role: str) -> Token:
        section = section_of(self.config, role)
        if section.token:
            return read_token(section.token)
        name = self.places[role].name
        if self._accounts is None:
            raise ConfigError(
                f"[{role}] token: expected, since the AS is not in this process: make one with"
                f" 'ntmpatch account add --role {role} {name}'"
            )
        try:
            return parse_token(self._accounts.add(name, role))
        except RefusedError:
            return parse_token(self._accounts.reissue(name))

    # --- progress ------------------------------------------------------------------------

    def _is_ready(self, role: str) -> None:
        if role == "dc" and not self.dns:
            self._open_dns()
        log_event(log, "info", "serving", {}, party=self.stations[role].party)
        self._waiting.discard(role)
        if not self._waiting:
            self.ready.set()

    def _has_failed(self, error: Exception) -> None:
        self.failed.set_exception(error)

    def _open_dns(self) -> None:
        hosts = {place.name: packed_hosts(place.publics) for place in self.places.values()}
        party: Any = self.stations["dc"].party
        name_server = make_name_server(self.config.dns, party, hosts, self._state, self.drops["dc"])
        for bind in dns_binds(self.config, self.places["dc"]):
            try:
                service = DnsService(bind, name_server)
            except OSError as error:
                self._has_failed(OSError(error.errno, f"DNS at {bind}: {error.strerror}"))
                return
            self.dns.append(service)
            self._closers["dc"].append(service.close)


def serve(
    config: ServeConfig,
    roles: Sequence[str],
    *,
    on_ready: Callable[[Servers], None],
    read_config: Callable[[], ServeConfig] | None = None,
) -> None:
    """Run until SIGTERM or SIGINT; ``on_ready`` once all servers can serve.

    The first signal lets what is under way end, the second ends at once. SIGHUP goes by
    ``read_config()`` from then on, as far as that is possible while running. ConfigError and
    OSError before all serve; RefusedError if the AS refuses one of them.
    """
    servers = Servers(config, roles)
    manager = ServiceManager()
    ended = gevent.event.Event()
    hurry = gevent.event.Event()
    reports = DropReports(servers.drops)

    def end() -> None:
        (hurry if ended.is_set() else ended).set()

    handlers = [
        gevent.signal_handler(signal.SIGTERM, end),
        gevent.signal_handler(signal.SIGINT, end),
        gevent.signal_handler(signal.SIGHUP, functools.partial(reload, servers, read_config)),
    ]
    try:
        servers.open()
        gevent.wait([servers.ready, servers.failed, ended], count=1)
        if servers.ready.is_set() and not servers.failed.ready():
            on_ready(servers)
            manager.ready(f"serving {servers.domain}")
            gevent.wait([servers.failed, ended], count=1)
        if servers.failed.ready():
            error = servers.failed.exception
            raise error if isinstance(error, (NtmpatchError, OSError)) else ConfigError(str(error))
        if servers.ready.is_set():
            drain_time = servers.config.serve.drain_time
            manager.stopping(drain_time)
            drain(servers, drain_time, hurry)
    finally:
        for handler in handlers:
            handler.cancel()
        reports.close()
        servers.close()
        manager.close()
