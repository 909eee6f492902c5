"""The zones as master files (RFC 1035, section 5), from the state of a coordinator, running or not.

What is only in a coordinator's memory is missing: the addresses of NSs and RSs that announce
themselves from other processes.
"""

from __future__ import annotations

import ipaddress
import time
from typing import TYPE_CHECKING

import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from ntmpatch.base.addresses import normalise_fqdn
from ntmpatch.base.errors import ConfigError, UntrustedError
from ntmpatch.crypto.certificate import verify_by_any_untrusted
from ntmpatch.runtime.accounts import serve_state, server_database
from ntmpatch.runtime.dns import stored_serial
from ntmpatch.runtime.places import ALL_ROLES, place_of
from ntmpatch.runtime.store_direction import SqlDirectionStore
from ntmpatch.servers.direction.names import NameIndex, packed_hosts
from ntmpatch.servers.direction.published import Published
from ntmpatch.servers.direction.serial import ZoneSerial
from ntmpatch.servers.direction.zone import Zone, Zones, reverse_zones
from ntmpatch.signalling.enrolled import EnrolmentState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.base.config import ServeConfig
    from ntmpatch.crypto.certificate import Certificate


class _StoredCoordinator:
    """A coordinator as it was stored: a `Publisher`."""

    def __init__(
        self,
        certificate: Certificate,
        signed: bytes,
        endpoints: tuple[Endpoint, ...],
        names: NameIndex,
    ) -> None:
        self.certificate = certificate
        self.signed_certificate = signed
        self.endpoints = endpoints
        self.names = names


def load_zones(config: ServeConfig) -> Zones:
    """The zones of the coordinator of this configuration; ConfigError if there is none yet."""
    state = serve_state(config)
    stored = state.read("dc.enrolment")
    enrolment = None if stored is None else EnrolmentState.decode(stored)
    if enrolment is None or not enrolment.certificate:
        raise ConfigError(f"{state.path}: no coordinator has been certified with this state")
    try:
        certificate = verify_by_any_untrusted(
            enrolment.certificate, enrolment.trusted_keys, time.time()
        )
    except UntrustedError as error:
        raise ConfigError(f"the coordinator's own certificate is no good: {error}") from None
    names = NameIndex()
    for record in SqlDirectionStore(server_database(config, state, "direction")).nodes():
        names.put(record.fqdn, (record.ipv4, record.ipv6))
    domain = normalise_fqdn(config.serve.domain)
    places = [
        place_of(config, role, domain)
        for role in ALL_ROLES
        if state.read("as.key" if role == "as" else f"{role}.enrolment") is not None
    ]
    hosts = {place.name: packed_hosts(place.publics) for place in places}
    coordinator = _StoredCoordinator(
        certificate, enrolment.certificate, place_of(config, "dc", domain).publics, names
    )
    serial = ZoneSerial(time.time, stored=stored_serial(state))
    return Zones(Published(coordinator, hosts=hosts, ttl=config.dns.ttl), serial)


def zone_named(zones: Zones, name: str) -> Zone:
    """The zone called ``name``, or the reverse zone of an address or prefix.

    ConfigError tells which zones there are if it is none of them.
    """
    wanted = name.rstrip(".").lower()
    try:
        network = ipaddress.ip_network(wanted)
    except ValueError:
        found = [zone for zone in zones.all() if zone.text == wanted]
    else:
        texts = reverse_zones(network)
        found = [
            zone
            for zone in zones.all()
            if zone.prefix is not None
            and any(text == zone.text or text.endswith(f".{zone.text}") for text in texts)
        ]
    if len(found) == 1:
        return found[0]
    among = ", ".join(zone.text for zone in found or zones.all())
    problem = "lies in several zones" if found else "is no zone of this coordinator"
    raise ConfigError(f"{name} {problem}: expected one of {among}")


def master_file(zones: Zones, zone: Zone) -> Iterator[str]:
    """The zone's lines, without line ends."""
    yield f"$ORIGIN {zone.text}."
    yield f"$TTL {zones.ttl}"
    for name, records in zones.contents(zone):
        owner = dns.name.from_wire(name, 0)[0].to_text()
        for kind, data in sorted(records.items(), key=_soa_first):
            label = dns.rdatatype.to_text(dns.rdatatype.RdataType(kind))
            for each in data:
                rdata = dns.rdata.from_wire(dns.rdataclass.IN, label, each, 0, len(each))
                yield f"{owner} IN {label} {rdata.to_text()}"


def _soa_first(item: tuple[int, list[bytes]]) -> tuple[bool, int]:
    return item[0] != dns.rdatatype.SOA, item[0]
