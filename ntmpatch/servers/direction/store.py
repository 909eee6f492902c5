"""What a direction coordinator keeps: its nodes, their virtual addresses and locations.

Every write is durable on return. The implementation is runtime/store_direction.py; methods block
and run as jobs. Any number of processes may share one store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ntmpatch.base.addresses import Endpoint  # noqa: TC001 - stores decode by the annotation

ADDRESS_QUARANTINE = 30 * 86400.0
"""Seconds for which the addresses of a name that is gone are nobody's."""
ABSENCE = 365 * 86400.0
"""Seconds without a registration after which a name counts as gone."""


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
    push_token: str = ""
    """Where a push gateway finds it, if that is how it is woken."""


class DirectionStore(Protocol):
    """Durable state of a DC. ``now`` is seconds since 1970."""

    def assign_addresses(
        self, fqdn: str, ipv4_prefix: str, ipv6_prefix: str, now: float
    ) -> tuple[bytes, bytes]:
        """The name's virtual addresses, packed: the same ones as before, else fresh ones.

        No address belongs to two names. One that a name gave up is another's only when all others
        are taken, and not before the quarantine is over: what still believes that it is the old
        name's has ended by then. Raises `signalling.errors.Refused` EXHAUSTED. The first address
        of each prefix is the DC's own.
        """

    def release_addresses(self, fqdn: str, now: float) -> None:
        """The name is gone: forget its node; its addresses' quarantine begins.

        If it comes back before they are another's, they are its own again.
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
