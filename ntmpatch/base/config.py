"""Configuration in TOML: every key typed, every mistake told by file, line and expectation."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from ntmpatch.base.errors import ConfigError
from ntmpatch.base.policy import Policy, parse_rule

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T", bound=msgspec.Struct)

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Rate = Annotated[float, Meta(gt=0, le=1e6)]

DEFAULT_ACCOUNT_PORT = 3470
DEFAULT_DIRECTION_PORT = 3471
DEFAULT_NOTIFICATION_PORT = 3472
DEFAULT_RELAY_PORT = 3473
DEFAULT_DNS_PORT = 3475


class TimersSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[timers]``: WireGuard's, in seconds; both ends of a tunnel keep their own."""

    rekey_after: Seconds = 120.0
    reject_after: Seconds = 180.0
    rekey_timeout: Seconds = 5.0
    keepalive: Seconds = 10.0


class PeerSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[peer]]``: a peer without servers, as ntmpatch or any WireGuard has it."""

    public_key: str
    """Base64, as ``wg`` prints it."""
    addresses: tuple[str, ...]
    """The virtual addresses behind it."""
    name: str = ""
    endpoint: str = ""
    """ADDRESS:PORT; empty if the peer calls."""
    preshared_key_file: str = ""
    persistent_keepalive: float = 0.0


class NodeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node]``."""

    token: str = ""
    """An enrolment token, or file:PATH."""
    state: str = ""
    bind: tuple[str, ...] = ()
    """Local addresses of the real network; empty: all."""
    port: Port = 0
    """UDP; 0 lets the kernel choose."""
    interfaces: tuple[str, ...] = ()
    """Patterns of the interfaces whose networks may be used, as ``eth*``; empty: all."""
    metered: tuple[str, ...] = ()
    """Patterns of the interfaces whose traffic costs: used when no other way works."""
    multipath: Literal["failover", "standby"] = "failover"
    """Other networks than the preferred one: tried when that fails, or kept warm for it."""
    port_mapping: bool = True
    """Ask the router for a port that everybody reaches, by PCP, NAT-PMP or UPnP."""
    reserve_relay: bool = True
    """Hold a relay in reserve for each peer that is in use directly, so that data goes on at once
    when the direct path dies."""
    domains: tuple[str, ...] = ()
    """NTM domains beside the node's own."""
    device: Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,32}$")] = "tcp"
    """How an NS wakes the node: ``tcp`` by a connection, ``none`` not at all, others by a way that
    the NS is configured for."""
    push_token: Annotated[str, Meta(max_length=256, pattern=r"^[A-Za-z0-9_.:~=-]*$")] = ""
    """Where that other way finds the node."""
    heartbeat: Annotated[float, Meta(ge=5, le=1680)] = 45.0
    """Seconds of silence on the connection to begin with; they then follow the NAT."""
    mtu: Annotated[int, Meta(ge=1280, le=9000)] = 1376
    offload: bool = True
    """Use the kernel's UDP segmentation where there is one."""
    private_key_file: str = ""
    """Only with ``[[peer]]``: base64, as ``wg genkey`` prints it."""
    addresses: tuple[str, ...] = ()
    """Only with ``[[peer]]``: this node's virtual addresses."""
    name: str = ""
    """Only with ``[[peer]]``: this node's name."""


