"""Access networks of a simulated world: addresses, borders, how well they carry.

The borders are those of RFC 4787: mapping and filtering, each with its time-out. Between access
networks lies an Internet that loses nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ntmpatch.base.addresses import Endpoint
from ntmpatch.handover.networks import Network

if TYPE_CHECKING:
    import random

MAX_HOSTS = 4
"""Nodes that an access network has addresses for."""


class Border(enum.Enum):
    """What a packet of one address family meets at the border."""

    OPEN = "open"
    FIREWALL = "firewall"
    """No translation; in comes what was sent to before (address and port)."""
    CONE = "cone"
    """A NAT with endpoint-independent mapping and filtering."""
    RESTRICTED = "restricted"
    """Endpoint-independent mapping, filtering by address and port."""
    SYMMETRIC = "symmetric"
    """A port for each destination, filtering by address and port."""

    @property
    def translates(self) -> bool:
        """Whether it is a NAT."""
        return self in (Border.CONE, Border.RESTRICTED, Border.SYMMETRIC)

    @property
    def filters(self) -> bool:
        """Whether nothing comes in unasked."""
        return self not in (Border.OPEN, Border.CONE)


def allows_direct(one: Border, other: Border) -> bool:
    """Whether two ends that send to each other's mapped endpoints meet (RFC 4787, RFC 5128).

    A port that nobody but its destination knows cannot be sent to through a filter.
    """
    if one is Border.SYMMETRIC:
        return not other.filters
    if other is Border.SYMMETRIC:
        return not one.filters
    return True


@dataclass(slots=True, eq=False)
class _Mapping:
    inside: Endpoint
    outside: Endpoint
    sent_at: dict[Endpoint, float] = field(default_factory=dict)
    """By remote endpoint: when something left for there."""
    used_at: float = float("-inf")


class Gateway:
    """A border at work, for one address family of one access network."""

    def __init__(self, border: Border, host: str, timeout: float) -> None:
        self.border = border
        self.host = host
        """Address outside, of one that translates."""
        self.timeout = timeout
        """Seconds without outbound packets after which it forgets (RFC 4787, REQ-5 and REQ-6)."""
        self._next_port = 20_000
        self._mappings: dict[tuple[Endpoint, Endpoint | None], _Mapping] = {}
        self._outside: dict[Endpoint, _Mapping] = {}

    def __len__(self) -> int:
        return len(self._mappings)

    def out(self, source: Endpoint, destination: Endpoint, now: float) -> Endpoint:
        """The source that the destination sees."""
        if self.border is Border.OPEN:
            return source
        key = (source, destination if self.border is Border.SYMMETRIC else None)
        mapping = self._mappings.get(key)
        if mapping is None or (self.border.translates and now - mapping.used_at > self.timeout):
            mapping = self._map(key)
        mapping.used_at = mapping.sent_at[destination] = now
        return mapping.outside

    def _map(self, key: tuple[Endpoint, Endpoint | None]) -> _Mapping:
        before = self._mappings.pop(key, None)
        if before is not None:
            del self._outside[before.outside]
        outside = key[0]
        if self.border.translates:
            self._next_port = 20_000 + (self._next_port - 20_000 + 7) % 40_000
            outside = Endpoint(self.host, self._next_port)
        mapping = self._mappings[key] = self._outside[outside] = _Mapping(key[0], outside)
        return mapping

    def into(self, source: Endpoint, destination: Endpoint, now: float) -> Endpoint | None:
        """Whom a packet from outside is for; None if it does not come in."""
        if self.border is Border.OPEN:
            return destination
        mapping = self._outside.get(destination)
        if mapping is None:
            return None
        sent_at = mapping.sent_at.get(source) if self.border.filters else mapping.used_at
        if sent_at is None or now - sent_at > self.timeout:
            return None
        return mapping.inside

    def forget(self) -> None:
        """It has restarted: all mappings are gone, and new ones have other ports."""
        self._mappings.clear()
        self._outside.clear()


@dataclass(slots=True)
class Weather:
    """How a network carries, one way; seconds and shares."""

    delay: float
    jitter: float
    """Of the delay, at most added to it: what is sent sooner may arrive later."""
    loss: float
    """Outside bursts."""
    burst_interval: float
    """Mean seconds between bursts of loss; infinite for none."""
    burst_length: float
    burst_ends_at: float = 0.0
    next_burst_at: float = 0.0
    blackout_until: float = float("-inf")

    def loses(self, rng: random.Random, now: float) -> bool:
        """Whether a packet that passes now is lost."""
        if now < self.blackout_until:
            return True
        if now >= self.next_burst_at:
            self.burst_ends_at = now + self.burst_length
            self.next_burst_at = now + rng.expovariate(1.0 / self.burst_interval)
        return rng.random() < (0.5 if now < self.burst_ends_at else self.loss)

    def takes(self, rng: random.Random) -> float:
        """Seconds that a packet is under way here."""
        return self.delay + self.jitter * rng.random()


class Access:
    """One access network; nodes come and go."""

    def __init__(self, number: int, gateways: dict[bool, Gateway], weather: Weather) -> None:
        self.number = number
        self.gateways = gateways
        """By family: is it IPv6."""
        self.weather = weather
        self.is_dead = False
        """Nothing passes, though addresses stay."""

    def __str__(self) -> str:
        kinds = "+".join(
            f"{'v6' if is_ipv6 else 'v4'} {gateway.border.value}"
            for is_ipv6, gateway in sorted(self.gateways.items())
        )
        delay = 1000 * self.weather.delay
        return f"net{self.number} ({kinds}, {delay:.0f} ms, {100 * self.weather.loss:.0f} % loss)"

    def address(self, host: int, *, is_ipv6: bool) -> str:
        """The address that this network gives to a node."""
        if is_ipv6:
            return f"2001:db8:{self.number:x}::{host + 1:x}"
        if self.gateways[False].border.translates:
            return f"10.{self.number}.0.{host + 1}"
        return f"198.51.100.{self.number * MAX_HOSTS + host}"

    def outside_hosts(self) -> list[str]:
        """Addresses that the Internet routes to here."""
        hosts = []
        for is_ipv6, gateway in self.gateways.items():
            if gateway.border.translates:
                hosts.append(gateway.host)
            else:
                hosts += [self.address(host, is_ipv6=is_ipv6) for host in range(MAX_HOSTS)]
        return hosts

    def networks(self, host: int, metric: int) -> list[Network]:
        """How the node's kernel shows it."""
        return [
            Network(
                self.address(host, is_ipv6=is_ipv6),
                64 if is_ipv6 else 24,
                f"net{self.number}",
                self.number + 1,
                has_default=True,
                metric=metric,
                gateway=f"router{self.number}",
            )
            for is_ipv6 in self.gateways
        ]


