"""What a coordinator publishes in DNS: its domains, itself, its servers and its nodes."""

from __future__ import annotations

import base64
import ipaddress
from typing import TYPE_CHECKING, Protocol

from ntmpatch.servers.direction.names import packed_hosts
from ntmpatch.servers.direction.zone import ZoneFacts
from ntmpatch.wire import dns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.crypto.certificate import Certificate
    from ntmpatch.servers.direction.names import NameIndex

COORDINATOR_LABEL = "_ntm"
"""Below it, at the coordinator's name, stands what another coordinator needs to speak to it."""
VERSION_STRING = b"v=ntm1"
PORT_KEY = b"port="
CERTIFICATE_KEY = b"cert="
MAX_STRING_SIZE = 255


class Publisher(Protocol):
    """The coordinator, running or as it was stored."""

    @property
    def certificate(self) -> Certificate | None:
        """Its certificate, which is renewed while it runs."""

    @property
    def signed_certificate(self) -> bytes:
        """The same as the AS signed it."""

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where others reach it."""

    @property
    def names(self) -> NameIndex:
        """Its nodes and servers."""


class Published:
    """The `zone.Directory` of a coordinator. ``hosts`` are further servers, by name."""

    def __init__(
        self, coordinator: Publisher, *, hosts: Mapping[str, Sequence[bytes]], ttl: int
    ) -> None:
        self._coordinator = coordinator
        self._hosts = hosts
        self._ttl = ttl
        self._signed = coordinator.signed_certificate
        self._facts = self._make_facts()

    @property
    def facts(self) -> ZoneFacts:
        """What changes with the certificate only."""
        signed = self._coordinator.signed_certificate
        if signed is not self._signed:
            self._signed = signed
            self._facts = self._make_facts()
        return self._facts

    @property
    def changes(self) -> int:
        """Grows with whatever changes in the rest."""
        return self._coordinator.names.changes

    def addresses_of(self, name: str) -> tuple[bytes, ...] | None:
        """The addresses of a node or server, packed."""
        return self._coordinator.names.addresses_of(name)

    def name_of(self, address: bytes) -> str | None:
        """The node with that virtual address."""
        return self._coordinator.names.name_of(address)

    def has_below(self, key: str | bytes) -> bool:
        """Whether there are nodes below a name or beginning of an address."""
        return self._coordinator.names.has_below(key)

    def __iter__(self) -> Iterator[tuple[str, tuple[bytes, ...]]]:
        return iter(self._coordinator.names)

    def _make_facts(self) -> ZoneFacts:
        coordinator = self._coordinator
        certificate = coordinator.certificate
        assert certificate is not None
        primary = certificate.fqdn
        text = coordinator_text(coordinator.endpoints[0].port, self._signed)
        return ZoneFacts(
            domains=certificate.led_domains,
            primary=primary,
            hosts={**self._hosts, primary: packed_hosts(coordinator.endpoints)},
            texts={f"{COORDINATOR_LABEL}.{primary}": [dns.txt_data(text)]},
            prefixes=tuple(ipaddress.ip_network(each) for each in certificate.prefixes),
            ttl=self._ttl,
        )


def coordinator_text(port: int, certificate: bytes) -> list[bytes]:
    """The strings of the TXT record at ``_ntm`` below a coordinator's name."""
    encoded = base64.b64encode(certificate)
    size = MAX_STRING_SIZE - len(CERTIFICATE_KEY)
    parts = [encoded[start : start + size] for start in range(0, len(encoded), size)]
    return [
        VERSION_STRING,
        PORT_KEY + str(port).encode(),
        *(CERTIFICATE_KEY + part for part in parts),
    ]


def read_coordinator_text_untrusted(strings: Sequence[bytes]) -> tuple[int, bytes] | None:
    """Port and certificate of a coordinator's TXT record; None if this is not one.

    Keys that are not known are passed over: later versions may add some.
    """
    if not strings or strings[0] != VERSION_STRING:
        return None
    port = 0
    encoded = b""
    for string in strings[1:]:
        if string.startswith(PORT_KEY):
            digits = string.removeprefix(PORT_KEY)
            port = int(digits) if digits.isdigit() and len(digits) <= 5 else 0
        elif string.startswith(CERTIFICATE_KEY):
            encoded += string.removeprefix(CERTIFICATE_KEY)
    try:
        certificate = base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    return (port, certificate) if 0 < port < 65536 and certificate else None
