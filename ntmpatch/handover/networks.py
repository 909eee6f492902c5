"""The handover module's picture of the access networks, Fig. 5 (1), (2); sans-I/O.

The kernel tells single facts: a link lost its carrier, an address came, a route went. A move is a
burst of them. What negotiation needs is one change from the networks that could be used before to
those that can be used now, soon, and none at all when a burst ends where it began.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ntmpatch.handover.kernel import DefaultRoute, Item, KernelAddress, Link, News

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

QUIET_INTERVAL = 0.003
"""Seconds without news after which a burst is over: the kernel tells one command's effects in far
less, and a network manager's next command takes longer to start than a handover may wait."""

MAX_HOLD = 0.015
"""Seconds from a burst's first news after which it is told in any case."""


@dataclass(frozen=True, slots=True)
class Network:
    """An access network that can be used now, by one local address."""

    address: str
    prefix_length: int
    interface: str
    index: int
    has_default: bool
    metric: int
    """Of its best default route; 0 without one."""
    metered: bool = False
    gateway: str = ""
    """Of that route: another router on the same wire may be another way to the Internet."""

    @property
    def is_ipv6(self) -> bool:
        """The address's family."""
        return ":" in self.address


Picture: TypeAlias = tuple[Network, ...]
"""What can be used, best first: with a default route, not metered, by its metric."""


class InterfacePolicy(NamedTuple):
    """Glob patterns of interfaces' names."""

    allowed: tuple[str, ...] = ()
    """Empty: all."""
    metered: tuple[str, ...] = ()

    def allows(self, name: str) -> bool:
        """Whether the interface may be used."""
        return not self.allowed or _matches(name, self.allowed)

    def is_metered(self, name: str) -> bool:
        """Whether traffic there costs."""
        return _matches(name, self.metered)


EVERY_INTERFACE = InterfacePolicy()


class Change(NamedTuple):
    """One move: what was usable, and what is."""

    old: Picture
    new: Picture
    interrupted: bool = False
    """The machine slept, or had no network meanwhile: what looks the same may be another network,
    and NATs may have forgotten."""
    heard_at: float = 0.0
    """When the kernel told the first of it."""

    @property
    def lost(self) -> frozenset[str]:
        """Addresses that are gone."""
        return _addresses(self.old) - _addresses(self.new)

    @property
    def gained(self) -> frozenset[str]:
        """Addresses that are new."""
        return _addresses(self.new) - _addresses(self.old)

    def has_other_default(self, *, is_ipv6: bool) -> bool:
        """Whether packets of the family to the Internet leave another way than before."""
        return _default(self.old, is_ipv6=is_ipv6) != _default(self.new, is_ipv6=is_ipv6)


