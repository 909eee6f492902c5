"""wireguard-go in a lab: a real peer, with the Linux TCP/IP stack behind it."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from lab import Host

NEEDED_TOOLS = ("wireguard-go", "wg")


def unavailable() -> str | None:
    """Why there is no wireguard-go here, or None."""
    missing = [tool for tool in NEEDED_TOOLS if shutil.which(tool) is None]
    return f"interoperation needs {', '.join(missing)}" if missing else None


def make_key(path: Path) -> str:
    """Write a new private key (base64) to path, for its owner only; its public key."""
    path.touch(mode=0o600)
    private_key = subprocess.run(["wg", "genkey"], capture_output=True, check=True).stdout
    path.write_bytes(private_key)
    public_key = subprocess.run(
        ["wg", "pubkey"], input=private_key, capture_output=True, check=True
    )
    return public_key.stdout.decode().strip()


class WireGuardGo:
    """An interface wg0 on a host, with one key and the addresses it has inside the tunnel."""

    def __init__(self, host: Host, directory: Path, addresses: list[str], port: int) -> None:
        self.host = host
        self.port = port
        self.addresses = addresses
        key = directory / f"{host.name}.wg.key"
        self.public_key = make_key(key)
        # Its control socket lies below /run: give the host one of its own.
        host.run(["mount", "-t", "tmpfs", "tmpfs", "/run"])
        # Not by asking `wg`: it removes a control socket at which nobody listens yet.
        verbose = {"LOG_LEVEL": "verbose"}
        self.process = host.popen(["wireguard-go", "--foreground", "wg0"], env=verbose)
        self.process.wait_for("UAPI listener started")
        host.run(["wg", "set", "wg0", "listen-port", str(port), "private-key", key])
        for address in addresses:
            host.run(["ip", "address", "add", address, "dev", "wg0"])
        host.run(["ip", "link", "set", "wg0", "mtu", "1376", "up"])

    def add_peer(
        self,
        public_key: str,
        allowed: list[str],
        *,
        endpoint: str | None = None,
        preshared_key: Path | None = None,
    ) -> None:
        """endpoint is written HOST:PORT; without one the peer must call."""
        options = ["allowed-ips", ",".join(allowed)]
        if endpoint is not None:
            options += ["endpoint", endpoint]
        if preshared_key is not None:
            options += ["preshared-key", str(preshared_key)]
        self.host.run(["wg", "set", "wg0", "peer", public_key, *options])
        for prefix in allowed:
            self.host.run(["ip", "route", "replace", prefix, "dev", "wg0"])

    def latest_handshake(self) -> int:
        """When its only peer last completed a handshake, in seconds of the clock; 0: never."""
        return int(self.host.run(["wg", "show", "wg0", "latest-handshakes"]).split()[1])
