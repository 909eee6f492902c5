"""One cell of the matrix: a lab with four servers and two nodes, one of which calls the other."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import Lab, LabError
from lab_access import BEHAVIOURS, Access, Directness, Internet, directness
from lab_domain import RELAY_PORT, Domain

if TYPE_CHECKING:
    from lab import Host, Process
    from lab_domain import DomainNode

PROGRAMS = Path(__file__).parent / "programs"
CONNECT_TIMEOUT = 40.0
"""Seconds that the caller has for its first UDP and TCP answer."""
SETTLED = 2.0
"""Seconds that a path has to stay as it is, to be called the one at the end."""
FEW_PACKETS = 40
"""In a second at the relay: a relayed call makes some 100, a direct one but keep-alives, or the
handshake of a session in reserve, which falls into that second when a call is direct at once."""
COUNT_RELAYED = f"""
    table inet lab_count {{
        chain arriving {{
            type filter hook prerouting priority raw;
            udp dport {RELAY_PORT} counter
        }}
    }}
"""


@dataclass(frozen=True)
class Cell:
    """Who calls, and who is called."""

    caller: Access
    called: Access

    @property
    def allowed(self) -> Directness:
        """What RFC 4787 lets it be."""
        return directness(BEHAVIOURS[self.caller], BEHAVIOURS[self.called])

    def __str__(self) -> str:
        return f"{self.caller.value} calls {self.called.value}"


@dataclass(frozen=True)
class Run:
    """What came of a call; times in seconds from the look-up of the name, None for never."""

    udp_first_byte: float | None = None
    tcp_first_byte: float | None = None
    """From the beginning of this second call, which finds the tunnel there."""
    is_direct: bool = False
    """The path in use at the end is proven and leads through no relay, as the caller says."""
    relay_packets: int = 0
    """Packets that reached the relay in a last second of talking: what it says of the same."""
    time_to_direct: float | None = None
    """Until the first such path was in use, also if it was left again."""
    lost: int = 0
    """Datagrams whose echo never came, of those sent after the first that came back."""
    error: str = ""
    """Why it did not connect, or what the caller found wrong."""

    @property
    def connects(self) -> bool:
        return self.udp_first_byte is not None and self.tcp_first_byte is not None

    def __str__(self) -> str:
        if not self.connects:
            return f"does not connect: {self.error}"
        way = "direct" if self.is_direct else "relayed"
        after = "never" if self.time_to_direct is None else f"after {self.time_to_direct:.2f} s"
        first = f"UDP {1000 * (self.udp_first_byte or 0):.0f} ms"
        first += f", TCP {1000 * (self.tcp_first_byte or 0):.0f} ms"
        return f"{way}; first byte {first}; direct {after}; {self.lost} lost{self.error}"


def play(cell: Cell, patience: float) -> Run:
    """Build the lab, call, and watch the path until it is as it may be, or patience ends."""
    with (
        Lab() as lab,
        tempfile.TemporaryDirectory(prefix="ntmpatch-cell-") as name,
    ):
        try:
            return _play(cell, patience, lab, Path(name))
        except LabError as error:
            return Run(error=re.sub(r"ntm1\.\S+", "TOKEN", str(error)))


def _play(cell: Cell, patience: float, lab: Lab, directory: Path) -> Run:
    internet = Internet(lab)
    servers = internet.server("servers")
    servers.nft(COUNT_RELAYED)
    hosts = [internet.behind(cell.caller, "caller"), internet.behind(cell.called, "called")]
    domain = Domain(servers, directory, listen=(servers.address(4), servers.address(6)))
    caller, called = (domain.node(host, host.name, directory) for host in hosts)
    called.popen(PROGRAMS / "echo.py").wait_for("listening")
    go = directory / "go"
    call = caller.popen(PROGRAMS / "call.py", called.fqdn, go)
    for node in (called, caller):
        node.wait_until_registered()
    watch = _watch(caller, called.fqdn)
    go.touch()
    with contextlib.suppress(LabError):
        call.wait_for('"tcp"', CONNECT_TIMEOUT)
    told = _events(call)
    if "tcp" not in told:
        return Run(udp_first_byte=told.get("udp"), error=_complaint(call))
    _until_settled(cell, watch, patience)
    before = _relayed(servers)
    time.sleep(1.0)
    relay_packets = _relayed(servers) - before
    watch.kill()
    go.unlink()
    call.wait()
    told = _events(call)
    changes = _changes(watch)
    direct_since = [at for at, is_direct in changes if is_direct]
    is_direct = bool(changes) and changes[-1][1]
    error = "" if call.returncode == 0 else f"; then {_complaint(call)}"
    if is_direct is not (relay_packets < FEW_PACKETS):
        error += f"; but {relay_packets} packets in a second at the relay"
    return Run(
        udp_first_byte=told["udp"],
        tcp_first_byte=told["tcp"],
        is_direct=is_direct,
        relay_packets=relay_packets,
        time_to_direct=max(direct_since[0] - told["begun"], 0.0) if direct_since else None,
        lost=told.get("lost", 0),
        error=error,
    )


def _relayed(servers: Host) -> int:
    """Packets that have reached the relay."""
    rules = json.loads(servers.run(["nft", "--json", "list", "table", "inet", "lab_count"]))
    expressions = [
        part for each in rules["nftables"] for part in each.get("rule", {}).get("expr", [])
    ]
    return next(int(part["counter"]["packets"]) for part in expressions if "counter" in part)


def _complaint(call: Process) -> str:
    """What it printed last; not its command line, which holds the node's token."""
    return call.stderr.strip()[-2000:] or f"no answer within {CONNECT_TIMEOUT:g} s"


def _watch(node: DomainNode, peer: str) -> Process:
    """Print each change of the path to the peer, until killed."""
    control = node.state / "control.sock"
    watch = node.host.popen([sys.executable, PROGRAMS / "watch_path.py", control, peer])
    watch.wait_for("watching")
    return watch


def _until_settled(cell: Cell, watch: Process, patience: float) -> None:
    """Until the path has been for a while what it may be; a relayed one may only stay."""
    begun = since = time.monotonic()
    wanted = cell.allowed is not Directness.NEVER
    while (now := time.monotonic()) < begun + patience:
        changes = _changes(watch)
        if not changes or changes[-1][1] is not wanted:
            since = now
        elif now > max(since, changes[-1][0]) + SETTLED:
            return
        time.sleep(0.1)


def _changes(watch: Process) -> list[tuple[float, bool]]:
    """When the path changed (time.monotonic is one clock for all processes); direct, and proven?"""
    lines = watch.stdout.split("\n")[1:-1]  # the last may be half a line
    return [(float(at), bool(is_direct)) for at, is_direct in map(json.loads, lines)]


def _events(call: Process) -> dict[str, Any]:
    """What the caller has told: one object a line."""
    told: dict[str, Any] = {}
    for line in call.stdout.split("\n")[:-1]:
        told |= json.loads(line)
    return told
