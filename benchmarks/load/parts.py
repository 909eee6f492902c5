"""The parts of the measurement: each a function from the field to rows of the table."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from load.field import Field, latencies, rates
from load.figures import Figure
from load.world import node_name

if TYPE_CHECKING:
    from collections.abc import Callable


NODES = 1000
"""Nodes that are registered while requests are measured."""
ENROLMENTS_FROM = 2_000_000
"""Numbers of nodes that enrol: none of the others."""
HANDSHAKES = 16
RELAY_SIZES = (1400, 200)
"""Bytes of a tunnel message within a relay frame: bulk data, and voice."""
DNS_WINDOW = 32
WAKE_UPS = 200


def registrations(field: Field, nodes: int) -> list[Figure]:
    """First ones, those of the same place, and moves."""
    grown = field.grow(nodes)
    figures = []
    if grown is not None:
        first, _ = grown
        figures.append(
            rates(
                "registration_first",
                "first registrations (handshake, inquiry at the AS, address, NS)",
                [first],
            )
        )
    for key, what, moved in (
        ("registration", "registrations from the same place", False),
        ("registration_moved", "registrations from another place (Fig. 5 (3)-(6))", True),
    ):
        runs = field.repeat(
            lambda moved=moved: field.shared(  # type: ignore[misc]  # bound per turn
                "register", field.population, seconds=field.seconds, moved=moved
            )
        )
        figures.append(rates(key, what, runs))
    field.shared("register", field.population)  # where they really are
    return figures


def handshakes(field: Field, nodes: int) -> list[Figure]:
    """Sessions between nodes and the DC."""
    field.grow(nodes)
    runs = field.repeat(
        lambda: field.shared(
            "shake_hands",
            field.population,
            seconds=field.seconds,
            # Fewer at once: who waits for 75 ms asks again, and would be counted twice.
            concurrency=max(1, HANDSHAKES // len(field.drivers)),
        )
    )
    return [rates("handshake", "handshakes answered by a DC, with cookies", runs)]


def tunnels(field: Field, nodes: int) -> list[Figure]:
    """Set-ups within one domain, to saturation, and their latencies below it."""
    field.grow(nodes)
    saturated = field.repeat(lambda: field.look_up(field.seconds))
    figures = [rates("tunnel", "tunnels set up, Fig. 3 (2)-(18), one DC", saturated)]
    full = statistics.median(run.rate for run in saturated)
    for share in (0.25, 0.5):
        runs = field.repeat(lambda rate=share * full: field.look_up(field.seconds, rate))  # type: ignore[misc]
        load = f"at {share:.0%} of that rate"
        for key, what, samples in (
            ("direction", "direction, (2)-(15)", [run.first_latencies for run in runs]),
            ("tunnel", "tunnel up, (2)-(18)", [run.latencies for run in runs]),
        ):
            figures += [
                latencies(
                    f"{key}_p{percent}_at_{share:.0%}",
                    f"{what}, p{percent}, {load}",
                    samples,
                    percent / 100,
                )
                for percent in (50, 99)
            ]
    return figures


def enrolments(field: Field, nodes: int) -> list[Figure]:
    """Accounts that are enrolled by token."""
    count = max(20, min(nodes, 400))
    runs = []
    for turn in range(field.runs):
        numbers = range(ENROLMENTS_FROM + turn * count, ENROLMENTS_FROM + (turn + 1) * count)
        tokens = field.servers.add_invited(numbers)
        shares = field.drivers.share(numbers)
        field.drivers.call("populate", [{"numbers": share, "enrolled": False} for share in shares])
        runs.append(
            field.run(
                "enrol",
                [
                    {
                        "tokens": {number: tokens[number] for number in share},
                        "concurrency": 32 // len(shares),
                    }
                    for share in shares
                ],
            )
        )
    return [rates("enrolment", "enrolments by token (handshake, certificate)", runs)]


def dns(field: Field, nodes: int) -> list[Figure]:
    """A and AAAA of nodes, and of names that do not exist."""
    field.grow(nodes)
    names = [node_name(number) for number in field.population]
    names += [f"absent{number}.{node_name(0)}" for number in range(len(names) // 10)]
    runs = field.repeat(
        lambda: field.run(
            "query", [{"names": names, "window": DNS_WINDOW, "seconds": field.seconds}]
        )
    )
    return [
        rates("dns", "DNS answers over UDP", runs, nodes=False),
        latencies(
            "dns_p99", f"DNS answer, p99, {DNS_WINDOW} under way", [r.latencies for r in runs], 0.99
        ),
    ]


def connections(field: Field, nodes: int, *, held: int = 10_000) -> list[Figure]:
    """Idle connections that one NS holds, and how a node of so many is woken."""
    field.grow(min(nodes, held))
    notification_server = field.servers.processes["ns"]
    coordinator = field.servers.processes["dc"]
    before = notification_server.memory(), coordinator.memory(), len(field.population)
    grown = field.grow(held)
    figures = [Figure("connections", "connections that one NS holds", "", [float(held)])]
    if grown is not None:
        first, attached = grown
        arrived = held - before[2]
        figures += [
            rates(
                "arrival",
                "first registrations while the domain grows to that",
                [first],
            ),
            rates("connection", "connections made to the NS (Fig. 5 (7), (8))", [attached]),
            Figure(
                "connection_memory",
                "memory of the NS a connection",
                "KB",
                [(notification_server.memory() - before[0]) / arrived / 1000],
            ),
            Figure(
                "node_memory_fresh",
                "memory of the DC a node with a session",
                "KB",
                [(coordinator.memory() - before[1]) / arrived / 1000],
            ),
        ]
    wake_ups = field.run(
        "look_up",
        [
            {
                "numbers": field.drivers.share(field.population)[0],
                "called": field.population,
                "rate": WAKE_UPS / field.seconds / 10,
                "seconds": field.seconds,
            }
        ],
    )
    for percent in (50, 99):
        figures.append(
            latencies(
                f"wake_p{percent}",
                f"direction by way of the NS that holds them, p{percent}",
                [wake_ups.first_latencies],
                percent / 100,
            )
        )
    idle = field.run("rest", [{"seconds": field.seconds}] * len(field.drivers))
    lost = sum(field.everywhere("lost_connections"))
    figures += [
        Figure("connections_lost", "of these, broken in the meantime", "", [float(lost)]),
        Figure(
            "ns_idle",
            "share of a core that the NS needs to hold them",
            "%",
            [100 * idle.cpu["ns"] / idle.wall_time],
        ),
    ]
    return figures


def relay(field: Field, nodes: int) -> list[Figure]:
    """Two ends through the RS; what is relayed is opaque."""
    field.grow(max(4, nodes // 10))
    mine = field.drivers.share(field.population)[0]
    figures = []
    for size in RELAY_SIZES:
        runs = field.repeat(
            lambda size=size: field.run(  # type: ignore[misc]
                "relay",
                [{"pair": (mine[0], mine[1]), "payload_size": size, "seconds": field.seconds}],
            )
        )
        figures += [
            Figure(
                f"relay_rate_{size}",
                f"relayed, messages of {size} bytes",
                "Gbit/s",
                [8 * run.bytes / run.wall_time / 1e9 for run in runs],
            ),
            rates(f"relay_{size}", f"relayed, messages of {size} bytes", runs, nodes=False),
            Figure(
                f"relay_share_{size}",
                "share of a core that the RS used",
                "%",
                [100 * run.cpu["rs"] / run.wall_time for run in runs],
            ),
        ]
    # The two nodes hid where they are: they come back.
    field.shared("register", mine[:2])
    return figures


PARTS: dict[str, Callable[[Field, int], list[Figure]]] = {
    "registrations": registrations,
    "handshakes": handshakes,
    "tunnels": tunnels,
    "dns": dns,
    "relay": relay,
    "enrolments": enrolments,
    "connections": connections,
}
"""In the order in which they are played: the last one leaves a crowd behind."""
