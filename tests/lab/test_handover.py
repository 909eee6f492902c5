"""A node's address is taken away and another given: nobody tells the node but the kernel."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_domain import NODE_PORT, Domain

if TYPE_CHECKING:
    from lab import Lab, Process

pytestmark = [pytest.mark.lab, pytest.mark.once]

PROGRAMS = Path(__file__).parent / "programs"
ECHO_PORT = 7000
BLOCKS = 10


def go_on(client: Process) -> None:
    """Wait for blocks that were not there yet."""
    count = client.stdout.count("\n")
    client.wait_for(f"block {count + BLOCKS}\n")


def test_a_connection_survives_another_address(lab: Lab, tmp_path: Path) -> None:
    switch = lab.switch(["192.0.2.0/24"])
    servers, mobile, fixed = lab.host("servers"), lab.host("mobile"), lab.host("fixed")
    interface = switch.join(mobile)
    for host in (servers, fixed):
        switch.join(host)
    old, new = interface.addresses[0], "192.0.2.77/24"
    domain = Domain(servers, tmp_path)
    node, peer = domain.node(mobile, "mobile", tmp_path), domain.node(fixed, "fixed", tmp_path)
    peer.popen(PROGRAMS / "echo_server.py", str(ECHO_PORT)).wait_for("echoing")
    peer.wait_until_registered()
    told = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    told.bind(str(lab.directory / "trace"))
    told.listen()
    environment = {"NTMPATCH_TRACE": str(lab.directory / "trace")}
    client = node.popen(PROGRAMS / "echo_blocks.py", peer.fqdn, str(ECHO_PORT), env=environment)
    told.settimeout(10.0)
    trace = told.accept()[0]
    trace.settimeout(10.0)
    go_on(client)

    interface.remove_address(str(old))
    interface.add_address(new)
    go_on(client)

    endpoints = [each["endpoint"] for each in peer.status()["peers"]]
    assert f"192.0.2.77:{NODE_PORT}" in endpoints
    steps: list[str] = []
    while len(steps) < 3:
        record = json.loads(trace.recv(4096))
        if record["figure"] == "5":
            steps.append(record["step"])
    assert steps == ["1", "2", "3"]
    trace.close()
    told.close()


def test_the_silent_death_of_the_preferred_network_turns_all_to_another(
    lab: Lab, tmp_path: Path
) -> None:
    """One machine, two networks, and routers that reach each other: nobody is told of a death."""
    core = lab.switch(["192.0.2.0/24"])
    servers, mobile, fixed = lab.host("servers"), lab.host("mobile"), lab.host("fixed")
    for host in (servers, fixed):
        core.join(host)
    routers = []
    for number in (1, 2):
        router = lab.host(f"router{number}")
        outside = core.join(router)
        near, far = lab.link(mobile, router, [f"10.0.{number}.0/24"])
        router.forward()
        route = ["ip", "route", "add", "default", "via", far.address(), "dev", near.name]
        mobile.run([*route, "metric", str(100 * number)])
        for host in (servers, fixed):
            host.route(f"10.0.{number}.0/24", outside.address())
        routers.append(router)
    domain = Domain(servers, tmp_path)
    node, peer = domain.node(mobile, "mobile", tmp_path), domain.node(fixed, "fixed", tmp_path)
    peer.popen(PROGRAMS / "echo_server.py", str(ECHO_PORT)).wait_for("echoing")
    peer.wait_until_registered()
    client = node.popen(PROGRAMS / "echo_blocks.py", peer.fqdn, str(ECHO_PORT))
    go_on(client)

    rules = "chain forward {\ntype filter hook forward priority 0; policy drop;\n}"
    routers[0].nft(f"table inet silence {{\n{rules}\n}}")
    go_on(client)

    in_use = [path["path"] for each in node.status()["peers"] for path in each["paths"]]
    assert any(path.endswith(" by eth1") for path in in_use)
    assert any(each["endpoint"].startswith("10.0.2.") for each in peer.status()["peers"])
    # A new direction needs the coordinator, to which nothing leads by the preferred network.
    assert "tunnel" in node.trace(peer.fqdn, env={})
