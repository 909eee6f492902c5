"""The coordinator's durable state over SQLAlchemy: servers/direction/store.py says what it is."""

from __future__ import annotations

import ipaddress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import delete, insert, or_, select, update

from ntmpatch.runtime.schema import addresses, nodes
from ntmpatch.servers.direction.store import NodeRecord
from ntmpatch.signalling.errors import Refused
from ntmpatch.wire.control_messages import RefusalCode

if TYPE_CHECKING:
    from sqlalchemy import Engine, Row

FIRST_HOST = 2
"""Of a prefix: zero is the network, one the DC's own."""


class SqlDirectionStore:
    """A ``DirectionStore``; thread-safe, every write is on the disk when it returns."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def assign_addresses(
        self, fqdn: str, ipv4_prefix: str, ipv6_prefix: str, now: float
    ) -> tuple[bytes, bytes]:
        """The name's virtual addresses: the same ones as before, else the next ones.

        Addresses are handed out in order and never taken back, so none is reused early; an
        operator who runs out of them leases a larger prefix.
        """
        ipv4_network = ipaddress.IPv4Network(ipv4_prefix)
        ipv6_network = ipaddress.IPv6Network(ipv6_prefix)
        with self._engine.begin() as connection:
            row = connection.execute(
                select(addresses).where(addresses.c.fqdn == fqdn)
            ).one_or_none()
            if row is not None and ipaddress.IPv4Address(row.ipv4) in ipv4_network:
                return row.ipv4, row.ipv6
            hosts = connection.scalars(
                select(addresses.c.host).order_by(addresses.c.ipv4.desc()).limit(1)
            ).first()
            host = FIRST_HOST if hosts is None else hosts + 1
            if host >= ipv4_network.num_addresses - 1:
                raise Refused(RefusalCode.EXHAUSTED, f"no address is left in {ipv4_prefix}")
            ipv4 = ipv4_network[host].packed
            ipv6 = ipv6_network[host].packed
            connection.execute(delete(addresses).where(addresses.c.fqdn == fqdn))
            connection.execute(
                insert(addresses).values(
                    fqdn=fqdn, host=host, ipv4=ipv4, ipv6=ipv6, assigned_at=now
                )
            )
        return ipv4, ipv6

    def save_node(self, record: NodeRecord) -> None:
        """Keep a registration, instead of the name's earlier one."""
        values = {
            "record": msgspec.msgpack.encode(asdict(record)),
            "ipv4": record.ipv4,
            "ipv6": record.ipv6,
            "located": True,
        }
        with self._engine.begin() as connection:
            changed = connection.execute(
                update(nodes).where(nodes.c.fqdn == record.fqdn).values(**values)
            )
            if not changed.rowcount:
                connection.execute(insert(nodes).values(fqdn=record.fqdn, **values))

    def node_named(self, fqdn: str) -> NodeRecord | None:
        """The last registration of this name."""
        with self._engine.connect() as connection:
            row = connection.execute(select(nodes).where(nodes.c.fqdn == fqdn)).one_or_none()
        return None if row is None else _to_record(row)

    def node_with_address(self, address: bytes) -> NodeRecord | None:
        """The node that this virtual address is assigned to, if it ever registered."""
        with self._engine.connect() as connection:
            row = connection.execute(
                select(nodes).where(or_(nodes.c.ipv4 == address, nodes.c.ipv6 == address))
            ).first()
        return None if row is None else _to_record(row)

    def nodes(self) -> list[NodeRecord]:
        """All that are registered."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(nodes).where(nodes.c.located)).all()
        return [_to_record(row) for row in rows]

    def all_nodes(self) -> list[NodeRecord]:
        """All that ever registered, also those that have left: for an operator."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(nodes)).all()
        return [_to_record(row) for row in rows]

    def remove_location(self, fqdn: str) -> None:
        """Forget where the node is; its addresses stay its own."""
        with self._engine.begin() as connection:
            connection.execute(update(nodes).where(nodes.c.fqdn == fqdn).values(located=False))


_decoder = msgspec.msgpack.Decoder(NodeRecord)


def _to_record(row: Row[Any]) -> NodeRecord:
    record = _decoder.decode(row.record)
    if row.located:
        return record
    return replace(record, seen_endpoint=None, local_endpoints=())
