"""The relay server's signalling: a coordinator asks it to let two ends meet (Fig. 5 (14), (15))."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ntmpatch.servers.announcing import AnnouncingServer
from ntmpatch.servers.relay.reflexive import BindingResponder
from ntmpatch.servers.relay.table import ForwardingTable, RelayLimits
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
    """RS. The runtime hands relay frames to ``table`` and STUN to ``reflexive``."""

    role = "RS"

    def __init__(
        self, public_key: bytes, *, limits: RelayLimits | None = None, **settings: Any
    ) -> None:
        super().__init__(public_key, **settings)
        self.table: ForwardingTable[Endpoint] = ForwardingTable(
            entropy=self.entropy, drops=self.drops, limits=limits, now=self.now
        )
        self.reflexive = BindingResponder(self.entropy(32), self.drops)
        self.on(RelayRequest, self._prepare)
        self._sweep()

    @property
    def load(self) -> float:
        """Share of the sessions or of the bandwidth that is taken; 1: there is no session left."""
        return self.table.load(self.now)

    @property
    def is_idle(self) -> bool:
        """Whether nobody needs this server any more: no session is left but idle reserves."""
        return super().is_idle and not self.table.is_needed(self.now)

    def limit(self, limits: RelayLimits, now: float) -> None:
        """Go by other limits from now on."""
        self.now = now
        self.table.limit(limits, now)

    def permits(self, peer: bytes, message: Message) -> bool:  # noqa: ARG002 - one rule for all
        """Only the domain's coordinators ask for anything."""
        return self.is_coordinator(peer)

    def _prepare(self, message: RelayRequest, request: Request) -> RelayGrant:
        """Fig. 5 (14) → (15)."""
        grant = self.table.grant(
            lifetime=message.lifetime,
            byte_quota=message.byte_quota,
            rate=message.rate,
            reserve=message.reserve,
            now=self.now,
        )
        if grant is None:
            raise Refused(RefusalCode.BUSY, "the relay has no session left")
        self.note(
            "session-granted",
            level="debug",
            coordinator=self.peer_name(request.peer),
            session=grant.session_id,
            lifetime=grant.lifetime,
        )
        return RelayGrant(
            grant.session_id, grant.capabilities, addresses_of(self.endpoints), grant.lifetime
        )

    def _sweep(self) -> None:
        expired = self.table.expire(self.now)
        if expired:
            self.note("sessions-expired", count=expired, left=len(self.table))
        self.call_at("sweep", self.now + SWEEP_INTERVAL, self._sweep)