_IPV4_BORDERS = (
    Border.OPEN,
    Border.FIREWALL,
    Border.CONE,
    Border.RESTRICTED,
    Border.RESTRICTED,
    Border.RESTRICTED,
    Border.SYMMETRIC,
    Border.SYMMETRIC,
)
_IPV6_BORDERS = (Border.OPEN, Border.FIREWALL, Border.FIREWALL)
_FAMILIES = ("4", "4", "4", "46", "46", "6")


def make_access(rng: random.Random, number: int, families: str | None = None) -> Access:
    """An access network as there are."""
    families = families or rng.choice(_FAMILIES)
    gateways: dict[bool, Gateway] = {}
    timeout = rng.choice((30.0, 60.0, 120.0, 300.0))
    if "4" in families:
        gateways[False] = Gateway(rng.choice(_IPV4_BORDERS), f"203.0.113.{number}", timeout)
    if "6" in families:
        gateways[True] = Gateway(rng.choice(_IPV6_BORDERS), "", timeout)
    delay = rng.uniform(0.005, 0.1)
    loss = rng.choice((0.0, 0.0, 0.01, 0.02, 0.05))
    weather = Weather(
        delay=delay,
        jitter=delay * rng.choice((0.0, 0.1, 0.5)),
        loss=loss,
        burst_interval=rng.uniform(3.0, 20.0) if loss else float("inf"),
        burst_length=rng.uniform(0.05, 0.3),
        next_burst_at=0.0 if loss else float("inf"),
    )
    return Access(number, gateways, weather)
