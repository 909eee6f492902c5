"""This end of paths: which networks a node sends by, and from which of its ports.

Everything goes from one port a family, by the network that the kernel's routes prefer. Each other
network with a way to the Internet has a port of its own, so that a path by it can be proven while
the preferred network works, and is there when that dies without the kernel's noticing.
"""

from __future__ import annotations

import ipaddress
import logging
from typing import TYPE_CHECKING

from ntmpatch.base.addresses import Endpoint
from ntmpatch.handover.bindings import RelayedEndpoint
from ntmpatch.handover.ways import COST_METERED, Ends, PortedEndpoint
from ntmpatch.runtime.interfaces import is_routable
from ntmpatch.wire.paths import Candidate, CandidateKind

if TYPE_CHECKING:
    from collections.abc import Collection

    from ntmpatch.base.nat64 import Nat64Prefix
    from ntmpatch.handover.networks import Network, Picture
    from ntmpatch.runtime.carrier import Carrier, Path

log = logging.getLogger("ntmpatch.node")

FAMILIES = frozenset((False, True))
"""Whether they are IPv6."""


class NodeEnds:
    """The ends of a node's paths. `ends` and the ports' openers are for the path manager."""

    def __init__(self) -> None:
        self._carrier: Carrier | None = None
        self._picture: Picture = ()
        self._chosen: dict[bool, Network] = {}
        """By family (is it IPv6): the network of the ports that are everybody's."""
        self._ports: dict[tuple[int, bool], int] = {}
        """By interface and family: the number of the further port."""
        self._guessed: dict[int, bool] = {}
        """Numbers of the ports that were opened to guess with, and whether they are of IPv6."""
        self._kernels: dict[bool, Network] = {}
        """The same, if nobody had turned to another one."""
        self._turned: set[bool] = set()
        self.nat64: Nat64Prefix | None = None
        """What reaches IPv4 where we have none."""
        self._costs: dict[str, int] = {}
        """By address, beside the best network there is."""
        self.ends: Ends[Path] = Ends(
            is_relayed=lambda path: isinstance(path, RelayedEndpoint),
            paths_to=self.paths_to,
            remote=_remote,
            cost=self._cost,
        )

    def use(self, carrier: Carrier) -> None:
        """Open ports there from now on."""
        self._carrier = carrier

    # --- networks ----------------------------------------------------------------------------

    def update(self, picture: Picture) -> frozenset[bool]:
        """The usable networks are these now: families whose ports send by others than before.

        Ports of networks that are gone are closed; `is_open` says so of paths.
        """
        self._picture = picture
        before, self._chosen = self._chosen, {}
        for is_ipv6 in self._families():
            usable = [n for n in picture if n.is_ipv6 == is_ipv6 and n.has_default]
            if usable:
                # The kernel's own choice: it heeds metrics, and knows nothing of what is metered.
                self._chosen[is_ipv6] = min(usable, key=lambda n: (n.metric, n.index))
        self._kernels = dict(self._chosen)
        for is_ipv6 in self._turned:
            self._use_interface(0, is_ipv6=is_ipv6)
        self._turned.clear()
        self._open_and_close()
        changed = frozenset(
            is_ipv6 for is_ipv6 in FAMILIES if before.get(is_ipv6) != self._chosen.get(is_ipv6)
        )
        # They were for the NAT there.
        self._close([number for number, is_ipv6 in self._guessed.items() if is_ipv6 in changed])
        return changed

    def chosen(self, *, is_ipv6: bool) -> Network | None:
        """The network that everybody's port of a family sends by; None: none is known."""
        return self._chosen.get(is_ipv6)

    def turn_to(self, index: int) -> bool:
        """Send by that interface instead, as the preferred one is silent, or not any more."""
        turned = False
        for network in self._picture:
            is_ipv6 = network.is_ipv6
            chosen = self._chosen.get(is_ipv6)
            if network.index != index or chosen is None or chosen.index == index:
                continue
            is_kernels = self._kernels[is_ipv6].index == index
            self._use_interface(0 if is_kernels else index, is_ipv6=is_ipv6)
            self._chosen[is_ipv6] = self._kernels[is_ipv6] if is_kernels else network
            (self._turned.discard if is_kernels else self._turned.add)(is_ipv6)
            turned = True
        if turned:
            self._open_and_close()
        return turned

    def interface_of(self, path: Path | None) -> int | None:
        """Index of the interface that a path by a further network leaves by; None for others."""
        if isinstance(path, PortedEndpoint):
            return next((key[0] for key, n in self._ports.items() if n == path.port), None)
        return None

    def is_kernels(self, index: int) -> bool:
        """Whether the kernel prefers that interface, and somebody has turned to another one."""
        return any(self._kernels[is_ipv6].index == index for is_ipv6 in self._turned)

    def other_interface(self) -> int | None:
        """One that is not in use and could be; None if there is none."""
        in_use = {network.index for network in self._chosen.values()}
        others = [n for n in self._picture if n.has_default and n.index not in in_use]
        return min(others, key=lambda n: (n.metered, n.metric)).index if others else None

    def _families(self) -> frozenset[bool]:
        carrier = self._carrier
        return frozenset(e.is_ipv6 for e in carrier.local_endpoints) if carrier else frozenset()

    def _use_interface(self, index: int, *, is_ipv6: bool) -> None:
        if self._carrier is not None:
            self._carrier.use_interface(index, self._name(index), is_ipv6=is_ipv6)

    def _open_and_close(self) -> None:
        """A port that is open stays while its network does: paths in use need no other one."""
        carrier = self._carrier
        assert carrier is not None
        usable = {
            (network.index, network.is_ipv6): network
            for network in self._picture
            if network.has_default and network.is_ipv6 in self._chosen
        }
        for key in [key for key in self._ports if key not in usable]:
            carrier.close_port(self._ports.pop(key))
        for key, network in usable.items():
            if key not in self._ports and network.index != self._chosen[key[1]].index:
                number = self._open(network)
                if number is not None:
                    self._ports[key] = number
        self._costs = {n.address: self._absolute_cost(n) for n in usable.values()}
        least = min(self._costs.values(), default=0)
        self._costs = {address: cost - least for address, cost in self._costs.items()}

    def _absolute_cost(self, network: Network) -> int:
        if network.metered:
            return COST_METERED
        return 0 if network.index == self._kernels[network.is_ipv6].index else 1

    def _open(self, network: Network) -> int | None:
        carrier = self._carrier
        assert carrier is not None
        try:
            number = carrier.open_port(
                Endpoint("::" if network.is_ipv6 else "0.0.0.0", 0), network.interface
            )
        except OSError as error:
            log.warning("no port for paths by %s: %s", network.interface, error)
            return None
        port = carrier.further_port(number)
        if port is None or not port.use_interface(network.index):
            carrier.close_port(number)
            return None
        return number

    # --- what the path manager asks ----------------------------------------------------------

    def paths_to(self, endpoint: Endpoint) -> list[Path]:
        """Every way there; by the preferred network first."""
        further: list[Path] = [
            PortedEndpoint(number, endpoint, self._name(key[0]))
            for key, number in self._ports.items()
            if key[1] == endpoint.is_ipv6
        ]
        if self._has_way(endpoint):
            return [endpoint, *further]
        if not further and self.nat64 is not None and not endpoint.is_ipv6:
            embedded = self.nat64.embed(endpoint)
            return self.paths_to(embedded) if embedded is not None else []
        return further

    def _has_way(self, endpoint: Endpoint) -> bool:
        """By everybody's port; what the kernel's networks are may not be known."""
        is_ipv6 = endpoint.is_ipv6
        if is_ipv6 not in self._families():
            return False
        # Without a default route there may be one of its own, to the neighbours at least.
        return not self._picture or is_ipv6 in self._chosen or is_routable(endpoint)

    def is_open(self, path: Path) -> bool:
        """Whether our end of the path is there: its port, or a network of its family."""
        if isinstance(path, PortedEndpoint):
            return self._carrier is not None and self._carrier.further_port(path.port) is not None
        end = path.relay if isinstance(path, RelayedEndpoint) else path
        return not isinstance(end, Endpoint) or self._has_way(end)

    @staticmethod
    def is_within(path: Path, prefix: Nat64Prefix) -> bool:
        """Whether it leads through that NAT64."""
        end = path.relay if isinstance(path, RelayedEndpoint) else _remote(path)
        return end is not None and prefix.holds(end)

    @staticmethod
    def is_preferred(path: Path, families: Collection[bool] = FAMILIES) -> bool:
        """Whether it leaves by the preferred network of one of these families."""
        end = path.relay if isinstance(path, RelayedEndpoint) else path
        return isinstance(end, Endpoint) and end.is_ipv6 in families

    def open_ports(self, endpoint: Endpoint, count: int) -> list[Path]:
        """Paths from as many fresh ports as there may be, up to ``count``."""
        carrier = self._carrier
        opened: list[Path] = []
        wildcard = Endpoint("::" if endpoint.is_ipv6 else "0.0.0.0", 0)
        try:
            while carrier is not None and len(opened) < count:
                number = carrier.open_port(wildcard, "guessed port")
                self._guessed[number] = endpoint.is_ipv6
                opened.append(PortedEndpoint(number, endpoint, "guessed port"))
        except OSError as error:
            log.info("only %d ports to guess with: %s", len(opened), error)
        return opened

    def close_ports(self, paths: Collection[Path]) -> None:
        """Paths that are not wanted any more; a network's own port stays while the network does."""
        ports = {path.port for path in paths if isinstance(path, PortedEndpoint)}
        self._close([number for number in ports if number in self._guessed])

    def _close(self, numbers: Collection[int]) -> None:
        for number in numbers:
            del self._guessed[number]
            if self._carrier is not None:
                self._carrier.close_port(number)

    def candidates(self, mapped: Collection[Candidate]) -> list[Candidate]:
        """Where this node may be reached, the best first; ``mapped``: as servers see it."""
        carrier = self._carrier
        if carrier is None:
            return []
        everybodys = {end.is_ipv6: end.port for end in carrier.local_endpoints}
        found: list[Candidate] = list(mapped)
        told = {candidate.endpoint for candidate in mapped}
        for network in self._picture:
            chosen = self._chosen.get(network.is_ipv6)
            port = everybodys.get(network.is_ipv6)
            if network.has_default and chosen is not None and network.index != chosen.index:
                number = self._ports.get((network.index, network.is_ipv6))
                further = carrier.further_port(number) if number is not None else None
                port = further.local.port if further is not None else None
            is_outside = not ipaddress.ip_address(network.address).is_loopback
            if port is not None and is_outside and Endpoint(network.address, port) not in told:
                end = Endpoint(network.address, port)
                cost = self._costs.get(network.address, 0)
                found.append(Candidate(CandidateKind.HOST, end, cost))
        return sorted(found, key=lambda each: each.cost)

    def _cost(self, path: Path) -> int:
        if isinstance(path, PortedEndpoint):
            key = next((key for key, n in self._ports.items() if n == path.port), None)
            network = next((n for n in self._picture if (n.index, n.is_ipv6) == key), None)
        else:
            end = path.relay if isinstance(path, RelayedEndpoint) else path
            network = self._chosen.get(end.is_ipv6) if isinstance(end, Endpoint) else None
        return self._costs.get(network.address, 0) if network is not None else 0

    def _name(self, index: int) -> str:
        return next((n.interface for n in self._picture if n.index == index), str(index))


def _remote(path: Path) -> Endpoint | None:
    if isinstance(path, PortedEndpoint):
        return path.remote
    return path if isinstance(path, Endpoint) else None
