"""What a direction coordinator keeps: its nodes, their virtual addresses and locations.

Every write is durable on return. The implementation is runtime/store.py; methods block and run
as jobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ntmpatch.base.addresses import Endpoint  # noqa: TC001 - stores decode by the annotation


@dataclass(slots=True, frozen=True)
class NodeRecord:
    """A node as it last registered; addresses are packed (4 and 16 bytes)."""

    fqdn: str
    public_key: bytes
    certificate: bytes
    ipv4: bytes
    ipv6: bytes
    seen_endpoint: Endpoint | None
    """Where its registration came from."""
    local_endpoints: tuple[Endpoint, ...]
    device_type: str
    registered_at: float
    """Seconds since 1970."""


class DirectionStore(Protocol):
    """Durable state of a DC. ``now`` is seconds since 1970."""

    def assign_addresses(
        self, fqdn: str, ipv4_prefix: str, ipv6_prefix: str, now: float
    ) -> tuple[bytes, bytes]:
        """The name's virtual addresses, packed: the same ones as before, else fresh ones.

        No address belongs to two names, and none is reused early. Raises
        `signalling.errors.Refused` EXHAUSTED. The first address of each prefix is the DC's own.
        """

    def save_node(self, record: NodeRecord) -> None:
        """Keep a registration, instead of the name's earlier one."""

    def node_named(self, fqdn: str) -> NodeRecord | None:
        """The last registration of this name."""

    def node_with_address(self, address: bytes) -> NodeRecord | None:
        """The node that this virtual address (packed) is assigned to, if it ever registered."""

    def nodes(self) -> list[NodeRecord]:
        """All that are registered: for a start of the server, and for the zone."""

    def remove_location(self, fqdn: str) -> None:
        """Forget where the node is (it left); its addresses stay its own."""
