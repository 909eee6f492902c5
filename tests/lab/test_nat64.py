"""A node with IPv6 alone, behind a NAT64: servers and peers that have IPv4 alone are reached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lab_nat64
import pytest
from lab_domain import Domain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab import Lab, Process
    from lab_domain import DomainNode

pytestmark = [pytest.mark.lab, pytest.mark.once]

PROGRAMS = Path(__file__).parent / "programs"
ECHO_PORT = 7000
BLOCKS = 10


def go_on(client: Process) -> None:
    """Wait for blocks that were not there yet."""
    count = client.stdout.count("\n")
    client.wait_for(f"block {count + BLOCKS}\n")


def as_seen_by(node: DomainNode, other: DomainNode) -> Mapping[str, Any]:
    """What its status says of the other."""
    peers: list[Mapping[str, Any]] = node.status()["peers"]
    (found,) = (each for each in peers if each["name"] == other.fqdn)
    return found


def test_what_has_ipv4_alone_is_reached_by_a_nat64_and_without_one_again(
    lab: Lab, tmp_path: Path
) -> None:
    if reason := lab_nat64.unavailable():
        pytest.skip(reason)
    internet = lab.switch(["192.0.2.0/24"])
    servers, fixed, router, mobile = (lab.host(n) for n in ("servers", "fixed", "router", "mobile"))
    for host in (servers, fixed):
        internet.join(host)
    outside = internet.join(router)
    near, far = lab.link(mobile, router, ["2001:db8:64::/64"])
    mobile.route("default", far.address(6))
    lab_nat64.become_nat64(router, far, outside, lab.directory)
    mobile.resolver(far.address(6))
    domain = Domain(servers, tmp_path)
    node, peer = domain.node(mobile, "mobile", tmp_path), domain.node(fixed, "fixed", tmp_path)
    peer.popen(PROGRAMS / "echo_server.py", str(ECHO_PORT)).wait_for("echoing")
    peer.wait_until_registered()

    client = node.popen(PROGRAMS / "echo_blocks.py", peer.fqdn, str(ECHO_PORT))
    go_on(client)
    seen = as_seen_by(peer, node)
    assert seen["endpoint"].startswith(f"{outside.address(4)}:"), "it is not direct"
    to = as_seen_by(node, peer)
    assert to["endpoint"].startswith("[fd64:64:64::c000:2")

    behind_nat64 = f"{near.address(6)}/64"
    other = internet.join(mobile)
    near.remove_address(behind_nat64)
    go_on(client)
    seen = as_seen_by(peer, node)
    assert seen["endpoint"].startswith(f"{other.address(4)}:")
    to = as_seen_by(node, peer)
    assert to["endpoint"].startswith(f"{fixed.address(4)}:")
    assert not any("fd64:64:64:" in path["path"] for path in to["paths"] if path["proven"])

    near.add_address(behind_nat64)
    mobile.route("default", far.address(6))
    other.remove_address(f"{other.address(4)}/24")
    go_on(client)
    seen = as_seen_by(peer, node)
    assert seen["endpoint"].startswith(f"{outside.address(4)}:")
