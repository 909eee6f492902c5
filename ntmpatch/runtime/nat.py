"""NAT discovery on a node's ports: requests leave by everybody's port, answers come to it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ntmpatch.handover.nat import Mapping, NatDiscovery, Reflexive
from ntmpatch.wire.paths import Candidate, CandidateKind
from ntmpatch.wire.stun import is_stun

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.base.drops import DropCounter
    from ntmpatch.handover.nat import Seen
    from ntmpatch.runtime.carrier import Carrier


class NodeNat:
    """What a managed node knows of the NATs before it. ``on_change(is_ipv6)`` as in the core."""

    def __init__(self, drops: DropCounter, on_change: Callable[[bool], None]) -> None:
        self._discovery = NatDiscovery(entropy=os.urandom, drops=drops, on_change=on_change)
        self._told: tuple[Endpoint | None, tuple[Endpoint, ...]] = (None, ())

    def snapshot(self, is_ipv6: bool) -> Reflexive:
        """Mapping kind and reflexive endpoints of a family, as far as is known."""
        return self._discovery.snapshot(is_ipv6)

    def seen(self, is_ipv6: bool) -> tuple[Seen, ...]:
        """Each place that has told, and what it saw."""
        return self._discovery.seen(is_ipv6)

    @property
    def is_asking(self) -> bool:
        """Whether answers may still come."""
        return self._discovery.is_asking

    @property
    def vantage(self) -> tuple[Endpoint, ...]:
        """Whom we ask."""
        return self._told[1]

    def datagram(self, buffer: memoryview, segment_size: int, source: Endpoint) -> bool:
        """Claim STUN; everything else is for the tunnel."""
        if not is_stun(buffer):
            return False
        now = time.monotonic()
        for start in range(0, len(buffer), segment_size):
            self._discovery.receive(buffer[start : start + segment_size], source, now)
        return True

    def registered(
        self,
        coordinator: Endpoint | None,
        vantage: tuple[Endpoint, ...],
        local: Callable[[], Sequence[Endpoint]],
        now: float,
    ) -> None:
        """What the last registration told; asked anew if it is another thing than before.

        ``coordinator`` is None from a move until the registration that follows it."""
        if self._told != (coordinator, vantage):
            self._told = coordinator, vantage
            ask = vantage if coordinator is not None else ()
            self._discovery.look(coordinator, ask, local(), now)

    def look(self, local: Sequence[Endpoint], now: float) -> None:
        """Ask once more, as somebody wants to know."""
        self._discovery.look(*self._told, local, now)

    def run(self, carrier: Carrier, now: float) -> float | None:
        """Do what is due, and send: when to come again, if at all."""
        discovery = self._discovery
        due_at = discovery.poll_timeout()
        if due_at is not None and due_at <= now:
            discovery.handle_timeout(now)
        while (transmit := discovery.poll_transmit()) is not None:
            server, request = transmit
            carrier.send_datagram(request, server)
        return discovery.poll_timeout()

    def candidates(self) -> list[Candidate]:
        """Where peers may find this node by what servers saw."""
        found = []
        for is_ipv6 in (False, True):
            mapping, endpoints = self.snapshot(is_ipv6)
            if endpoints and mapping is Mapping.DEPENDENT:
                found.append(Candidate(CandidateKind.SYMMETRIC, endpoints[-1]))
            else:
                found += [Candidate(CandidateKind.MAPPED, each) for each in endpoints]
        return found

    def describe(self) -> dict[str, dict[str, object]]:
        """For status output."""
        return {
            "ipv4": self._discovery.describe(is_ipv6=False),
            "ipv6": self._discovery.describe(is_ipv6=True),
        }
