"""The codecs of PCP and NAT-PMP against miniupnpd: what it maps is reached from outside."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_domain import Domain
from lab_nat import NatKind

if TYPE_CHECKING:
    from lab import Host, Lab

PROGRAM = Path(__file__).with_name("programs") / "ask_router.py"
RULES = """\
table inet filter {
 chain miniupnpd {
 }
 chain prerouting_miniupnpd {
 }
 chain postrouting_miniupnpd {
 }
 chain forward { type filter hook forward priority 0; policy accept; jump miniupnpd
 }
 chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd
 }
 chain postrouting { type nat hook postrouting priority 100; jump postrouting_miniupnpd
 }
}
"""
CONFIGURATION = """\
ext_ifname=eth1
listening_ip=eth0
enable_natpmp=yes
enable_upnp=yes
upnp_table_name=filter
upnp_nat_table_name=filter
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
secure_mode=yes
uuid=00000000-0000-0000-0000-000000000001
allow 1024-65535 0.0.0.0/0 1024-65535
"""


def _run_daemon(lab: Lab, router: Host) -> None:
    router.nft(RULES)
    path = lab.directory / "miniupnpd.conf"
    path.write_text(CONFIGURATION)
    daemon = router.popen(["miniupnpd", "-d", "-f", path, "-P", lab.directory / "miniupnpd.pid"])
    daemon.wait_for("traffic on port 5351")


@pytest.mark.lab
@pytest.mark.once
@pytest.mark.parametrize("protocol", ["pcp", "nat-pmp", "upnp"])
def test_a_port_that_the_router_maps_is_reached_from_outside(lab: Lab, protocol: str) -> None:
    if shutil.which("miniupnpd") is None:
        pytest.skip("needs miniupnpd")
    node, router, outside = lab.host("node"), lab.host("router"), lab.host("outside")
    lab.link(router, node, ["10.9.0.0/24"])
    # The daemon refuses to map from an address of a documentation or private range.
    lab.link(router, outside, ["5.5.5.0/24"])
    router.forward()
    node.route("default", "10.9.0.1")
    _run_daemon(lab, router)
    asking = node.popen([sys.executable, PROGRAM, protocol, "10.9.0.2", "10.9.0.1"])
    asking.wait_for(" end")
    _, host, port, _ = asking.stdout.split()
    assert host == "5.5.5.1"
    outside.python(
        "-c",
        "import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
        ".sendto(b'hello', (sys.argv[1], int(sys.argv[2])))",
        host,
        port,
    )
    assert "received hello" in asking.check()


@pytest.mark.lab
@pytest.mark.once
@pytest.mark.timeout(120)
def test_a_node_whose_router_maps_is_reached_from_behind_a_symmetric_nat(
    lab: Lab, tmp_path: Path
) -> None:
    """Both NATs are symmetric: without the mapping the pair would stay with the relay."""
    if shutil.which("miniupnpd") is None:
        pytest.skip("needs miniupnpd")
    internet = lab.switch(["5.5.5.0/24"])
    servers, mapped, other = lab.host("servers"), lab.host("mapped"), lab.host("other")
    internet.join(servers)
    for number, host in enumerate((mapped, other), 1):
        router = lab.host(f"router-{host.name}")
        lab.link(router, host, [f"10.{number}.0.0/24"])
        outside = internet.join(router)
        host.route("default", f"10.{number}.0.1")
        router.nat(NatKind.SYMMETRIC, outside)
        if host is mapped:
            _run_daemon(lab, router)
            public = outside.address()
    domain = Domain(servers, tmp_path)
    node, peer = domain.node(mapped, "mapped", tmp_path), domain.node(other, "other", tmp_path)
    programs = Path(__file__).with_name("programs")
    node.popen(programs / "records_server.py").wait_for("listening")
    node.wait_until_registered()
    peer.popen(programs / "records_client.py", node.fqdn).wait_for("echoed")
    external = node.status()["port_mapping"]["mapped"]
    assert external.startswith(f"{public}:")
    deadline = time.monotonic() + 20.0
    while True:
        paths = [path for each in peer.status()["peers"] for path in each["paths"]]
        if [path["path"] for path in paths if path["in_use"]] == [external]:
            break
        assert time.monotonic() < deadline, paths
        time.sleep(0.1)
