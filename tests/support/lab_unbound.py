"""A recursive resolver for a lab: unbound, with a parent zone that delegates domains to servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lab import Host, Process

PARENT = "example"


def start_unbound(
    host: Host,
    directory: Path,
    delegations: Mapping[str, tuple[str, str]],
    reverse: Mapping[str, str],
    *,
    options: str = "",
) -> Process:
    """unbound on the host's first address.

    ``delegations``: of a domain below PARENT the name and the address of its server, which the
    parent zone holds as NS and glue. ``reverse``: the address of the server of a reverse zone,
    which no parent delegates. ``options``: further lines of the section "server".
    """
    zone = [f"$ORIGIN {PARENT}.", "@ 3600 SOA ns hostmaster 1 3600 600 86400 60", "@ 3600 NS ns"]
    zone.append(f"ns 3600 A {host.address()}")
    for domain, (server, address) in delegations.items():
        zone += [f"{domain}. 3600 NS {server}.", f"{server}. 3600 A {address}"]
    (directory / "parent.zone").write_text("\n".join(zone) + "\n")
    # unbound answers for private addresses itself unless told otherwise (RFC 6303).
    private = {"d.f.ip6.arpa" for name in reverse if name.endswith("d.f.ip6.arpa")}
    nodefault = "".join(f' local-zone: "{name}" nodefault\n' for name in private)
    stubs = "".join(
        f'stub-zone:\n name: "{name}"\n stub-addr: {address}\n' for name, address in reverse.items()
    )
    path = directory / "unbound.conf"
    path.write_text(f"""
server:
 interface: {host.address()}
 access-control: 0.0.0.0/0 allow
 username: ""
 chroot: ""
 directory: "{directory}"
 pidfile: ""
 use-syslog: no
 verbosity: 1
 module-config: "iterator"
 do-ip6: no
 use-caps-for-id: yes
 {options}
{nodefault}
auth-zone:
 name: "{PARENT}"
 zonefile: "{directory / "parent.zone"}"
 for-downstream: no
 for-upstream: yes
 fallback-enabled: no
{stubs}""")
    process = host.popen(["unbound", "-d", "-c", path])
    process.wait_for("start of service")
    return process
