"""A router with a NAT64 (tayga) and DNS64 (unbound), both not ours: no IPv4 behind it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from lab_nat import NatKind

if TYPE_CHECKING:
    from pathlib import Path

    from lab import Host, Interface

PREFIX = "fd64:64:64::/96"
POOL = "192.168.255.0/24"
NEEDED_TOOLS = ("tayga", "unbound")


def unavailable() -> str | None:
    """Why there is no NAT64 here, or None."""
    missing = [tool for tool in NEEDED_TOOLS if shutil.which(tool) is None]
    return f"a NAT64 needs {', '.join(missing)}" if missing else None


def become_nat64(router: Host, inside: Interface, outside: Interface, directory: Path) -> None:
    """Translate what comes from ``inside`` for PREFIX into IPv4 of the router's address outside.

    A resolver at the router's address inside knows the name that tells of it.
    """
    network = PREFIX.removesuffix("/96")
    config = directory / "tayga.conf"
    config.write_text(
        f"tun-device nat64\nipv4-addr 192.168.255.1\nprefix {PREFIX}\n"
        f"dynamic-pool {POOL}\ndata-dir {directory}\n"
    )
    router.run(["tayga", "-c", config, "--mktun"])
    router.run(["ip", "link", "set", "nat64", "up"])
    router.run(["ip", "route", "add", POOL, "dev", "nat64"])
    router.run(["ip", "-6", "route", "add", PREFIX, "dev", "nat64"])
    router.nat(NatKind.PORT_RESTRICTED, outside)
    router.popen(["tayga", "-c", config, "--nodetach"])
    zone = directory / "ipv4only.zone"
    zone.write_text(
        "$ORIGIN ipv4only.arpa.\n@ 3600 SOA ns hostmaster 1 3600 600 86400 60\n@ 3600 NS ns\n"
        "@ 3600 A 192.0.0.170\n@ 3600 A 192.0.0.171\n"
    )
    resolver = directory / "dns64.conf"
    resolver.write_text(f"""
server:
 interface: {inside.address(6)}
 access-control: ::/0 allow
 username: ""
 chroot: ""
 directory: "{directory}"
 pidfile: ""
 use-syslog: no
 module-config: "dns64 iterator"
 dns64-prefix: {network}/96
auth-zone:
 name: "ipv4only.arpa"
 zonefile: "{zone}"
 for-downstream: no
 for-upstream: yes
 fallback-enabled: no
""")
    router.popen(["unbound", "-d", "-v", "-c", resolver]).wait_for("start of service")