class Networks:
    """Keeps links, addresses and routes, and tells changes of the picture they make.

    The first ``replace`` is where it begins, and no change.
    """

    def __init__(self, policy: InterfacePolicy = EVERY_INTERFACE) -> None:
        self.picture: Picture | None = None
        """As told last; None before the first ``replace``."""
        self._policy = policy
        self._links: dict[int, Link] = {}
        self._addresses: dict[tuple[int, str, int], KernelAddress] = {}
        self._routes: set[DefaultRoute] = set()
        self._first_at: float | None = None
        self._last_at = 0.0
        self._interrupted = False
        self._has_network = False
        """Whether the picture told last is more than loopback."""
        self._change: Change | None = None

    def replace(self, dump: Iterable[News], now: float) -> None:
        """This is all there is: a dump of the kernel's tables, and what changed meanwhile."""
        self._links.clear()
        self._addresses.clear()
        self._routes.clear()
        for news in dump:
            self._apply(news)
        if self.picture is None:
            self.picture, self._has_network = self._derive()
        else:
            self._touch(now)

    def hear(self, news: News, now: float) -> None:
        """One thing came, changed or went."""
        self._apply(news)
        self._touch(now)

    def resumed(self, now: float) -> None:
        """The machine slept until now: a change, whatever the picture says."""
        self._interrupted = True
        self._touch(now)

    def poll_timeout(self) -> float | None:
        """When ``handle_timeout`` is to be called."""
        if self._first_at is None:
            return None
        return min(self._last_at + QUIET_INTERVAL, self._first_at + MAX_HOLD)

    def handle_timeout(self, now: float) -> None:
        """End the burst that is due, if its end is another picture than its beginning.

        The loss of every network is told with the one that comes next: till then nobody can be
        reached, and trying it would only use up retries.
        """
        due_at = self.poll_timeout()
        if due_at is None or now < due_at:
            return
        heard_at = self._first_at or now
        self._first_at = None
        if self.picture is None:
            return
        picture, has_network = self._derive()
        if self._has_network and not has_network:
            self._interrupted = True
            return
        old, interrupted = self.picture, self._interrupted
        if self._change is not None:  # not fetched yet: both are told as one
            old, interrupted = self._change.old, interrupted or self._change.interrupted
            heard_at = self._change.heard_at
        self.picture, self._has_network, self._interrupted = picture, has_network, False
        is_change = interrupted or picture != old
        self._change = Change(old, picture, interrupted, heard_at) if is_change else None

    def poll_change(self) -> Change | None:
        """The change that is to be told, once."""
        change, self._change = self._change, None
        return change

    def _touch(self, now: float) -> None:
        if self._first_at is None:
            self._first_at = now
        self._last_at = now

    def _apply(self, news: News) -> None:
        if news.is_gone:
            self._remove(news.item)
            return
        if news.replaces and isinstance(news.item, DefaultRoute):
            key = _key(news.item)
            self._drop_routes(lambda route: _key(route) == key)
        self._put(news.item)

    def _put(self, item: Item) -> None:
        if isinstance(item, Link):
            self._links[item.index] = item
            if not item.is_up:
                self._drop_routes(lambda route: route.index == item.index)
        elif isinstance(item, KernelAddress):
            self._addresses[_place(item)] = item
        else:
            self._routes.add(item)

    def _remove(self, item: Item) -> None:
        if isinstance(item, Link):
            self._links.pop(item.index, None)
            self._drop_routes(lambda route: route.index == item.index)
            for key in [key for key in self._addresses if key[0] == item.index]:
                del self._addresses[key]
        elif isinstance(item, KernelAddress):
            self._addresses.pop(_place(item), None)
            self._drop_routes_of(item)
        else:
            self._routes.discard(item)

    def _drop_routes_of(self, gone: KernelAddress) -> None:
        """IPv4 only: of IPv6 routes the kernel tells, and they may outlive a link's addresses."""
        if gone.is_ipv6:
            return
        left = [a for a in self._addresses.values() if a.index == gone.index and not a.is_ipv6]
        self._drop_routes(
            lambda route: (
                route.source == gone.text
                or (not left and route.index == gone.index and not route.is_ipv6)
            )
        )

    def _drop_routes(self, is_gone: Callable[[DefaultRoute], bool]) -> None:
        """What the kernel flushes without a word of its own (fib_frontend.c, fib_disable_ip)."""
        self._routes = {route for route in self._routes if not is_gone(route)}

    def _derive(self) -> tuple[Picture, bool]:
        """The picture now, and whether it is more than loopback."""
        found = [
            network
            for address in self._addresses.values()
            if (network := self._network(address)) is not None
        ]
        outside = [network for network in found if not self._links[network.index].is_loopback]
        return tuple(sorted(outside or found, key=_preference)), bool(outside)

    def _network(self, address: KernelAddress) -> Network | None:
        link = self._links.get(address.index)
        if link is None or not (link.is_up and link.has_carrier and address.is_usable):
            return None
        if not self._policy.allows(link.name):
            return None
        if address.is_ipv6 and ipaddress.ip_address(address.text).is_link_local:
            return None
        routes = [
            (route.metric, route.gateway)
            for route in self._routes
            if route.index == link.index and route.is_ipv6 == address.is_ipv6
        ]
        metric, gateway = min(routes, default=(0, ""))
        return Network(
            address.text,
            address.prefix_length,
            link.name,
            link.index,
            has_default=bool(routes),
            metric=metric,
            metered=self._policy.is_metered(link.name),
            gateway=gateway,
        )


def _preference(network: Network) -> tuple[object, ...]:
    order = (not network.has_default, network.metered, network.metric, network.index)
    return (*order, network.address)


def _place(address: KernelAddress) -> tuple[int, str, int]:
    return address.index, address.text, address.prefix_length


def _key(route: DefaultRoute) -> tuple[bool, int, int]:
    return route.is_ipv6, route.table, route.metric


def _addresses(picture: Picture) -> frozenset[str]:
    return frozenset(network.address for network in picture)


def _default(picture: Picture, *, is_ipv6: bool) -> tuple[int, int, str] | None:
    """The kernel's own choice: it heeds metrics, and knows nothing of what is metered."""
    return min(
        (
            (network.metric, network.index, network.gateway)
            for network in picture
            if network.has_default and network.is_ipv6 == is_ipv6
        ),
        default=None,
    )


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
