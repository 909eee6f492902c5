"""Port mapping on a node's ports: the router is asked from everybody's port, and answers to it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ntmpatch.handover.portmapping import PortMapping, Router
from ntmpatch.wire.paths import Candidate, CandidateKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.base.drops import DropCounter
    from ntmpatch.handover.networks import Network
    from ntmpatch.runtime.carrier import Carrier


class NodePortMapping:
    """The mapping of a managed node's IPv4 port. ``on_change()`` when it is another."""

    def __init__(self, drops: DropCounter, on_change: Callable[[], None]) -> None:
        self._mapping = PortMapping(entropy=os.urandom, drops=drops, on_change=on_change)

    def use(self, network: Network | None, carrier: Carrier, now: float) -> None:
        """The IPv4 network that everything leaves by is this one."""
        port = next((end.port for end in carrier.local_endpoints if not end.is_ipv6), None)
        router = None
        if network is not None and network.gateway and port is not None:
            router = Router(network.gateway, network.address, port)
        self._mapping.use(router, now)

    def datagram(self, buffer: memoryview, source: Endpoint) -> bool:
        """Claim what the router's own port sends."""
        return self._mapping.receive(buffer, source, time.monotonic())

    def run(self, carrier: Carrier, now: float) -> float | None:
        """Do what is due, and send: when to come again, if at all."""
        due_at = self._mapping.poll_timeout()
        if due_at is not None and due_at <= now:
            self._mapping.handle_timeout(now)
        self._send(carrier)
        return self._mapping.poll_timeout()

    def close(self, carrier: Carrier) -> None:
        """Give the mapping back."""
        self._mapping.release()
        self._send(carrier)

    def candidate(self) -> Candidate | None:
        """Where everybody reaches us by the mapping, if there is one."""
        mapped = self._mapping.mapped
        return None if mapped is None else Candidate(CandidateKind.MAPPED, mapped)

    def describe(self) -> dict[str, object]:
        """For status output."""
        return self._mapping.describe()

    def _send(self, carrier: Carrier) -> None:
        while (transmit := self._mapping.poll_transmit()) is not None:
            router, request = transmit
            carrier.send_datagram(request, router)
