"""The DC's DNS, asked by dig, kdig and unbound, and through unbound by programs and by a DC."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from lab import Lab
from lab_domain import DIRECTION_PORT, DOMAIN, Domain
from lab_unbound import start_unbound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lab import Host

pytestmark = [
    pytest.mark.lab,
    pytest.mark.once,
    *(
        pytest.mark.skipif(shutil.which(command) is None, reason=f"{command} is not installed")
        for command in ("dig", "kdig", "unbound")
    ),
]

COUNTER = """table inet count {
    counter datagrams { }
    counter connections { }
    chain input {
        type filter hook input priority 0;
        udp dport 53 counter name datagrams
        tcp dport 53 tcp flags & (syn|ack) == syn counter name connections
    }
}"""


class Site:
    """A domain with one node, a host that asks, and a resolver."""

    def __init__(self, lab: Lab) -> None:
        switch = lab.switch()
        self.servers, self.client, self.resolver = map(lab.host, ("servers", "client", "resolver"))
        for host in (self.servers, self.client, self.resolver):
            switch.join(host)
        self.domain = Domain(self.servers, lab.directory)
        self.node = self.domain.node(self.client, "cam", lab.directory)
        self.node.popen("-m", "http.server", "8000").wait_for("Serving HTTP")
        self.facts: Mapping[str, Any] = self.node.wait_until_registered()
        self.servers.nft(COUNTER)

    def asked(self) -> dict[str, int]:
        """How many datagrams and connections have come to the DNS service."""
        listed = json.loads(self.servers.run(["nft", "-j", "list", "counters"]))["nftables"]
        counters = [each["counter"] for each in listed if "counter" in each]
        return {counter["name"]: counter["packets"] for counter in counters}

    def dig(self, name: str, kind: str, *options: str, server: Host | None = None) -> str:
        """What dig prints; it asks the DC unless told otherwise."""
        server = server or self.servers
        return self.client.run(["dig", f"@{server.address()}", *options, name, kind])

    def values(self, name: str, kind: str, *options: str, server: Host | None = None) -> list[str]:
        """The data of the records in the answer."""
        return self.dig(name, kind, "+short", *options, server=server).split("\n")[:-1]

    def kdig(self, *words: str, status: int = 0) -> str:
        """What kdig prints, on either stream; it asks the DC, and ends with ``status``."""
        process = self.client.popen(["kdig", f"@{self.servers.address()}", *words])
        assert process.wait() == status, process.describe()
        return process.stdout + process.stderr


@pytest.fixture(scope="module")
def lab(lab_is_possible: None) -> Iterator[Lab]:  # noqa: ARG001 (asked first)
    """One lab for all: they only ask."""
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def site(lab: Lab) -> Site:
    return Site(lab)


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_dig_finds_the_domain_and_its_nodes(site: Site, transport: str) -> None:
    options = (transport, "+norecurse")
    node, facts = site.node, site.facts
    [soa] = site.values(DOMAIN, "SOA", *options)
    primary, _contact, serial, *times = soa.split()
    assert primary.endswith(f".{DOMAIN}.")
    assert int(serial) > 0
    assert len(times) == 4
    assert site.values(DOMAIN, "NS", *options) == [primary]
    assert site.values(primary, "A", *options) == [site.servers.address()]
    assert site.values(node.fqdn, "A", *options) == [facts["ipv4"]]
    assert site.values(node.fqdn.upper(), "AAAA", *options) == [facts["ipv6"]]
    for address in (facts["ipv4"], facts["ipv6"]):
        reverse = site.client.run(
            ["dig", f"@{site.servers.address()}", *options, "+short", "-x", address]
        )
        assert reverse == f"{node.fqdn}.\n"

    answer = site.dig(node.fqdn, "A", *options)
    assert "status: NOERROR" in answer
    assert " aa" in answer.split("flags:")[1].split(";")[0], "the answer is authoritative"
    assert "WARNING" not in answer.replace("recursion requested but not available", "")
    stranger = site.dig(f"stranger.{DOMAIN}", "A", *options)
    assert "status: NXDOMAIN" in stranger
    assert "SOA" in stranger, "a negative answer tells how long it holds (RFC 2308)"
    assert "status: REFUSED" in site.dig("other.example", "A", *options)


def test_kdig_is_content_with_edns_cookies_and_connections(site: Site) -> None:
    name = site.node.fqdn
    ipv4 = site.facts["ipv4"]
    assert "EDNS PSEUDOSECTION" in site.kdig("+edns", name, "A")
    assert "BADVERS" in site.dig(name, "A", "+edns=1", "+noednsneg")
    noisy = site.kdig("+edns", "+nsid", "+padding=64", "+ednsopt=65001:00ff", name, "A")
    assert ipv4 in noisy
    assert "NSID" not in noisy

    given = re.search(r"COOKIE: (\w{16})(\w{32})", site.kdig("+cookie=0123456789abcdef", name, "A"))
    assert given is not None
    assert given[1].lower() == "0123456789abcdef"
    assert "(good)" in site.dig(name, "A", f"+cookie={given[1]}{given[2]}")

    before = site.asked()
    several = site.kdig("+tcp", "+keepopen", name, "A", f"stranger.{DOMAIN}", "A", name, "AAAA")
    assert several.count("NOERROR") == 2
    assert several.count("NXDOMAIN") == 1
    assert site.asked()["connections"] == before["connections"] + 1, "three queries, one connection"
    for kind in ("AXFR", "IXFR=1"):
        assert "REFUSED" in site.kdig("+tcp", DOMAIN, kind, status=1)


def test_unbound_resolves_through_the_delegation(site: Site, lab: Lab) -> None:
    """With mixed case in its questions (0x20) and minimised names (RFC 9156), which it does."""
    ipv4, ipv6 = site.facts["ipv4"], site.facts["ipv6"]
    address = site.servers.address()
    zones = json.loads(site.domain.command("zone", "list", "--json"))
    exported = site.domain.command("zone", "export")
    assert f"{site.node.fqdn}. IN A {ipv4}\n" in exported, (
        "as the running coordinator has stored it"
    )
    unbound = start_unbound(
        site.resolver,
        lab.directory,
        {DOMAIN: (f"dc.{DOMAIN}", address)},
        {each["zone"]: address for each in zones if each["prefix"]},
    )

    def values(name: str, kind: str) -> list[str]:
        return site.values(name, kind, server=site.resolver)

    assert values(DOMAIN, "NS") == [f"dc.{DOMAIN}."]
    assert values(site.node.fqdn, "A") == [ipv4]
    assert values(site.node.fqdn, "AAAA") == [ipv6]
    for each in (ipv4, ipv6):
        command = ["dig", f"@{site.resolver.address()}", "+short", "-x", each]
        assert site.client.run(command) == f"{site.node.fqdn}.\n"

    (text,) = values(f"_ntm.dc.{DOMAIN}", "TXT")
    assert text.startswith(f'"v=ntm1" "port={DIRECTION_PORT}" "cert=')

    negative = [(f"stranger.{DOMAIN}", "A", "NXDOMAIN"), (site.node.fqdn, "MX", "NOERROR")]
    for name, kind, status in negative:
        assert f"status: {status}" in site.dig(name, kind, server=site.resolver)
    before = site.asked()
    for name, kind, status in negative:
        assert f"status: {status}" in site.dig(name, kind, server=site.resolver)
    assert site.asked() == before, "it has kept that there is no such thing"

    # Another coordinator finds this one by what its system resolves with: Fig. 3 (3).
    site.client.resolver(site.resolver.address())
    found = site.client.python(
        "-c",
        "from ntmpatch.runtime.finder import DnsFinder\n"
        f"for each in DnsFinder().find({DOMAIN!r}):\n"
        "    print(each.fqdn, *each.endpoints, len(each.certificate) > 100)\n"
        "try:\n"
        "    DnsFinder().find('nowhere.example')\n"
        "except Exception as error:\n"
        "    print(error)",
    )
    assert found.splitlines() == [
        f"dc.{DOMAIN} {address}:{DIRECTION_PORT} True",
        "there is no domain nowhere.example",
    ]
    assert "error" not in unbound.stderr.lower()


def test_who_is_limited_goes_on_by_tcp_or_by_cookie(lab: Lab) -> None:
    """A coordinator as it is in the midst of a flood of the prefix: nothing by UDP is enlarged."""
    switch = lab.switch()
    servers, client, resolver = map(lab.host, ("flooded", "innocent", "resolver2"))
    for host in (servers, client, resolver):
        switch.join(host)
    directory = lab.directory / "flooded"
    directory.mkdir()
    name = "flooded.example"
    address = servers.address()
    Domain(servers, directory, name, dns="excess_rate = 1\n")
    text = f"_ntm.dc.{name}"
    patient = ("+timeout=1", "+retry=5")

    cut = client.run(["kdig", f"@{address}", "+notcp", "+ignore", *patient, text, "TXT"])
    assert re.search(r"Flags:[^;]* tc", cut)
    assert '"v=ntm1"' not in cut
    by_tcp = client.run(["kdig", f"@{address}", *patient, text, "TXT"])
    assert "(TCP)" in by_tcp
    assert '"v=ntm1"' in by_tcp
    by_tcp = client.run(["dig", f"@{address}", "+tcp", text, "TXT"])
    cookie = re.search(r"COOKIE: (\w{48}) \(good\)", by_tcp)
    assert cookie is not None
    by_udp = client.run(["dig", f"@{address}", f"+cookie={cookie[1]}", "+ignore", text, "TXT"])
    assert "(UDP)" in by_udp
    assert '"v=ntm1"' in by_udp

    start_unbound(resolver, directory, {name: (f"dc.{name}", address)}, {})
    resolved = client.run(["dig", f"@{resolver.address()}", text, "TXT"])
    assert '"v=ntm1"' in resolved
