"""What a real coordinator of a simulated domain tells in DNS, and how that follows it."""

from __future__ import annotations

import dns.message
import dns.rdata
from domain import DC_ENDPOINT, Domain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import DropCounter
from ntmpatch.crypto.certificate import MAX_CERTIFICATE_SIZE
from ntmpatch.servers.direction.nameserver import NameServer
from ntmpatch.servers.direction.published import (
    Published,
    coordinator_text,
    read_coordinator_text_untrusted,
)
from ntmpatch.servers.direction.serial import ZoneSerial
from ntmpatch.servers.direction.zone import Zones


def test_the_zones_follow_the_coordinator() -> None:
    domain = Domain(7)
    domain.account_server = domain.start_account_server(certificate_lifetime=3600.0)
    domain.start_servers()
    coordinator = domain.coordinator.party
    network = domain.network
    zones = Zones(Published(coordinator, hosts={}, ttl=30), ZoneSerial(network.wall_clock))
    server = NameServer(
        zones, DropCounter(), entropy=domain.rng.randbytes, now=network.now, excess_rate=1e9
    )

    def records(name: str, kind: str) -> list[dns.rdata.Rdata]:
        wire = dns.message.make_query(name, kind, use_edns=0).to_wire()
        answer = server.answer_untrusted(wire, "192.0.2.9", network.now, tcp=False)
        assert answer is not None
        return [item for rrset in dns.message.from_wire(answer).answer for item in rrset]

    def values(name: str, kind: str) -> list[str]:
        return [item.to_text() for item in records(name, kind)]

    def serial() -> int:
        (soa,) = records("home.example", "SOA")
        return int(soa.serial)  # type: ignore[attr-defined]  # an SOA has one

    first = serial()
    assert values("home.example", "NS") == ["dc.home.example."]
    assert values("dc.home.example", "A") == [DC_ENDPOINT.host]
    network.run(10.0)
    assert values("ns.home.example", "A") == [domain.endpoint(3).host], "as it announced itself"

    node = domain.start_node("cam", Endpoint("198.51.100.7", 4460))
    domain.register(node)
    (address,) = values("cam.home.example", "A")
    assert address.startswith("198.18.")
    assert values(".".join(reversed(address.split("."))) + ".in-addr.arpa", "PTR") == [
        "cam.home.example."
    ]
    registered = serial()
    assert registered > first

    def published() -> tuple[int, bytes] | None:
        (text,) = records("_ntm.dc.home.example", "TXT")
        return read_coordinator_text_untrusted(text.strings)  # type: ignore[attr-defined]

    before = published()
    assert before == (DC_ENDPOINT.port, coordinator.enrolment.certificate)
    network.run(1900.0)
    after = published()
    assert after != before, "the certificate was renewed"
    assert after == (DC_ENDPOINT.port, coordinator.enrolment.certificate)
    renewed = serial()
    assert renewed > registered

    node.party.leave(network.now)
    assert network.run(10.0, lambda: not values("cam.home.example", "A"))
    assert serial() > renewed
    assert domain.locations.nodes() == [], "the zone is as it would be after a restart"


def test_the_text_of_a_coordinator() -> None:
    certificate = bytes(range(256)) * 2
    assert len(certificate) > MAX_CERTIFICATE_SIZE
    text = coordinator_text(3471, certificate)
    assert all(len(string) <= 255 for string in text)
    assert read_coordinator_text_untrusted(text) == (3471, certificate)
    assert read_coordinator_text_untrusted([*text, b"key=of a later version"]) is not None
    for broken in (
        [],
        text[1:],
        [b"v=ntm2", *text[1:]],
        [text[0], *text[2:]],
        text[:2],
        [*text[:2], b"cert=%%%"],
        [text[0], b"port=0", *text[2:]],
        [text[0], b"port=65536", *text[2:]],
        [text[0], b"port=-1", *text[2:]],
    ):
        assert read_coordinator_text_untrusted(broken) is None
