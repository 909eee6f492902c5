"""A node's address is taken away and another given: nobody tells the node but the kernel."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_domain import NODE_PORT, Domain

from ntmpatch.base.addresses import Endpoint

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


def next_steps(trace: socket.socket, last: str) -> list[str]:
    """The node's next steps of Fig. 5, to this one."""
    steps: list[str] = []
    while steps[-1:] != [last]:
        record = json.loads(trace.recv(4096))
        if record["figure"] == "5":
            steps.append(record["step"])
    return steps


def test_a_connection_survives_another_address_and_another_family(lab: Lab, tmp_path: Path) -> None:
    switch = lab.switch(["192.0.2.0/24", "fd07::/64"])
    servers, mobile, fixed = lab.host("servers"), lab.host("mobile"), lab.host("fixed")
    old, new, other = "192.0.2.66/24", "192.0.2.77/24", "fd07::77/64"
    interface = switch.join(mobile, old)
    for host in (servers, fixed):
        switch.join(host)
    domain = Domain(servers, tmp_path, listen=[servers.address(4), servers.address(6)])
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
    trace.settimeout(30.0)
    go_on(client)

    interface.remove_address(old)
    interface.add_address(new)
    go_on(client)

    endpoints = [each["endpoint"] for each in peer.status()["peers"]]
    assert f"192.0.2.77:{NODE_PORT}" in endpoints
    assert next_steps(trace, "3") == ["1", "2", "3"]
    next_steps(trace, "7")  # the coordinator has answered (6)

    # The servers were reached by a family that is gone: without them nobody could be told.
    interface.remove_address(new)
    interface.add_address(other)
    go_on(client)
    assert next_steps(trace, "1")
    assert next_steps(trace, "7")[:2] == ["2", "3"]
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


def test_a_connection_survives_a_move_between_ip_versions(lab: Lab, tmp_path: Path) -> None:
    """To a network of IPv6 only, and back; the servers know of it, by that version."""
    switch = lab.switch(["192.0.2.0/24", "2001:db8::/64"])
    servers, mobile, fixed = lab.host("servers"), lab.host("mobile"), lab.host("fixed")
    place = switch.join(servers)
    switch.join(fixed)
    interface = switch.join(mobile, "192.0.2.66/24")
    domain = Domain(
        servers,
        tmp_path,
        listen=[place.address(4), place.address(6)],
        more="[log]\nlevel = 'info'\n",
    )
    node, peer = domain.node(mobile, "mobile", tmp_path), domain.node(fixed, "fixed", tmp_path)
    peer.popen(PROGRAMS / "echo_server.py", str(ECHO_PORT)).wait_for("echoing")
    peer.wait_until_registered()
    client = node.popen(PROGRAMS / "echo_blocks.py", peer.fqdn, str(ECHO_PORT))
    go_on(client)

    for address, version in (("2001:db8::77", 6), ("192.0.2.88", 4)):
        mobile.run(["ip", "address", "flush", "dev", interface.name, "scope", "global"])
        interface.add_address(f"{address}/{24 if version == 4 else 64}")
        mobile.route("default", place.address(version))
        here = str(Endpoint(address, NODE_PORT))
        domain.process.wait_for(f"node={node.fqdn} seen={here}", timeout=5.0)
        go_on(client)
        assert here in [each["endpoint"] for each in peer.status()["peers"]]
