"""On links of every MTU a transfer finds the largest datagrams, unfragmented."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_domain import NODE_PORT, Domain

if TYPE_CHECKING:
    from lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.once, pytest.mark.timeout(200)]

PROGRAMS = Path(__file__).parent / "programs"
FILE_SIZE = 20_000_000
SEAL = 32
HEADERS = 14 + 20 + 8  # Ethernet, IPv4, UDP; the recorder keeps less than a jumbo frame


@pytest.mark.parametrize(
    ("link", "far_end", "smallest", "largest"),
    [
        pytest.param(1500, 1500, 1408, 1440, id="Ethernet"),
        pytest.param(9000, 9000, 8912, 8928, id="jumbo"),
        pytest.param(9000, 1500, 1408, 1440, id="black-hole"),
        pytest.param(1400, 1400, 1280, 1340, id="below-base"),
        pytest.param(1280, 1280, 1280, 1280, id="smallest"),
    ],
)
def test_the_datagrams_of_a_transfer_fill_the_link(
    lab: Lab, tmp_path: Path, link: int, far_end: int, smallest: int, largest: int
) -> None:
    switch = lab.switch(mtu=link)
    servers, a, b = lab.host("servers"), lab.host("a"), lab.host("b")
    for host in (servers, a):
        switch.join(host)
    interface = switch.join(b)
    interface.set_mtu(far_end)
    domain = Domain(servers, tmp_path)
    content = random.Random(link).randbytes(FILE_SIZE)
    site = tmp_path / "site"
    site.mkdir()
    (site / "random").write_bytes(content)
    node_a, node_b = domain.node(a, "a", tmp_path), domain.node(b, "b", tmp_path)
    node_a.popen("-m", "http.server", "8000", "--directory", site).wait_for("Serving HTTP")
    node_a.wait_until_registered()
    url = f"http://{node_a.fqdn}:8000/random"
    with b.capture(tmp_path / "b.pcap") as capture:
        output = node_b.run(PROGRAMS / "fetch_urllib.py", url, timeout=60)
    expected = {"size": FILE_SIZE, "sha256": hashlib.sha256(content).hexdigest()}
    assert json.loads(output) == expected
    packets = list(capture.packets())
    sizes = [
        packet.size - HEADERS
        for packet in packets
        if packet.protocol == "udp" and packet.source == (a.address(), NODE_PORT)
    ]
    if far_end > 1280:  # where even the smallest packets travel in fragments
        assert all(packet.protocol != "fragment" for packet in packets)
        assert smallest + SEAL <= max(sizes) <= largest + SEAL
        filled = sum(size for size in sizes if size == max(sizes))
        assert filled > FILE_SIZE * 0.8, "most of it was sent in the largest"
