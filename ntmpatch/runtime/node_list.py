"""The nodes that a coordinator knows, for an operator: read from its durable state."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, NamedTuple

from ntmpatch.runtime.accounts import serve_state, server_database
from ntmpatch.runtime.store_direction import SqlDirectionStore

if TYPE_CHECKING:
    from ntmpatch.base.config import ServeConfig
    from ntmpatch.servers.direction.store import NodeRecord


class ListedNode(NamedTuple):
    """A node as it last registered."""

    name: str
    ipv4: str | None
    """Virtual addresses."""
    ipv6: str | None
    seen_at: str | None
    """Where its registration came from; None once it has left."""
    local: tuple[str, ...]
    """Where it says it is: an endpoint of each of its interfaces."""
    nat: str
    """``none``, ``keeps ports`` or ``changes ports``, as far as one registration shows it."""
    device_type: str
    registered_at: float
    """Seconds since 1970."""


def list_nodes(config: ServeConfig) -> list[ListedNode]:
    """All that ever registered, by name."""
    store = SqlDirectionStore(server_database(config, serve_state(config), "direction"))
    return sorted(map(_listed, store.all_nodes()))


def _listed(record: NodeRecord) -> ListedNode:
    seen = record.seen_endpoint
    return ListedNode(
        name=record.fqdn,
        ipv4=str(ipaddress.ip_address(record.ipv4)) if record.ipv4 else None,
        ipv6=str(ipaddress.ip_address(record.ipv6)) if record.ipv6 else None,
        seen_at=None if seen is None else str(seen),
        local=tuple(map(str, record.local_endpoints)),
        nat=_nat_of(record),
        device_type=record.device_type,
        registered_at=record.registered_at,
    )


def _nat_of(record: NodeRecord) -> str:
    seen, local = record.seen_endpoint, record.local_endpoints
    if seen is None:
        return "-"
    if seen in local:
        return "none"
    return "keeps ports" if seen.port in {end.port for end in local} else "changes ports"
