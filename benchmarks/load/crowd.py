"""A coordinator with very many registered nodes: its start, its memory, its speed among them."""

from __future__ import annotations

import ipaddress
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import insert

from load.field import Field, rates
from load.figures import Figure
from load.servers import Servers
from load.world import DOMAIN, node_certificate
from ntmpatch.base.addresses import VIRTUAL_IPV4_SPACE, Endpoint
from ntmpatch.runtime import schema
from ntmpatch.servers.direction.store import NodeRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from load.driver import Drivers

LONG_AGO = 1.6e9
"""When they registered: so long ago that the DC does not call them at its start."""
AMONG_THEM = 400
"""Nodes that do register and call each other."""
ROWS_AT_ONCE = 10_000


def crowd(
    drivers: Drivers, *, count: int, seconds: float, runs: int, database: str
) -> list[Figure]:
    """A DC that restarts with ``count`` nodes in its database."""
    with (
        tempfile.TemporaryDirectory(prefix="ntm-crowd-") as directory,
        Servers(Path(directory), database=database) as servers,
    ):
        before = servers.processes["dc"]
        time_before, memory_before = before.starting_time, before.memory()
        before.stop()
        _fill(servers, count)
        coordinator = servers.start("dc")
        memory = coordinator.memory() - memory_before
        figures = [
            Figure(
                "crowd_start",
                f"start of a DC with {count:,} nodes ({time_before:.1f} s with none)",
                "s",
                [coordinator.starting_time],
            ),
            Figure("node_memory", "memory of the DC a node", "KB", [memory / count / 1000]),
        ]
        field = Field(servers, drivers, seconds=seconds, runs=runs)
        grown = field.grow(min(count, AMONG_THEM))
        assert grown is not None
        moves = field.repeat(
            lambda: field.shared("register", field.population, seconds=seconds, moved=True)
        )
        field.shared("register", field.population)
        tunnels = field.repeat(lambda: field.look_up(seconds))
        return [
            *figures,
            rates("crowd_first", f"first registrations among {count:,}", [grown[0]]),
            rates("crowd_moved", f"moves among {count:,}", moves),
            rates("crowd_tunnel", f"tunnels set up among {count:,}", tunnels),
        ]


def _fill(servers: Servers, count: int) -> None:
    """Straight into the database: that many would take the nodes many minutes."""
    certificate_size = len(node_certificate(0, os.urandom(32)))
    network = ipaddress.ip_network("fd00:10ad::/48")
    with servers.direction_database().begin() as connection:
        for records in _chunks(count, certificate_size, network):
            connection.execute(
                insert(schema.addresses),
                [
                    {
                        "fqdn": record.fqdn,
                        "host": int.from_bytes(record.ipv6[8:]),
                        "ipv4": record.ipv4,
                        "ipv6": record.ipv6,
                        "assigned_at": LONG_AGO,
                    }
                    for record in records
                ],
            )
            connection.execute(
                insert(schema.nodes),
                [
                    {
                        "fqdn": record.fqdn,
                        "record": msgspec.msgpack.encode(asdict(record)),
                        "ipv4": record.ipv4,
                        "ipv6": record.ipv6,
                        "located": True,
                    }
                    for record in records
                ],
            )


def _chunks(
    count: int, certificate_size: int, network: ipaddress.IPv6Network | ipaddress.IPv4Network
) -> Iterator[list[NodeRecord]]:
    first_ipv4 = int(VIRTUAL_IPV4_SPACE.network_address)
    first_ipv6 = int(network.network_address)
    for start in range(0, count, ROWS_AT_ONCE):
        yield [
            NodeRecord(
                fqdn=f"crowd{number}.{DOMAIN}",
                public_key=os.urandom(32),
                certificate=os.urandom(certificate_size),
                ipv4=(first_ipv4 + 2 + number).to_bytes(4),
                ipv6=(first_ipv6 + 2 + number).to_bytes(16),
                seen_endpoint=Endpoint("192.0.2.1", 1024 + number % 60000),
                local_endpoints=(Endpoint("10.0.0.1", 3480),),
                device_type="tcp",
                registered_at=LONG_AGO,
            )
            for number in range(start, min(count, start + ROWS_AT_ONCE))
        ]
