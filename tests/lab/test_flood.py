"""Random datagrams at every port disturb nothing: no answer, no growth, drops counted by name."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_domain import NODE_PORT, UDP_PORTS, Domain, resident_size

if TYPE_CHECKING:
    from lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.once, pytest.mark.timeout(200)]

PROGRAMS = Path(__file__).parent / "programs"
FLOOD_SECONDS = 10
FILE_SIZE = 8_000_000
ALLOWED_GROWTH = 16 << 20
"""Bytes. Allocators breathe; a leak of one record a datagram would be several times this."""


def test_a_transfer_goes_on_under_random_datagrams(lab: Lab, tmp_path: Path) -> None:
    switch = lab.switch()
    servers, a, b, attacker = (lab.host(name) for name in ("servers", "a", "b", "attacker"))
    for host in (servers, a, b, attacker):
        switch.join(host)
    domain = Domain(servers, tmp_path)
    content = random.Random(7).randbytes(FILE_SIZE)
    site = tmp_path / "site"
    site.mkdir()
    (site / "random").write_bytes(content)
    node_a, node_b = domain.node(a, "a", tmp_path), domain.node(b, "b", tmp_path)
    web_server = node_a.popen("-m", "http.server", "8000", "--directory", site)
    web_server.wait_for("Serving HTTP")
    node_a.wait_until_registered()
    url = f"http://{node_a.fqdn}:8000/random"
    client = node_b.popen(PROGRAMS / "fetch_again.py", url, str(FLOOD_SECONDS + 4))
    client.wait_for("fetching")
    node_b.wait_until_registered()

    targets = [f"{servers.address()}:{port}" for port in UDP_PORTS]
    targets += [f"{host.address()}:{NODE_PORT}" for host in (a, b)]
    with attacker.capture(tmp_path / "attacker.pcap") as capture:
        flood = attacker.popen(
            [sys.executable, PROGRAMS / "flood.py", "7", str(FLOOD_SECONDS), *targets]
        )
        flood.wait_for("flooding")
        time.sleep(2)  # buffers and caches have their size by now
        watched = {"servers": domain.process, "a": web_server, "b": client}
        before = {name: resident_size(process.pid) for name, process in watched.items()}
        sent = int(flood.check(FLOOD_SECONDS + 10).split()[-1])
    after = {name: resident_size(process.pid) for name, process in watched.items()}
    drops = node_a.status()["drops"]
    result = json.loads(client.check(60).split("\n")[-2])

    assert result["count"] >= 3
    assert result["sha256"] == [hashlib.sha256(content).hexdigest()]
    assert sent > 5_000
    growth = {name: after[name] - before[name] for name in watched}
    assert max(growth.values()) < ALLOWED_GROWTH, growth
    # DNS answers whoever asks, by its nature; garbage it may refuse, which is an answer too.
    answers = {
        packet.source
        for packet in capture.packets()
        if packet.protocol == "udp" and packet.destination[0] == attacker.address()
    }
    assert answers <= {(servers.address(), 53)}
    assert sum(drops.values()) > sent / len(targets) / 2, drops
    assert all(name.split(":")[0] in {"tunnel", "relay"} for name, n in drops.items() if n > 100)
