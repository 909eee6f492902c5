"""Names and addresses: fully qualified names, endpoints on the real network, virtual prefixes."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple, TypeAlias

from ntmpatch.base.errors import ConfigError

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

VIRTUAL_IPV4_SPACE = ipaddress.IPv4Network("198.18.0.0/15")
"""Where virtual IPv4 addresses are leased from (RFC 2544's range: never routed on the Internet)."""

VIRTUAL_IPV6_SPACE = ipaddress.IPv6Network("fd00::/8")
"""Where each domain's /48 is taken from (RFC 4193: locally assigned unique local addresses)."""


class Endpoint(NamedTuple):
    """An address and port on the real network; ``host`` is a numeric address, never a name."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_ipv6(self) -> bool:
        """Whether ``host`` is an IPv6 address."""
        return ":" in self.host


def parse_endpoint(text: str) -> Endpoint:
    """Read ``192.0.2.1:51820`` or ``[2001:db8::1]:51820``; ConfigError says what was expected."""
    host, separator, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        address = ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        number = -1
    if not separator or not 0 < number < 65536:
        raise ConfigError(f"{text!r} is not an endpoint: expected ADDRESS:PORT, as 192.0.2.1:51820")
    return Endpoint(str(address), number)


def normalise_fqdn(name: str) -> str:
    """The one spelling of a fully qualified name: lower case, IDNA, without the final dot.

    ConfigError if it is not a name of at least two labels (RFC 1035, section 2.3.4 for sizes).
    """
    ascii_name = name.strip().rstrip(".").lower()
    if not ascii_name.isascii():
        try:
            ascii_name = ascii_name.encode("idna").decode()
        except UnicodeError:
            ascii_name = ""
    labels = ascii_name.split(".")
    well_formed = all(
        0 < len(label) <= 63
        and not label.startswith("-")
        and not label.endswith("-")
        and label.replace("-", "").replace("_", "").isalnum()
        for label in labels
    )
    if len(labels) < 2 or len(ascii_name) > 253 or not well_formed:
        raise ConfigError(
            f"{name!r} is not a fully qualified name: expected one as cam.home.example"
        )
    return ascii_name


def domain_of(fqdn: str) -> str:
    """The domain a node's name belongs to: everything behind the first label."""
    return fqdn.partition(".")[2]


def in_domain(name: str, domain: str) -> bool:
    """Whether the normalised ``name`` lies in ``domain`` (and is not the domain itself)."""
    return name.endswith("." + domain)
