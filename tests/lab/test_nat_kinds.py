"""Real nodes behind real NATs find out what these do; others' STUN clients are served as well."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab_access import Access, Internet
from lab_domain import NODE_PORT, RELAY_PORT, Domain

if TYPE_CHECKING:
    from lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.once, pytest.mark.timeout(100)]

PROGRAMS = Path(__file__).parent / "programs"
MAPPINGS = {
    Access.NO_NAT: "no NAT",
    Access.PORT_RESTRICTED: "endpoint-independent",
    Access.SYMMETRIC: "endpoint-dependent",
}


def test_nodes_tell_how_their_nats_map(lab: Lab, tmp_path: Path) -> None:
    if importlib.util.find_spec("aioice") is None:
        pytest.skip("aioice is not installed")
    internet = Internet(lab)
    servers = internet.server("servers")
    domain = Domain(servers, tmp_path, listen=[servers.address(4), servers.address(6)])
    hosts = {access: internet.behind(access, access.name.lower()) for access in MAPPINGS}
    nodes = {
        access: domain.node(host, host.name.replace("_", "-"), tmp_path)
        for access, host in hosts.items()
    }
    running = [node.up() for node in nodes.values()]
    for each in running:
        each.wait_for("up: ")
    client = hosts[Access.PORT_RESTRICTED].run(
        [sys.executable, PROGRAMS / "stun_client.py", servers.address(), str(RELAY_PORT)]
    )
    inside_port, seen_host, seen_port = client.split()
    assert seen_port == inside_port, "this NAT keeps ports"
    assert seen_host == lab.hosts["port_restricted-router"].address()

    facts: dict[Access, Any] = {}
    deadline = time.monotonic() + 20.0
    while facts.keys() != MAPPINGS.keys() and time.monotonic() < deadline:
        for access, node in nodes.items():
            told = node.status()["nat"]["ipv4"]
            if len(told["seen_by"]) == 2:
                facts[access] = told
    assert {access: told["mapping"] for access, told in facts.items()} == MAPPINGS
    own = f"{hosts[Access.NO_NAT].address()}:{NODE_PORT}"
    assert facts[Access.NO_NAT]["endpoints"] == [own]
    assert facts[Access.PORT_RESTRICTED]["endpoints"] == [f"{seen_host}:{NODE_PORT}"]
    ports = [int(end.rpartition(":")[2]) for end in facts[Access.SYMMETRIC]["endpoints"]]
    assert len(set(ports)) == 2

    checked = nodes[Access.SYMMETRIC].netcheck()
    assert checked["ipv4"]["mapping"] == "endpoint-dependent"
    assert not checked["ipv6"]["usable"]
    assert not checked["udp_blocked"]
    answers = {(each["role"], each["protocol"]): each for each in checked["servers"]}
    assert answers.keys() == {("AS", "UDP"), ("DC", "UDP"), ("NS", "TCP"), ("RS", "UDP")}
    for each in checked["servers"]:
        is_ipv6 = each["endpoint"].startswith("[")
        assert each["reachable"] is not is_ipv6, each
