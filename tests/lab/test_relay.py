"""Through a relay server: between IPv4 and IPv6, and between two symmetric NATs.

Two NATs with endpoint-independent mapping need it for a moment only, and when nothing else is left.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_domain import RELAY_PORT, Domain
from lab_nat import NatKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from lab import Host, Lab
    from lab_domain import DomainNode

pytestmark = [pytest.mark.lab, pytest.mark.once, pytest.mark.timeout(200)]

PROGRAMS = Path(__file__).parent / "programs"
FILE_SIZE = 5_000_000
LOG = "[log]\nlevel = 'info'\n"


def transfer(domain: Domain, a: Host, b: Host, directory: Path) -> None:
    """B fetches a file from A by name; what B gets comes from the relay, and it is sealed.

    Once more when the servers have been told to end: they wait for the relay's session. A second
    signal ends them with it.
    """
    content = os.urandom(FILE_SIZE)
    site = directory / "site"
    site.mkdir()
    (site / "random").write_bytes(content)
    node_a, node_b = domain.node(a, "a", directory), domain.node(b, "b", directory)
    server = node_a.popen("-m", "http.server", "8000", "--directory", site)
    server.wait_for("Serving HTTP")
    node_a.wait_until_registered()
    word = directory / "word"
    with b.capture(directory / "b.pcap") as capture:
        url = f"http://{node_a.fqdn}:8000/random"
        fetching = node_b.popen(PROGRAMS / "fetch_twice.py", url, word)
        fetching.wait_for("sha256")
        domain.process.send_signal(signal.SIGTERM)
        domain.process.wait_for('INFO draining party="RS')
        word.touch()
        output = fetching.check()
    expected = {"size": FILE_SIZE, "sha256": hashlib.sha256(content).hexdigest()}
    assert [json.loads(line) for line in output.splitlines()] == [expected] * 2
    assert domain.process.returncode is None, "it has not waited for its session"
    domain.process.send_signal(signal.SIGTERM)
    assert domain.process.wait() == 0
    assert 'INFO draining party="DC' not in domain.process.stderr, "it should have ended at once"
    assert capture.traces_of(content) == 0
    relayed = sum(
        len(packet.payload)
        for packet in capture.packets()
        if packet.protocol == "udp" and packet.source[1] == RELAY_PORT
    )
    assert relayed > 2 * FILE_SIZE, "it did not come through the relay"


def test_a_node_with_ipv4_alone_and_one_with_ipv6_alone(lab: Lab, tmp_path: Path) -> None:
    switch = lab.switch(["10.7.0.0/24", "fd07::/64"])
    servers, a, b = lab.host("servers"), lab.host("a"), lab.host("b")
    switch.join(servers)
    switch.join(a, "10.7.0.77/24")
    switch.join(b, "fd07::77/64")
    both = (servers.address(4), servers.address(6))
    domain = Domain(servers, tmp_path, listen=both, more=LOG)
    transfer(domain, a, b, tmp_path)


def behind_nats(lab: Lab, kind: NatKind) -> tuple[Host, Host, Host, list[Host]]:
    """Servers outside, and a and b behind a NAT each; these come last."""
    outside = lab.switch(["192.0.2.0/24"])
    servers, a, b = lab.host("servers"), lab.host("a"), lab.host("b")
    outside.join(servers)
    routers = []
    for number, host in enumerate((a, b), 1):
        router = lab.host(f"router-{host.name}")
        interface = outside.join(router)
        lab.link(router, host, [f"10.{number}.0.0/24"])
        host.route("default", f"10.{number}.0.1")
        router.nat(kind, interface)
        routers.append(router)
    return servers, a, b, routers


def test_two_nodes_behind_symmetric_nats(lab: Lab, tmp_path: Path) -> None:
    servers, a, b, _ = behind_nats(lab, NatKind.SYMMETRIC)
    domain = Domain(servers, tmp_path, more=LOG)
    transfer(domain, a, b, tmp_path)


def until_reached_by(node: DomainNode, *, relayed: bool) -> None:
    """Wait until the one peer of a node is reached so."""
    deadline = time.monotonic() + 20.0
    while True:
        paths = [path for peer in node.status()["peers"] for path in peer["paths"]]
        in_use = [path for path in paths if path["in_use"]]
        if [path["relayed"] for path in in_use] == [relayed] and in_use[0]["proven"]:
            return
        assert time.monotonic() < deadline, paths
        time.sleep(0.1)


def relay_in_use(node: DomainNode, ports: Iterable[int]) -> int | None:
    """Port of the relay server that the one peer of a node is reached through; None: it is not."""
    for peer in node.status()["peers"]:
        for path in peer["paths"]:
            if path["in_use"] and path["proven"] and path["relayed"]:
                return next(port for port in ports if path["path"].endswith(f":{port}"))
    return None


def test_a_connection_outlives_its_relay_servers(lab: Lab, tmp_path: Path) -> None:
    """The one in use is killed; the next one, once it is in use, is told to end."""
    servers, a, b, _ = behind_nats(lab, NatKind.SYMMETRIC)
    domain = Domain(servers, tmp_path, more=LOG, roles=("as", "dc", "ns"))
    relays = domain.relay_servers(RELAY_PORT, RELAY_PORT + 20, RELAY_PORT + 40)
    node_a, node_b = domain.node(a, "a", tmp_path), domain.node(b, "b", tmp_path)
    server = node_a.popen(PROGRAMS / "records_server.py")
    server.wait_for("listening")
    node_a.wait_until_registered()
    client = node_b.popen(PROGRAMS / "records_client.py", node_a.fqdn)
    client.wait_for("echoed")

    def until_relayed_by_one_of(ports: Collection[int]) -> int:
        """Wait until both ends use one of these: which."""
        deadline = time.monotonic() + 20.0
        while True:
            used = {relay_in_use(node, relays) for node in (node_a, node_b)}
            if len(used) == 1 and (port := used.pop()) is not None and port in ports:
                return port
            assert time.monotonic() < deadline, node_b.status()["peers"]

    first = until_relayed_by_one_of(relays)
    relays[first].kill()
    second = until_relayed_by_one_of(relays.keys() - {first})
    relays[second].send_signal(signal.SIGTERM)
    until_relayed_by_one_of(relays.keys() - {first, second})
    client.send_signal(signal.SIGTERM)
    assert "as it was sent" in client.check()


def test_two_nodes_behind_cone_nats_meet_at_the_relay_and_go_direct(
    lab: Lab, tmp_path: Path
) -> None:
    """One connection, all the time: by relay, direct, and by relay again when direct dies."""
    servers, a, b, routers = behind_nats(lab, NatKind.PORT_RESTRICTED)
    domain = Domain(servers, tmp_path, more=LOG)
    node_a, node_b = domain.node(a, "a", tmp_path), domain.node(b, "b", tmp_path)
    server = node_a.popen(PROGRAMS / "records_server.py")
    server.wait_for("listening")
    node_a.wait_until_registered()
    client = node_b.popen(PROGRAMS / "records_client.py", node_a.fqdn)
    client.wait_for("echoed")
    until_reached_by(node_b, relayed=False)
    for router in routers:
        router.nft("""
            table inet lab_block {
                chain passing {
                    type filter hook forward priority filter - 5;
                    udp sport 4460 udp dport 4460 drop
                }
            }
        """)
    until_reached_by(node_b, relayed=True)
    until_reached_by(node_a, relayed=True)
    client.send_signal(signal.SIGTERM)
    assert "as it was sent" in client.check()


def test_two_nodes_behind_one_nat_talk_within_its_network(lab: Lab, tmp_path: Path) -> None:
    """A symmetric NAT that turns nothing back: by what servers see, they could not meet."""
    outside, inside = lab.switch(["192.0.2.0/24"]), lab.switch(["10.0.0.0/24"])
    servers, router = lab.host("servers"), lab.host("router")
    outside.join(servers)
    interface = outside.join(router)
    inside.join(router, "10.0.0.1/24")
    a, b = lab.host("a"), lab.host("b")
    for number, host in enumerate((a, b), 2):
        inside.join(host, f"10.0.0.{number}/24")
        host.route("default", "10.0.0.1")
    router.nat(NatKind.SYMMETRIC, interface)
    domain = Domain(servers, tmp_path, more=LOG)
    node_a, node_b = domain.node(a, "a", tmp_path), domain.node(b, "b", tmp_path)
    node_a.popen(PROGRAMS / "records_server.py").wait_for("listening")
    node_a.wait_until_registered()
    node_b.popen(PROGRAMS / "records_client.py", node_a.fqdn).wait_for("echoed")
    until_reached_by(node_b, relayed=False)
    until_reached_by(node_a, relayed=False)
    [path] = [p["path"] for e in node_b.status()["peers"] for p in e["paths"] if p["in_use"]]
    assert path.startswith("10.0.0.2:")
