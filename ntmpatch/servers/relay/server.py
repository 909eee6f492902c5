"""The relay server's signalling: a coordinator asks it to let two ends meet (Fig. 5 (14), (15))."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ntmpatch.servers.announcing import AnnouncingServer
from ntmpatch.servers.relay.table import ForwardingTable
from ntmpatch.signalling.errors import Refused
from ntmpatch.wire.control_messages import (
    Message,
    RefusalCode,
    RelayGrant,
    RelayRequest,
    addresses_of,
)

if TYPE_CHECKING:
    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.signalling.engine import Request

SWEEP_INTERVAL = 10.0
"""Seconds between sweeps of expired sessions."""


class RelayServer(AnnouncingServer):
    """RS. The runtime hands relay frames to ``table`` and sends what it says."""

    role = "RS"

    def __init__(self, public_key: bytes, **settings: Any) -> None:
        super().__init__(public_key, **settings)
        self.table: ForwardingTable[Endpoint] = ForwardingTable(
            entropy=self.entropy, drops=self.drops
        )
        self.on(RelayRequest, self._prepare)
        self._sweep()

    @property
    def load(self) -> float:
        """Share of the sessions that are taken."""
        return self.table.load

    def permits(self, peer: bytes, message: Message) -> bool:  # noqa: ARG002 - one rule for all
        """Only the domain's coordinators ask for anything."""
        return self.is_coordinator(peer)

    def _prepare(self, message: RelayRequest, _: Request) -> RelayGrant:
        """Fig. 5 (14) → (15)."""
        grant = self.table.grant(
            lifetime=message.lifetime, byte_quota=message.byte_quota, now=self.now
        )
        if grant is None:
            raise Refused(RefusalCode.BUSY, "the relay has no session left")
        return RelayGrant(
            grant.session_id, grant.capabilities, addresses_of(self.endpoints), grant.lifetime
        )

    def _sweep(self) -> None:
        self.table.expire(self.now)
        self.call_at("sweep", self.now + SWEEP_INTERVAL, self._sweep)
