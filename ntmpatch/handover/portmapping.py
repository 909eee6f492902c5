"""A port of the router's for ours, by PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP; sans-I/O.

A router that does so makes a node behind a symmetric NAT as reachable as one before it. It is asked
when the node comes to its network, and again at half the lifetime of what it gave; a router that
offers nothing is left alone for half an hour.
"""

from __future__ import annotations

import enum
import ipaddress
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire import natpmp, pcp

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.base.drops import DropCounter

LIFETIME = 3600
"""Seconds that are asked for; routers may give less."""
MAX_LIFETIME = 86400
MIN_RENEWAL = 4.0
"""Seconds between renewals (RFC 6887, section 11.2.1), whatever the router gives."""
PCP_INTERVALS = (0.5, 1.0, 2.0, 4.0)
NATPMP_INTERVALS = (0.25, 0.5, 1.0, 2.0)
"""Seconds between tries; the RFCs' own go on for minutes, as they have nothing else to do."""
UPNP_INTERVALS = (30.0,)
"""Its exchanges, of HTTP, are the runtime's, and are over before."""
PAUSE = 1800.0
"""Seconds until a router that offered nothing is asked again."""
MIN_PAUSE = 60.0
EPOCH_SLACK = 2.0
"""Seconds by which a router's clock may be off, beside a sixteenth of the time (section 8.5)."""

_NOT_OUTSIDE = [
    ipaddress.IPv4Network(each)
    for each in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
    )
]
"""Behind such an address of the router stands another NAT, of which it knows nothing."""


class Router(NamedTuple):
    """The network that everything leaves by."""

    gateway: str
    local: str
    """Our address there."""
    port: int
    """Our UDP port."""


class _Protocol(enum.Enum):
    PCP = "pcp"
    NATPMP = "nat-pmp"
    UPNP = "upnp"


_INTERVALS = {
    _Protocol.PCP: PCP_INTERVALS,
    _Protocol.NATPMP: NATPMP_INTERVALS,
    _Protocol.UPNP: UPNP_INTERVALS,
}


