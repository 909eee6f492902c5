"""Unmodified programs fetch 100 MB from each other by name, and the wire tells nothing of it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_domain import DNS_PORT, NODE_PORT, NOTIFICATION_PORT, UDP_PORTS, Domain

if TYPE_CHECKING:
    from lab import Lab
    from lab_capture import Capture, CapturedPacket

pytestmark = [pytest.mark.lab, pytest.mark.once, pytest.mark.timeout(400)]

PROGRAMS = Path(__file__).parent / "programs"
FILE_SIZE = 100_000_000
FETCH_TIMEOUT = 120.0


def is_expected(packet: CapturedPacket, servers: str, nodes: set[str]) -> bool:
    """Tunnel, signalling or DNS; or what keeps an Ethernet going."""
    if packet.protocol in {"arp", "icmpv6"}:
        return True
    ends = {packet.source, packet.destination}
    if {end[0] for end in ends} <= nodes:
        # ICMP: whose program has ended has closed its port, while the other end still asks.
        return packet.protocol == "icmp" or (
            packet.protocol == "udp" and {end[1] for end in ends} == {NODE_PORT}
        )
    server = next((end for end in ends if end[0] == servers), None)
    node = next((end for end in ends if end[0] in nodes), None)
    if server is None or node is None:
        return False
    if packet.protocol == "icmp":
        return True
    if packet.protocol == "tcp":
        return server[1] in {NOTIFICATION_PORT, DNS_PORT}
    return packet.protocol == "udp" and server[1] in UDP_PORTS


def unexpected(capture: Capture, servers: str, nodes: set[str]) -> list[str]:
    return [
        f"{packet.protocol} {packet.source} -> {packet.destination}"
        for packet in capture.packets()
        if not is_expected(packet, servers, nodes)
    ][:20]


@pytest.mark.parametrize("loss", [pytest.param(0, id="clean"), pytest.param(2, id="2%-loss")])
def test_100_mb_by_name_through_a_tunnel(lab: Lab, tmp_path: Path, loss: float) -> None:
    switch = lab.switch()
    servers, a, b = lab.host("servers"), lab.host("a"), lab.host("b")
    for host in (servers, a, b):
        switch.join(host)
    domain = Domain(servers, tmp_path)
    content = os.urandom(FILE_SIZE)
    site = tmp_path / "site"
    site.mkdir()
    (site / "random").write_bytes(content)
    expected = {"size": FILE_SIZE, "sha256": hashlib.sha256(content).hexdigest()}

    node_a = domain.node(a, "a", tmp_path)
    node_b = domain.node(b, "b", tmp_path)
    for host in (a, b):
        host.loss(loss)
    server = node_a.popen("-m", "http.server", "8000", "--directory", site)
    server.wait_for("Serving HTTP")
    node_a.wait_until_registered()

    for program in ("fetch_urllib.py", "fetch_requests.py"):
        with b.capture(tmp_path / "b.pcap") as capture:
            output = node_b.run(
                PROGRAMS / program, f"http://{node_a.fqdn}:8000/random", timeout=FETCH_TIMEOUT
            )
        assert json.loads(output) == expected
        assert capture.lost == 0
        assert capture.traces_of(content) == 0
        nodes = {host.address(version) for host in (a, b) for version in (4, 6)}
        assert unexpected(capture, servers.address(), nodes) == []
        tunnelled = sum(
            len(packet.payload) for packet in capture.packets() if packet.source[0] == a.address()
        )
        assert tunnelled > FILE_SIZE * (1 - loss / 100), "it did not come this way"
