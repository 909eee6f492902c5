"""TCP and UDP of every size, over the virtual addresses of both IP versions."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_domain import Domain

if TYPE_CHECKING:
    from lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(200)]

PROGRAMS = Path(__file__).parent / "programs"
ECHO_PORT = 7000


def test_echo_over_both_virtual_addresses(lab: Lab, tmp_path: Path) -> None:
    switch = lab.switch()
    servers, a, b = lab.host("servers"), lab.host("a"), lab.host("b")
    for host in (servers, a, b):
        switch.join(host)
    domain = Domain(servers, tmp_path)
    node_a, node_b = domain.node(a, "a", tmp_path), domain.node(b, "b", tmp_path)
    node_a.popen(PROGRAMS / "echo_server.py", str(ECHO_PORT)).wait_for("echoing")
    facts = node_a.wait_until_registered()

    for version in (4, 6):
        output = node_b.run(
            PROGRAMS / "echo_client.py", node_a.fqdn, str(ECHO_PORT), str(version), timeout=90
        )
        result = json.loads(output)
        assert result["wrong"] == []
        assert result["address"] == result["peer"] == facts[f"ipv{version}"]
    assert ipaddress.ip_address(facts["ipv4"]) in ipaddress.ip_network("198.18.0.0/15")
    assert ipaddress.ip_address(facts["ipv6"]) in ipaddress.ip_network("fd00::/8")