class PortMapping:
    """Keeps one mapping at the router of the network in use. ``on_change()`` when it is another."""

    def __init__(
        self,
        *,
        entropy: Callable[[int], bytes],
        drops: DropCounter,
        on_change: Callable[[], None],
    ) -> None:
        self.mapped: Endpoint | None = None
        """Where everybody reaches our port, if the router says so."""
        self._entropy = entropy
        self._drops = drops
        self._on_change = on_change
        self._router: Router | None = None
        self._protocol = _Protocol.PCP
        self._nonce = b""
        self._attempt = 0
        self._due_at: float | None = None
        self._expires_at = float("inf")
        self._refused_until = float("-inf")
        """It may be asked again then, says a router that offers something and refuses it."""
        self._is_asking = False
        self._epoch: tuple[int, float] | None = None
        self._external = ""
        """NAT-PMP tells the address in an answer of its own."""
        self._transmits: deque[tuple[Endpoint, bytes]] = deque()
        self._upnp: Router | None = None

    def use(self, router: Router | None, now: float, *, afresh: bool = False) -> None:
        """Everything leaves by this network from now on; None: nobody can be asked.

        ``afresh``: what looks like the same network may be another.
        """
        if router == self._router and not afresh:
            return
        self._router = router
        self._epoch, self._external = None, ""
        self._refused_until = float("-inf")
        self._set(None)
        self._due_at = None
        self._upnp = None
        if router is not None:
            self._nonce = self._entropy(pcp.NONCE_SIZE)
            self._begin(_Protocol.PCP, now)

    def release(self) -> None:
        """Give the mapping back, once: it ends by itself as well."""
        if self._router is not None and self.mapped is not None:
            self._ask(lifetime=0)
        self._due_at = None
        self._router = None

    def poll_transmit(self) -> tuple[Endpoint, bytes] | None:
        """The next datagram, and where it goes."""
        return self._transmits.popleft() if self._transmits else None

    def poll_upnp(self) -> Router | None:
        """Whom to ask by UPnP now; `upnp_done` tells what came of it."""
        router, self._upnp = self._upnp, None
        return router

    def upnp_done(self, router: Router, external: Endpoint | None, now: float) -> bool:
        """``external``: what the router mapped; whether that is of use, and to be kept."""
        if router != self._router or self._protocol is not _Protocol.UPNP or not self._is_asking:
            return False
        if external is None:
            self._set(None)
            self._rest(now)
        else:
            self._have(external, LIFETIME, now)
        return self.mapped is not None

    def poll_timeout(self) -> float | None:
        """When ``handle_timeout`` wants to be called."""
        return self._due_at

    def handle_timeout(self, now: float) -> None:
        """Ask again, ask otherwise, or renew."""
        if self._due_at is None or now < self._due_at:
            return
        if now >= self._expires_at:
            self._set(None)
        intervals = _INTERVALS[self._protocol]
        if not self._is_asking:
            self._begin(_Protocol.PCP if self.mapped is None else self._protocol, now)
        elif self._attempt + 1 < len(intervals):
            self._attempt += 1
            self._ask(LIFETIME)
            self._due_at = now + intervals[self._attempt]
        elif self._protocol is _Protocol.PCP and self.mapped is None:
            self._begin(_Protocol.NATPMP, now)
        elif self._protocol is _Protocol.NATPMP and self.mapped is None:
            self._begin(_Protocol.UPNP, now)
        else:
            self._rest(now)

    def receive(self, datagram: bytes | memoryview, source: Endpoint, now: float) -> bool:
        """Whether this came from the router's port, and so is for us."""
        router = self._router
        if source.port != pcp.SERVER_PORT or router is None or source.host != router.gateway:
            return False
        data = bytes(datagram)
        try:
            if data[:1] == bytes((pcp.VERSION,)):
                self._pcp_answer(pcp.decode_untrusted(data), router, now)
            else:
                self._natpmp_answer(natpmp.decode_untrusted(data), router, now)
        except UntrustedError as error:
            self._drops.drop(error.drop)
        return True

    def describe(self) -> dict[str, object]:
        """For status output."""
        return {
            "router": self._router.gateway if self._router is not None else None,
            "protocol": self._protocol.value if self.mapped is not None else None,
            "mapped": str(self.mapped) if self.mapped is not None else None,
        }

    # --- inside ----------------------------------------------------------------------------

    def _begin(self, protocol: _Protocol, now: float) -> None:
        self._protocol = protocol
        self._is_asking = True
        self._attempt = 0
        self._ask(LIFETIME)
        self._due_at = now + _INTERVALS[protocol][0]

    def _ask(self, lifetime: int) -> None:
        router = self._router
        assert router is not None
        if self._protocol is _Protocol.UPNP:
            self._upnp = router if lifetime else None
            return
        server = Endpoint(router.gateway, pcp.SERVER_PORT)
        if self._protocol is _Protocol.PCP:
            request = pcp.map_request(
                router.local, self._nonce, router.port, lifetime, self.mapped if lifetime else None
            )
            self._transmits.append((server, request))
            return
        if lifetime:
            self._transmits.append((server, natpmp.address_request()))
        suggested = self.mapped.port if self.mapped is not None else router.port
        request = natpmp.map_request(router.port, suggested if lifetime else 0, lifetime)
        self._transmits.append((server, request))

    def _pcp_answer(self, answer: pcp.Answer, router: Router, now: float) -> None:
        has_restarted = self._has_restarted(answer.epoch, now)
        mapping = answer.mapping
        if mapping is None:
            if has_restarted and self.mapped is not None:
                self._begin(_Protocol.PCP, now)
            return
        if (mapping.nonce, mapping.protocol, mapping.internal_port) != (
            self._nonce,
            pcp.UDP,
            router.port,
        ) or self._protocol is not _Protocol.PCP:
            self._drops.drop(Drop.PORT_MAPPING_UNASKED)
        elif answer.result == pcp.SUCCESS:
            if answer.lifetime:
                self._have(mapping.external, answer.lifetime, now)
        elif answer.result == pcp.UNSUPP_VERSION:
            self._begin(_Protocol.NATPMP, now)
        else:
            self._refused(min(max(answer.lifetime, MIN_PAUSE), PAUSE), now)

    def _natpmp_answer(
        self,
        answer: natpmp.ExternalAddress | natpmp.Mapped | natpmp.Refused,
        router: Router,
        now: float,
    ) -> None:
        self._has_restarted(answer.epoch, now)
        if isinstance(answer, natpmp.Refused):
            if self._protocol is _Protocol.PCP and answer.result == natpmp.UNSUPPORTED_VERSION:
                if self._is_asking:
                    self._begin(_Protocol.NATPMP, now)
            elif self._protocol is _Protocol.NATPMP and self._is_asking:
                self._refused(PAUSE, now)
        elif self._protocol is not _Protocol.NATPMP:
            self._drops.drop(Drop.PORT_MAPPING_UNASKED)
        elif isinstance(answer, natpmp.ExternalAddress):
            self._external = answer.host
        elif answer.internal_port != router.port:
            self._drops.drop(Drop.PORT_MAPPING_UNASKED)
        elif answer.lifetime and self._external:
            self._have(Endpoint(self._external, answer.external_port), answer.lifetime, now)

    def _have(self, external: Endpoint, lifetime: int, now: float) -> None:
        seconds = min(lifetime, MAX_LIFETIME)
        address = ipaddress.ip_address(external.host)
        is_outside = not any(address in network for network in _NOT_OUTSIDE)
        self._is_asking = False
        self._expires_at = now + seconds
        self._due_at = now + max(seconds / 2, MIN_RENEWAL)
        router = self._router
        is_ours = router is not None and external.host == router.local
        self._set(external if is_outside and not is_ours else None)

    def _refused(self, pause: float, now: float) -> None:
        """What a router does not do by one protocol it may do by another, set up apart from it."""
        self._set(None)
        self._refused_until = now + pause
        self._begin(_Protocol.UPNP, now)

    def _rest(self, now: float) -> None:
        self._is_asking = False
        self._due_at = self._refused_until if self._refused_until > now else now + PAUSE
        if self.mapped is not None:
            self._due_at = min(self._due_at, self._expires_at)

    def _set(self, mapped: Endpoint | None) -> None:
        if mapped is None:
            self._expires_at = float("inf")
        if mapped != self.mapped:
            self.mapped = mapped
            self._on_change()

    def _has_restarted(self, epoch: int, now: float) -> bool:
        """Whether the router has lost its mappings, by its clock (RFC 6887, section 8.5)."""
        before, self._epoch = self._epoch, (epoch, now)
        if before is None:
            return False
        elapsed = now - before[1]
        return abs(epoch - before[0] - elapsed) > EPOCH_SLACK + elapsed / 16
