"""A node behind a real NAT, idle: what it sends; and its NS killed: it has another."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest
from lab_domain import (
    DIRECTION_PORT,
    DOMAIN,
    NOTIFICATION_PORT,
    NTMPATCH,
    DomainNode,
    clean_environment,
)
from lab_nat import NatKind
from udp_keepalives import IPV4_TCP, with_udp_keepalives

from ntmpatch.negotiation.heartbeat import MAX_INTERVAL
from ntmpatch.servers.direction.server import SERVED_REGISTRATION_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab import Host, Lab, Process
    from lab_capture import Capture

pytestmark = [pytest.mark.lab, pytest.mark.once, pytest.mark.timeout(200)]

ETHERNET = 14
PATIENCE = 40.0
SERVING = f"serving {DOMAIN}:"


def start(host: Host, directory: Path, *roles: str, token: str = "") -> Process:
    """Servers on a host of their own."""
    config = directory / f"{host.name}.toml"
    lines = [
        f'[serve]\ndomain = "{DOMAIN}"\nstate = "{directory / host.name}"',
        f'listen = "{host.address()}"',
        "[dns]\nport = 53",
    ]
    if token:
        lines.append(f'[{roles[0]}]\ntoken = "{token}"\nname = "{host.name}.{DOMAIN}"')
    config.write_text("\n".join(lines))
    return host.popen([*NTMPATCH, "serve", *roles, "--config", config], env=clean_environment())


def account(core: Host, directory: Path, label: str, role: str = "node") -> str:
    command = [*NTMPATCH, "account", "add", f"{label}.{DOMAIN}", "--role", role]
    config = directory / "core.toml"
    return core.run([*command, "--config", config], env=clean_environment()).strip()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def is_linked_to(node: DomainNode, server: Host) -> bool:
    """The node has a session with that NS, over TCP."""
    place = f"tcp {server.address()}:{NOTIFICATION_PORT}"
    return any(
        peer["endpoint"] == place and peer["last_handshake_seconds"] is not None
        for peer in node.status()["peers"]
    )


def sizes(capture: Capture, node: Host, server: Host, port: int) -> list[tuple[int, int]]:
    """Of the packets from node to server: bytes of IP, and how many of them are payload."""
    return [
        (packet.size - ETHERNET, len(packet.payload))
        for packet in capture.packets()
        if packet.source[0] == node.address() and packet.destination == (server.address(), port)
    ]


def test_an_idle_node_sends_little_and_outlives_its_ns(lab: Lab, tmp_path: Path) -> None:
    outside, inside = lab.switch(), lab.switch()
    core, a, router, b = (lab.host(name) for name in ("core", "a", "router", "b"))
    servers = {name: lab.host(name) for name in ("ns1", "ns2")}
    for host in (core, a, *servers.values()):
        outside.join(host)
    inner = inside.join(router)
    inside.join(b)
    router.nat(NatKind.PORT_RESTRICTED, outside.join(router))
    b.route("default", inner.host.address())
    start(core, tmp_path, "as", "dc", "rs").wait_for(SERVING)
    running = {
        name: start(host, tmp_path, "ns", token=account(core, tmp_path, name, "ns"))
        for name, host in servers.items()
    }
    node = DomainNode(b, f"b.{DOMAIN}", tmp_path, account(core, tmp_path, "b"), 4460)
    for process in running.values():
        process.wait_for(SERVING)
    with b.capture(tmp_path / "b.pcap") as capture:
        node.popen("-c", "import socket, time; socket.getfqdn('b.lab.example'); time.sleep(600)")
        node.wait_until_registered()
        wait_for(lambda: any(is_linked_to(node, ns) for ns in servers.values()), "no link")
    name = next(name for name, ns in servers.items() if is_linked_to(node, ns))
    dying, other = servers.pop(name), *servers.values()

    # A heart-beat's answer is an acknowledgment without data, as others are.
    acknowledgments = {size for size, n in sizes(capture, b, dying, NOTIFICATION_PORT) if not n}
    heartbeat = min(acknowledgments)
    assert heartbeat == IPV4_TCP
    registration = sum(size for size, _ in sizes(capture, b, core, DIRECTION_PORT))
    an_hour = heartbeat * 3600 / MAX_INTERVAL + registration * 3600 / (
        0.8 * SERVED_REGISTRATION_INTERVAL
    )
    assert with_udp_keepalives(25.0, hours=1.0) >= 10 * an_hour, (an_hour, registration)

    running[name].send_signal(signal.SIGKILL)
    wait_for(lambda: is_linked_to(node, other), "no link to the other NS")
    caller = DomainNode(a, f"a.{DOMAIN}", tmp_path, account(core, tmp_path, "a"), 4460)
    found = caller.run("-c", "import socket; print(socket.gethostbyname('b.lab.example'))")
    assert found.strip() == node.status()["ipv4"]
