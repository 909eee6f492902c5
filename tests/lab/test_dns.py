"""The DC's DNS, asked by dig."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from lab_domain import DOMAIN, Domain

if TYPE_CHECKING:
    from pathlib import Path

    from lab import Lab

pytestmark = [
    pytest.mark.lab,
    pytest.mark.once,
    pytest.mark.skipif(shutil.which("dig") is None, reason="dig (dnsutils) is not installed"),
]


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_dig_finds_the_domain_and_its_nodes(lab: Lab, tmp_path: Path, transport: str) -> None:
    switch = lab.switch()
    servers, a = lab.host("servers"), lab.host("a")
    for host in (servers, a):
        switch.join(host)
    domain = Domain(servers, tmp_path)
    node = domain.node(a, "cam", tmp_path)
    node.popen("-m", "http.server", "8000").wait_for("Serving HTTP")
    facts = node.wait_until_registered()

    def dig(name: str, kind: str, *options: str) -> str:
        return a.run(
            ["dig", f"@{servers.address()}", "+norecurse", transport, *options, name, kind]
        )

    def values(name: str, kind: str) -> list[str]:
        return dig(name, kind, "+short").split("\n")[:-1]

    [soa] = values(DOMAIN, "SOA")
    primary, _contact, serial, *times = soa.split()
    assert primary.endswith(f".{DOMAIN}.")
    assert int(serial) > 0
    assert len(times) == 4
    [name_server] = values(DOMAIN, "NS")
    assert name_server == primary
    assert values(name_server, "A") == [servers.address()]
    assert values(node.fqdn, "A") == [facts["ipv4"]]
    assert values(node.fqdn.upper(), "AAAA") == [facts["ipv6"]]

    answer = dig(node.fqdn, "A")
    assert "status: NOERROR" in answer
    assert " aa" in answer.split("flags:")[1].split(";")[0], "the answer is authoritative"
    stranger = dig(f"stranger.{DOMAIN}", "A")
    assert "status: NXDOMAIN" in stranger
    assert "SOA" in stranger, "a negative answer tells how long it holds (RFC 2308)"
    assert "status: REFUSED" in dig("other.example", "A")
