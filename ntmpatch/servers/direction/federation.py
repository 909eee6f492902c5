"""Which domains there are: the DC asks the AS now and then, and tells its nodes.

By it a node knows which names to look up through its DC, and which addresses are virtual, without a
configuration. Nothing is trusted for being on the list: that takes a certificate.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from typing import TYPE_CHECKING

import msgspec

from ntmpatch.signalling.effects import Failed
from ntmpatch.signalling.errors import Refused, Silent
from ntmpatch.signalling.process import Process, ask, sleep
from ntmpatch.wire.control_messages import (
    MAX_DOMAINS_A_MESSAGE,
    FederatedDomain,
    FederationRequest,
    FederationResponse,
)

if TYPE_CHECKING:
    from ntmpatch.servers.direction.server import DirectionServer
    from ntmpatch.signalling.engine import Request

REFRESH_INTERVAL = 60.0
RETRY_INTERVAL = 5.0
MAX_DOMAINS = 10_000


class Federation:
    """The list, as the AS told it last."""

    def __init__(self, party: DirectionServer) -> None:
        self._party = party
        self._domains: tuple[FederatedDomain, ...] = ()
        self._names: list[str] = []
        self.version = 0
        """Changes with the list, and is the same for the same list; 0: none was told yet."""
        party.on(FederationRequest, self._tell)

    def keep(self) -> Process[None]:
        """Ask the AS, again and again."""
        while True:
            try:
                self._take((yield from self._ask()))
            except (Silent, Refused) as failure:
                self._party.emit(Failed(failure, "list of domains"))
                yield from sleep(RETRY_INTERVAL if not self.version else REFRESH_INTERVAL)
            else:
                yield from sleep(REFRESH_INTERVAL)

    def _ask(self) -> Process[list[FederatedDomain]]:
        domains: list[FederatedDomain] = []
        while len(domains) < MAX_DOMAINS:
            after = domains[-1].domain if domains else ""
            page = yield from ask(
                self._party.account_server, FederationRequest(after), FederationResponse
            )
            if not page.domains or page.domains[0].domain <= after:
                break
            domains += page.domains
        return domains

    def _take(self, domains: list[FederatedDomain]) -> None:
        self._domains = tuple(domains)
        self._names = [each.domain for each in domains]
        version = zlib.crc32(msgspec.msgpack.encode(domains)) or 1
        if version != self.version:
            self.version = version
            self._party.recall_nodes()  # those that register rarely would learn it late

    def _tell(self, message: FederationRequest, request: Request) -> FederationResponse:
        self._party.registered(request.peer)
        start = bisect_right(self._names, message.after)
        return FederationResponse(
            self._domains[start : start + MAX_DOMAINS_A_MESSAGE], self.version
        )
