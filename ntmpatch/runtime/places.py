"""Where the servers of a configuration are: what they bind, where they are reached, their names."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ntmpatch.base.addresses import Endpoint, normalise_fqdn
from ntmpatch.base.config import (
    DEFAULT_ACCOUNT_PORT,
    DEFAULT_DIRECTION_PORT,
    DEFAULT_DNS_PORT,
    DEFAULT_NOTIFICATION_PORT,
    DEFAULT_RELAY_PORT,
)
from ntmpatch.base.errors import ConfigError

if TYPE_CHECKING:
    from ntmpatch.base.config import OneOrMore, ServeConfig, ServerSection

ALL_ROLES = ("as", "dc", "ns", "rs")
WILDCARDS = ("0.0.0.0", "::")
_PORTS = {
    "as": DEFAULT_ACCOUNT_PORT,
    "dc": DEFAULT_DIRECTION_PORT,
    "ns": DEFAULT_NOTIFICATION_PORT,
    "rs": DEFAULT_RELAY_PORT,
}


class PlaceError(ConfigError):
    """A key of the servers' configuration cannot be; ``section`` and ``key`` say which."""

    def __init__(self, section: str, key: str, reason: str) -> None:
        super().__init__(f"[{section}] {key}: {reason}" if key else f"[{section}]: {reason}")
        self.section = section
        self.key = key


@dataclass(frozen=True)
class Place:
    """Where a server listens and where others reach it, one endpoint a family, and its name."""

    role: str
    name: str
    binds: tuple[Endpoint, ...]
    publics: tuple[Endpoint, ...]


def section_of(config: ServeConfig, role: str) -> ServerSection:
    """The section of a server, ``[as]`` to ``[rs]``."""
    section: ServerSection = config.account if role == "as" else getattr(config, role)
    return section


def place_of(config: ServeConfig, role: str, domain: str) -> Place:
    """Where a server of this configuration is; PlaceError if it cannot be there."""
    section = section_of(config, role)
    listen_section = role if section.listen else "serve"
    listen = _addresses(listen_section, "listen", section.listen or config.serve.listen)
    public_section = role if section.public else "serve"
    public = _addresses(public_section, "public", section.public or config.serve.public or ())
    port = section.port if section.port >= 0 else _PORTS[role]
    if not port:
        raise PlaceError(role, "port", "expected 1 to 65535: others must know it")
    if not public:
        if set(listen) & set(WILDCARDS):
            raise PlaceError(
                listen_section,
                "listen",
                f"{listen[0]} is a wildcard, so 'public' must say where others reach the server",
            )
        public = listen
    elif set(public) & set(WILDCARDS):
        raise PlaceError(public_section, "public", f"{public[0]} is no address to be reached at")
    elif not _families(public) <= _families(listen):
        raise PlaceError(
            public_section, "public", f"an address of a family at which [{role}] does not listen"
        )
    try:
        name = normalise_fqdn(section.name or f"{role}.{domain}")
    except ConfigError as error:
        raise PlaceError(role, "name", str(error)) from None
    return Place(
        role=role,
        name=name,
        binds=tuple(Endpoint(address, port) for address in listen),
        publics=tuple(Endpoint(address, port) for address in public),
    )


def dns_binds(config: ServeConfig, dc: Place) -> tuple[Endpoint, ...]:
    """Where the DC's DNS service listens."""
    section = config.dns
    port = section.port if section.port >= 0 else DEFAULT_DNS_PORT
    hosts = _addresses("dns", "listen", section.listen) if section.listen else ()
    return tuple(Endpoint(host, port) for host in hosts or (bind.host for bind in dc.binds))


def metrics_bind(config: ServeConfig) -> Endpoint | None:
    """Where metrics are read; None: nowhere."""
    section = config.metrics
    if not section.listen:
        return None
    (host,) = _addresses("metrics", "listen", section.listen)
    return Endpoint(host, section.port)


def _addresses(section: str, key: str, value: OneOrMore) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    addresses = []
    for text in texts:
        try:
            addresses.append(str(ipaddress.ip_address(text)))
        except ValueError:
            raise PlaceError(section, key, f"{text!r} is not an address, as 192.0.2.1") from None
    if len(addresses) > 2 or len(_families(addresses)) < len(addresses):
        raise PlaceError(section, key, "expected one address, or one IPv4 and one IPv6 address")
    return tuple(addresses)


def _families(addresses: tuple[str, ...] | list[str]) -> set[bool]:
    return {":" in address for address in addresses}
