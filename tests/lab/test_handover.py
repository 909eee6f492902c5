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
