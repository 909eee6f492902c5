"""The coordinator's durable state over SQLAlchemy: servers/direction/store.py says what it is."""

from __future__ import annotations

import ipaddress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import delete, func, insert, or_, select, update

from ntmpatch.runtime.database import reading, transact
from ntmpatch.runtime.schema import addresses, nodes
from ntmpatch.runtime.store_records import lock
from ntmpatch.servers.direction.store import ABSENCE, ADDRESS_QUARANTINE, NodeRecord
from ntmpatch.signalling.errors import Refused
from ntmpatch.wire.control_messages import RefusalCode

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Engine, Row

FIRST_HOST = 2
"""Of a prefix: zero is the network, one the DC's own."""
REGISTRATION_PRECISION = 86400.0
"""Seconds within which further registrations of a name are not noted: each would be a write."""


class SqlDirectionStore:
    """A ``DirectionStore``; thread-safe, every write is on the disk when it returns."""

    def __init__(
        self, engine: Engine, *, quarantine: float = ADDRESS_QUARANTINE, absence: float = ABSENCE
    ) -> None:
        self._engine = engine
        self._quarantine = quarantine
        self._absence = absence

    def assign_addresses(
        self, fqdn: str, ipv4_prefix: str, ipv6_prefix: str, now: float
    ) -> tuple[bytes, bytes]:
        """The name's virtual addresses: the same ones as before, else the next ones.

        They are handed out in order; when all have been, those whose names are gone longest.
        """
        ipv4_network = ipaddress.IPv4Network(ipv4_prefix)
        ipv6_network = ipaddress.IPv6Network(ipv6_prefix)

        def change(connection: Connection) -> tuple[bytes, bytes]:
            held = _addresses_of(connection, fqdn, ipv4_network, now)
            if held is not None:
                return held
            lock(connection, "addresses")
            held = _addresses_of(connection, fqdn, ipv4_network, now)
            if held is not None:  # assigned by another process while this one waited
                return held
            host = self._free_host(connection, ipv4_network, now)
            ipv4, ipv6 = ipv4_network[host].packed, ipv6_network[host].packed
            connection.execute(delete(addresses).where(addresses.c.fqdn == fqdn))
            connection.execute(
                insert(addresses).values(
                    fqdn=fqdn, host=host, ipv4=ipv4, ipv6=ipv6, assigned_at=now, registered_at=now
                )
            )
            return ipv4, ipv6

        return transact(self._engine, change)

    def _free_host(self, connection: Connection, network: ipaddress.IPv4Network, now: float) -> int:
        """The next number that was never used, else one whose quarantine is over."""
        last = connection.scalar(
            select(addresses.c.host)
            .where(_within(network))
            .order_by(addresses.c.ipv4.desc())  # the order of hosts too, and has an index
            .limit(1)
        )
        host = FIRST_HOST if last is None else last + 1
        if host < network.num_addresses - 1:
            return int(host)
        gone_at = func.coalesce(addresses.c.released_at, addresses.c.registered_at)
        row = connection.execute(
            select(addresses)
            .where(_within(network))
            .where(
                or_(
                    addresses.c.released_at <= now - self._quarantine,
                    addresses.c.registered_at <= now - self._absence - self._quarantine,
                )
            )
            .order_by(gone_at, addresses.c.host)
            .limit(1)
            .with_for_update()
        ).first()
        if row is None:
            raise Refused(RefusalCode.EXHAUSTED, f"no address is left in {network}")
        connection.execute(delete(addresses).where(addresses.c.fqdn == row.fqdn))
        connection.execute(delete(nodes).where(nodes.c.fqdn == row.fqdn))
        return int(row.host)

    def release_addresses(self, fqdn: str, now: float) -> None:
        """The name is gone: forget its node; its addresses' quarantine begins."""

        def change(connection: Connection) -> None:
            connection.execute(
                update(addresses)
                .where(addresses.c.fqdn == fqdn)
                .where(addresses.c.released_at.is_(None))
                .values(released_at=now)
            )
            connection.execute(delete(nodes).where(nodes.c.fqdn == fqdn))

        transact(self._engine, change)

    def save_node(self, record: NodeRecord) -> None:
        """Keep a registration, instead of the name's earlier one."""
        values = {
            "record": msgspec.msgpack.encode(asdict(record)),
            "ipv4": record.ipv4,
            "ipv6": record.ipv6,
            "located": True,
        }

        def change(connection: Connection) -> None:
            changed = connection.execute(
                update(nodes).where(nodes.c.fqdn == record.fqdn).values(**values)
            )
            if not changed.rowcount:
                connection.execute(insert(nodes).values(fqdn=record.fqdn, **values))

        transact(self._engine, change)

    def node_named(self, fqdn: str) -> NodeRecord | None:
        """The last registration of this name."""
        with reading(self._engine) as connection:
            row = connection.execute(select(nodes).where(nodes.c.fqdn == fqdn)).one_or_none()
        return None if row is None else _to_record(row)

    def node_with_address(self, address: bytes) -> NodeRecord | None:
        """The node that this virtual address is assigned to, if it ever registered."""
        with reading(self._engine) as connection:
            row = connection.execute(
                select(nodes).where(or_(nodes.c.ipv4 == address, nodes.c.ipv6 == address))
            ).first()
        return None if row is None else _to_record(row)

    def nodes(self) -> list[NodeRecord]:
        """All that are registered."""
        with reading(self._engine) as connection:
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


def _within(network: ipaddress.IPv4Network) -> ColumnElement[bool]:
    """Rows of that network: several coordinators, each with its own, may share one database."""
    first, last = network.network_address.packed, network.broadcast_address.packed
    return addresses.c.ipv4.between(first, last)


def _addresses_of(
    connection: Connection, fqdn: str, network: ipaddress.IPv4Network, now: float
) -> tuple[bytes, bytes] | None:
    """The name's addresses, which are in use from now on again; None if it has none there."""
    row = connection.execute(
        select(addresses).where(addresses.c.fqdn == fqdn).where(_within(network))
    ).one_or_none()
    if row is None:
        return None
    stale = row.registered_at is None or row.registered_at < now - REGISTRATION_PRECISION
    if stale or row.released_at is not None:
        changed = connection.execute(
            update(addresses)
            .where(addresses.c.fqdn == fqdn)
            .where(addresses.c.ipv4 == row.ipv4)
            .values(registered_at=now, released_at=None)
        )
        if not changed.rowcount:
            return None  # another name took them over just now
    return row.ipv4, row.ipv6


_decoder = msgspec.msgpack.Decoder(NodeRecord)


def _to_record(row: Row[Any]) -> NodeRecord:
    record = _decoder.decode(row.record)
    if row.located:
        return record
    return replace(record, seen_endpoint=None, local_endpoints=())
