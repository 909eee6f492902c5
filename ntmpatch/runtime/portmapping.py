"""Port mapping on a node's ports: the router is asked from everybody's port, and answers to it."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Any

import gevent

from ntmpatch.base.errors import UntrustedError
from ntmpatch.handover.portmapping import LIFETIME, PortMapping, Router
from ntmpatch.runtime.upnp import map_port, unmap_port
from ntmpatch.wire.paths import Candidate, CandidateKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.base.drops import DropCounter
    from ntmpatch.handover.networks import Network
    from ntmpatch.runtime.carrier import Carrier
    from ntmpatch.wire.upnp import Service

log = logging.getLogger("ntmpatch.node")


class NodePortMapping:
    """The mapping of a managed node's IPv4 port. ``on_change()`` when it is another."""

    def __init__(self, drops: DropCounter, on_change: Callable[[], None]) -> None:
        self._mapping = PortMapping(entropy=os.urandom, drops=drops, on_change=on_change)
        self._drops = drops
        # Made now: while the interpreter ends it could not be.
        self._threadpool: Any = gevent.get_hub().threadpool
        self._upnp: tuple[Router, Service] | None = None
        """What UPnP has mapped the port by, and where."""

    def use(
        self, network: Network | None, carrier: Carrier, now: float, *, afresh: bool = False
    ) -> None:
        """The IPv4 network that everything leaves by is this one; ``afresh``: or looks like it."""
        port = next((end.port for end in carrier.local_endpoints if not end.is_ipv6), None)
        router = None
        if network is not None and network.gateway and port is not None:
            router = Router(network.gateway, network.address, port)
        if self._upnp is not None and self._upnp[0] != router:
            self._unmap()
        self._mapping.use(router, now, afresh=afresh)

    def datagram(self, buffer: memoryview, source: Endpoint) -> bool:
        """Claim what the router's own port sends."""
        return self._mapping.receive(buffer, source, time.monotonic())

    def run(self, carrier: Carrier, now: float) -> float | None:
        """Do what is due, and send: when to come again, if at all."""
        due_at = self._mapping.poll_timeout()
        if due_at is not None and due_at <= now:
            self._mapping.handle_timeout(now)
        if (router := self._mapping.poll_upnp()) is not None:
            gevent.spawn(self._ask_upnp, router, carrier)
        self._send(carrier)
        return self._mapping.poll_timeout()

    def close(self, carrier: Carrier) -> None:
        """Give the mapping back."""
        self._mapping.release()
        self._unmap()
        self._send(carrier)

    def candidate(self) -> Candidate | None:
        """Where everybody reaches us by the mapping, if there is one."""
        mapped = self._mapping.mapped
        return None if mapped is None else Candidate(CandidateKind.MAPPED, mapped)

    def describe(self) -> dict[str, object]:
        """For status output."""
        return self._mapping.describe()

    def _ask_upnp(self, router: Router, carrier: Carrier) -> None:
        outcome = self._threadpool.apply(_try_to_map, (router,))
        external: Endpoint | None = None
        service: Service | None = None
        if isinstance(outcome, tuple):
            external, service = outcome
        elif isinstance(outcome, UntrustedError):
            self._drops.drop(outcome.drop)
        else:
            log.debug("no UPnP at %s: %s", router.gateway, outcome)
        is_kept = self._mapping.upnp_done(router, external, time.monotonic())
        if service is not None:
            if is_kept:
                self._upnp = router, service
            else:  # of no use, or the node has moved meanwhile
                self._threadpool.spawn(_try_to_unmap, router, service)
        carrier.wake()

    def _unmap(self) -> None:
        upnp, self._upnp = self._upnp, None
        if upnp is not None:
            self._threadpool.spawn(_try_to_unmap, *upnp)

    def _send(self, carrier: Carrier) -> None:
        while (transmit := self._mapping.poll_transmit()) is not None:
            router, request = transmit
            carrier.send_datagram(request, router)


def _try_to_map(router: Router) -> tuple[Endpoint, Service] | UntrustedError | OSError:
    """In a thread, out of which an exception would be logged as nobody's."""
    try:
        return map_port(router, LIFETIME)
    except (UntrustedError, OSError) as error:
        return error


def _try_to_unmap(router: Router, service: Service) -> None:
    with contextlib.suppress(OSError, UntrustedError):
        unmap_port(router, service)
