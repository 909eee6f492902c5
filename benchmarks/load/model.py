"""What ten million nodes need: figures of a run, times what a node does in a day.

All assumptions are here, and are printed with the result. What the code decides (how often a node
registers, how long a certificate is good) is taken from the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from load.figures import number
from ntmpatch.base.addresses import VIRTUAL_IPV4_SPACE
from ntmpatch.servers.account.server import CERTIFICATE_LIFETIME
from ntmpatch.servers.direction.server import SERVED_REGISTRATION_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from load.figures import Figure

DAY = 86400.0
NODES = 10_000_000
PEAK = 3.0
"""The busiest hour, of the mean of the day."""
UTILISATION = 0.5
"""Of a core at that hour: queues stay short, and there is room for a server that fails."""
CONNECTIONS_A_PROCESS = 16_000
"""Of one NS process: the limit of runtime/streams.py."""
RELAY_MESSAGE_SIZE = 1400
INTERVAL = SERVED_REGISTRATION_INTERVAL
"""Seconds between registrations of a node that an NS can wake."""
NEEDED = (
    "registration_first",
    "registration_moved",
    "handshake",
    "tunnel",
    "dns",
    "enrolment",
    "connection",
    "connection_memory",
    "node_memory",
    "node_memory_fresh",
    "relay_1400",
    "ns_idle",
    "connections",
)


@dataclass(frozen=True)
class Day:
    """A day of one node: how often it does what. Nodes are phones and cameras behind NATs."""

    moves: float = 20.0
    """Changes of its access network."""
    tunnels: float = 50.0
    """That it calls for; it is called as often."""
    dns: float = 20.0
    """Queries about it that no resolver's cache answers."""
    data: float = 100e6
    """Bytes sent and received."""
    relayed: float = 0.1
    """Share of them that goes through an RS."""


@dataclass(frozen=True)
class Row:
    """One thing that a node does: how often a day, and what it costs each time."""

    what: str
    times: float
    messages: float
    bytes: float
    cpu: dict[str, float]


def model_text(figures: Sequence[Figure], day: Day | None = None) -> str:
    """The model in Markdown; empty if figures are missing."""
    by_key = {figure.key: figure for figure in figures}
    if not all(key in by_key for key in NEEDED):
        return ""
    day = Day() if day is None else day
    rows = _rows(by_key, day)
    return "\n\n".join((_assumptions(day), _node_table(rows), _server_table(by_key, rows, day)))


def _rows(figures: dict[str, Figure], day: Day) -> list[Row]:
    def row(
        what: str, times: float, key: str, *, dc_handshakes: float = 0.0, ns_handshakes: float = 0.0
    ) -> Row:
        """A measured operation, and the handshakes that go before it when sessions have ended."""
        figure, handshake = figures[key], figures["handshake"]
        cpu = dict(figure.cpu)
        cpu["dc"] = cpu.get("dc", 0.0) + dc_handshakes * handshake.cpu["dc"]
        cpu["ns"] = cpu.get("ns", 0.0) + ns_handshakes * handshake.cpu["dc"]
        more = dc_handshakes + ns_handshakes
        messages, size = figure.traffic
        return Row(
            what,
            times,
            messages + more * handshake.traffic[0],
            size + more * handshake.traffic[1],
            cpu,
        )

    return [
        row("registration at its interval", DAY / INTERVAL, "registration_first"),
        row("move: registration", day.moves, "registration_moved", dc_handshakes=1),
        row("move: new connection to the NS", day.moves, "connection"),
        row("tunnel set up", day.tunnels, "tunnel", dc_handshakes=2, ns_handshakes=1),
        row("certificate renewed", 2 * DAY / CERTIFICATE_LIFETIME, "enrolment"),
        Row("query of its name", day.dns, 0.0, 0.0, figures["dns"].cpu),
    ]


def _assumptions(day: Day) -> str:
    return (
        f"A node registers every {INTERVAL / 60:.0f} minutes, changes its network "
        f"{day.moves:.0f} times a day, sets up {day.tunnels:.0f} tunnels and is called as often; "
        f"its name is asked for {day.dns:.0f} times past all caches. Its sessions with servers "
        "have ended each time, so that handshakes come first. Of its "
        f"{day.data / 1e6:.0f} MB a day {day.relayed:.0%} are relayed. The busiest hour has "
        f"{PEAK:.0f} times the mean, and a core is used to {UTILISATION:.0%} then."
    )


def _node_table(rows: Sequence[Row]) -> str:
    roles = ("as", "dc", "ns")
    lines = [
        "| a day of one node | times | messages | KB | "
        + " | ".join(f"ms of the {role.upper()}" for role in roles)
        + " |",
        "|---|--:|--:|--:|" + "--:|" * len(roles),
    ]

    def line(what: str, times: str, messages: float, size: float, cpu: Sequence[float]) -> str:
        cells = " | ".join(number(1000 * each) for each in cpu)
        return f"| {what} | {times} | {number(messages)} | {number(size / 1000)} | {cells} |"

    lines += [
        line(
            row.what,
            number(row.times),
            row.times * row.messages,
            row.times * row.bytes,
            [row.times * row.cpu.get(role, 0.0) for role in roles],
        )
        for row in rows
    ]
    lines.append(
        line(
            "**all**",
            "",
            sum(row.times * row.messages for row in rows),
            sum(row.times * row.bytes for row in rows),
            [_cpu_a_day(rows, role) for role in roles],
        )
    )
    return "\n".join(lines)


def _cpu_a_day(rows: Sequence[Row], role: str) -> float:
    """Seconds of a core for one node."""
    return sum(row.times * row.cpu.get(role, 0.0) for row in rows)


def _server_table(figures: dict[str, Figure], rows: Sequence[Row], day: Day) -> str:
    def cores(role: str) -> float:
        """Cores for all nodes at the busiest hour."""
        return NODES * _cpu_a_day(rows, role) / DAY * PEAK / UTILISATION

    node_memory = figures["node_memory"].median + figures["node_memory_fresh"].median
    coordinators = max(ceil(NODES / VIRTUAL_IPV4_SPACE.num_addresses), ceil(cores("dc")))
    notifying = ceil(NODES / CONNECTIONS_A_PROCESS)
    idle = figures["ns_idle"].median / 100 / figures["connections"].median
    relay_bytes = NODES * day.data * day.relayed / DAY * PEAK
    relay_cores = relay_bytes / RELAY_MESSAGE_SIZE * figures["relay_1400"].cpu["rs"] / UTILISATION
    lines = [
        f"| for {NODES:,} nodes | cores at the busiest hour | memory | processes | limited by |",
        "|---|--:|--:|--:|---|",
        f"| AS | {number(cores('as'))} | 0.1 GB each | {max(1, ceil(cores('as')))} "
        "| processor: inquiries of coordinators |",
        f"| DC | {number(cores('dc'))} | {number(NODES * node_memory / 1e6)} GB in all "
        f"| {coordinators:,} | IPv4 addresses: {VIRTUAL_IPV4_SPACE.num_addresses:,} an AS |",
        f"| NS | {number(cores('ns') + NODES * idle)} "
        f"| {number(NODES * figures['connection_memory'].median / 1e6)} GB in all, "
        "and the kernel's sockets "
        f"| {notifying:,} | connections a process: {CONNECTIONS_A_PROCESS:,} |",
        f"| RS | {number(relay_cores)} | 0.1 GB each | {max(1, ceil(relay_cores))} "
        f"| the network: {number(8 * relay_bytes / 1e9)} Gbit/s in and out |",
    ]
    return "\n".join(lines)
