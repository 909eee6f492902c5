"""The demo's configuration files: as a user would write them, on free loopback ports."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

DOMAIN: Final = "demo.example"
SERVER_NAME: Final = f"server.{DOMAIN}"
CLIENT_NAME: Final = f"client.{DOMAIN}"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything is on the real network: all of 127.0.0.0/8 is this machine."""

    servers: str = "127.0.1.1"
    server: str = "127.0.2.1"
    client: str = "127.0.3.1"
    client_moved: str = "127.0.3.2"


def write_configuration(directory: Path, addresses: Addresses) -> None:
    """Write ``servers.toml`` and a file for each node, named after it."""
    ports = free_ports(addresses.servers, 5)
    lines = [
        "[serve]",
        f'domain = "{DOMAIN}"',
        f'state = "{directory / "servers"}"',
        f'listen = "{addresses.servers}"',
    ]
    for section, port in zip(("as", "dc", "ns", "rs", "dns"), ports, strict=True):
        lines += ["", f"[{section}]", f"port = {port}"]
    (directory / "servers.toml").write_text("\n".join(lines) + "\n")
    for name, address in ((SERVER_NAME, addresses.server), (CLIENT_NAME, addresses.client)):
        (directory / f"{name}.toml").write_text(f'[node]\nbind = ["{address}"]\n')


def free_ports(address: str, count: int) -> list[int]:
    """Different ports that nobody uses on ``address`` now, neither by UDP nor by TCP."""
    held: list[socket.socket] = []
    ports: list[int] = []
    try:
        while len(ports) < count:
            stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            held.append(stream)
            stream.bind((address, 0))
            port = stream.getsockname()[1]
            datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            held.append(datagram)
            try:
                datagram.bind((address, port))
            except OSError:
                continue
            ports.append(port)
    finally:
        for each in held:
            each.close()
    return ports