class PolicySection(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    rename={"sources": "from", "targets": "to"},
):
    """``[[policy]]``: who may reach what. Without any, everybody of the same AS may everything."""

    sources: tuple[str, ...] = ()
    """Patterns of names: ``*``, ``*.home.example`` or a name; empty: everybody."""
    targets: tuple[str, ...] = ()
    """The same, of the nodes that may be reached; empty: all."""
    ports: tuple[str, ...] = ()
    """As ``tcp/22``, ``udp/5000-5010`` or ``tcp``; empty: all."""


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file that ``run --config`` and ``NTMPATCH_CONFIG`` name."""

    node: NodeSection = NodeSection()
    peer: tuple[PeerSection, ...] = ()
    policy: tuple[PolicySection, ...] = ()
    """What others may reach here, beside what the coordinators allow them."""
    timers: TimersSection = TimersSection()


_HEADER = re.compile(r"\s*\[+\s*([\w.-]+)\s*\]+")

OneOrMore: TypeAlias = str | tuple[str, ...]
"""An address, or a list with one of each family."""
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
LogFormat: TypeAlias = Literal["text", "json"]


class ServeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[serve]``: what all servers of a process share."""

    domain: str = "home.example"
    """The domain of the nodes, and of the servers' usual names."""
    state: str = ""
    """Directory of keys and SQLite files; empty: servers below the XDG state directory."""
    database: str = ""
    """SQLAlchemy URL; empty: SQLite files in the state directory."""
    listen: OneOrMore = "127.0.0.1"
    """Address of every server that names none of its own, or a list of one IPv4 and one IPv6."""
    public: OneOrMore = ""
    """Address, or one of each family, under which others reach the servers; empty: ``listen``."""
    drain_time: NotNegative = 30.0
    """Seconds that what is under way may take to end after SIGTERM."""


class ServerSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[as]``, ``[dc]``, ``[ns]``, ``[rs]``: one server."""

    listen: OneOrMore = ""
    """As in ``[serve]``, for this server alone."""
    public: OneOrMore = ""
    """As in ``[serve]``, for this server alone."""
    port: Annotated[int, Meta(ge=-1, le=65535)] = -1
    """UDP, of an NS also TCP; -1: 3470 for an AS, DC 3471, NS 3472, RS 3473."""
    name: str = ""
    """Full name; empty: as, dc, ns or rs in the domain."""
    token: str = ""
    """Enrolment token, or file:PATH; not needed where the AS is in the same process."""


class NotificationSection(ServerSection, frozen=True, forbid_unknown_fields=True):
    """``[ns]``: one server, and what only an NS has."""

    max_nodes: Annotated[int, Meta(ge=1)] = 100_000
    """Nodes at most; fewer where the process may not open so many connections."""
    max_connections_per_address: Annotated[int, Meta(ge=1)] = 1024
    """Nodes behind one NAT share its address."""
    devices: dict[str, dict[str, Any]] = {}
    """``[ns.devices.NAME]``: other ways of waking nodes than ``tcp``, and their settings."""


class RelaySection(ServerSection, frozen=True, forbid_unknown_fields=True):
    """``[rs]``: as the others, and what may pass."""

    max_sessions: Annotated[int, Meta(ge=1)] = 100_000
    """Sessions at once; with so many it takes nothing new."""
    max_lifetime: Seconds = 86400.0
    """Seconds for which a coordinator may ask for a session."""
    session_bytes: Annotated[int, Meta(ge=1)] = 1 << 40
    """Bytes that pass in one session in all."""
    session_mbit: NotNegative = 0.0
    """Mbit/s of one session, both directions together; 0: no limit."""
    capacity_mbit: NotNegative = 0.0
    """Mbit/s of all sessions, against which the load is told; 0: no limit, and unknown."""


class AccountSection(ServerSection, frozen=True, forbid_unknown_fields=True):
    """``[as]``: the account server."""

    domains: tuple[str, ...] = ()
    """Domains whose accounts may be made; empty: that of ``[serve]``."""


class DnsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[dns]``: the DC's authoritative service."""

    listen: OneOrMore = ""
    """Address, or one of each family; empty: the DC's."""
    port: Annotated[int, Meta(ge=-1, le=65535)] = -1
    """UDP and TCP; -1: 3475, 0: any free one. Resolvers ask port 53."""
    ttl: Annotated[int, Meta(ge=0, le=86400)] = 30
    """Seconds that resolvers may keep an answer, also one that says no."""
    excess_rate: Annotated[float, Meta(gt=0)] = 8192.0
    """Bytes a second that UDP answers to a prefix (IPv4 /24, IPv6 /56) may have beyond the queries:
    nothing verifies who sent these. Beyond it TCP and DNS cookies are asked for."""
    exempt: tuple[str, ...] = ()
    """Prefixes that ``excess_rate`` does not limit: resolvers that nobody can speak for."""
    resolver: tuple[str, ...] = ()
    """Recursive resolvers that find other domains' DCs, as 192.0.2.53 or [2001:db8::53]:5353;
    empty: the system's."""


class LimitsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[limits]``: how much one peer may ask of the DC, in requests a second."""

    registrations_per_node: Rate = 2.0
    """Registrations of one node."""
    directions_per_node: Rate = 20.0
    """Tunnels that one node asks for."""
    lookups_per_coordinator: Rate = 2000.0
    """Questions about nodes here by a coordinator of another domain."""


class LogSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[log]``: records on standard error."""

    format: LogFormat = "text"
    """``text`` for people, ``json`` with one object a line for programs."""
    level: LogLevel = "warning"
    """``debug``, ``info``, ``warning`` or ``error``; NTMPATCH_LOG overrides it."""


class MetricsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[metrics]``: counters and gauges over HTTP, as Prometheus reads them."""

    listen: str = ""
    """Address; empty: no metrics. Whoever reaches it can read them."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 9470
    """TCP."""


class ServeConfig(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"account": "as"}
):
    """The file that ``serve --config`` names."""

    serve: ServeSection = ServeSection()
    account: AccountSection = AccountSection()
    dc: ServerSection = ServerSection()
    ns: NotificationSection = NotificationSection()
    rs: RelaySection = RelaySection()
    dns: DnsSection = DnsSection()
    log: LogSection = LogSection()
    metrics: MetricsSection = MetricsSection()
    policy: tuple[PolicySection, ...] = ()
    """Who may reach the nodes of this DC."""
    limits: LimitsSection = LimitsSection()


def policy_of(sections: Sequence[PolicySection]) -> Policy:
    """The rules of a configuration; ConfigError tells which of them cannot be read."""
    rules = []
    for number, section in enumerate(sections, 1):
        try:
            rules.append(parse_rule(section.sources, section.targets, section.ports))
        except ConfigError as error:
            raise ConfigError(f"[[policy]] {number}: {error}") from None
    return Policy(rules)


def parse_node_config(text: str, file: str) -> NodeConfig:
    """Read a node's configuration; ``file`` is its name in messages of ConfigError."""
    return _parse(text, file, NodeConfig)


def parse_serve_config(text: str, file: str) -> ServeConfig:
    """Read the servers' configuration."""
    return _parse(text, file, ServeConfig)


def line_of(text: str, section: str, key: str) -> int | None:
    """The line of ``key`` in ``[section]``, or else of the section; None if it is not there."""
    inside = False
    beginning = None
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header:
            inside = header.group(1) == section
            if inside and beginning is None:
                beginning = number
        elif inside and key and re.match(rf"\s*{re.escape(key)}\s*=", line):
            return number
    return beginning


def _parse(text: str, file: str, kind: type[T]) -> T:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: {error}") from None
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        key = _offending_key(reason, path)
        line = _line_of(text, path, key)
        place = f"{file}: line {line}" if line else file
        raise ConfigError(f"{place}: {f'{key}: ' if key else ''}{_plain(reason)}") from None


def _offending_key(reason: str, path: str) -> str:
    unknown = re.search(r"unknown field `([^`]+)`", reason)
    if unknown:
        return unknown.group(1)
    names = re.findall(r"\.([A-Za-z_][\w-]*)", path.rstrip("`"))
    return names[-1] if names else ""


def _line_of(text: str, path: str, key: str) -> int | None:
    """The line of ``key``, in the table that ``path`` leads through if there are several."""
    section = re.match(r"\.([A-Za-z_][\w-]*)", path)
    inside = section is None or section.group(1) == key
    found = None
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header:
            inside = section is None or header.group(1) == section.group(1)
            if header.group(1) == key:
                return number
        elif inside and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
            return number
        elif found is None and re.match(rf"\s*{re.escape(key)}\s*=", line):
            found = number
    return found


def _plain(reason: str) -> str:
    unknown = re.search(r"unknown field `([^`]+)`", reason)
    if unknown:
        return "unknown key"
    words = {"`str`": "text", "`int`": "a whole number", "`float`": "a number"}
    words |= {"`bool`": "true or false", "`array`": "a list", "`object`": "a table"}
    words = {"`str | array`": "text or a list", **words}
    for theirs, ours in words.items():
        reason = reason.replace(theirs, ours)
    return reason[:1].lower() + reason[1:]
