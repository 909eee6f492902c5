"""The networks of the benchmark: two hosts, each between two access networks, and a long way.

mn -- a1 --+              +-- c1 -- cn        every "--" is a cable, every letter with a
           +--   core   --+                   number an access router, and core holds each
mn -- a2 --+      |       +-- c2 -- cn        packet for half a round trip
               servers
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from lab import Lab, LabError

if TYPE_CHECKING:
    from lab import Host, Process

ROUND_TRIP = 0.051
"""Seconds, between any two places."""
STARTING = 2.0
"""Seconds that the interpreters of several movers have to start, so that all begin together."""
PROGRAMS = Path(__file__).parent
FAMILIES = (4, 6)

Step: TypeAlias = tuple[str, ...]
"""As ``mover.py`` reads it."""


@dataclass(frozen=True)
class Place:
    """A host's interface into an access network, and the router there."""

    number: int
    device: str
    router: Host

    def address(self, version: int = 4) -> str:
        """Of the host, when it is here."""
        return f"10.81.{self.number}.1" if version == 4 else f"fd81:0:0:{self.number:x}::1"

    def subnet(self, version: int) -> str:
        """With its prefix length."""
        return f"10.81.{self.number}.0/24" if version == 4 else f"fd81:0:0:{self.number:x}::/64"

    def outside(self, version: int) -> str:
        """The subnet beyond the router, which NATs there translate to."""
        return f"10.82.{self.number}.0/24" if version == 4 else f"fd82:0:0:{self.number:x}::/64"

    def gateway(self, version: int) -> str:
        """The router's address on this cable."""
        return f"10.81.{self.number}.2" if version == 4 else f"fd81:0:0:{self.number:x}::2"

    def arrive(self, families: tuple[int, ...] = FAMILIES, metric: int = 100) -> str:
        """For ``ip -batch``: get addresses and a default route here."""
        lines = []
        for version in families:
            # No duplicate address detection: a tentative address is unusable for a second.
            length, more = ("24", "") if version == 4 else ("64", " nodad")
            lines += [
                f"address add {self.address(version)}/{length} dev {self.device}{more}",
                f"route add default via {self.gateway(version)} dev {self.device} metric {metric}",
            ]
        return "\n".join(lines) + "\n"

    def leave(self, families: tuple[int, ...] = FAMILIES) -> str:
        """For ``ip -batch``: lose every address, and the default routes of these families.

        The routes are named, as the kernel would keep the one of IPv6."""
        lines = [
            f"route del default via {self.gateway(version)} dev {self.device}"
            for version in families
        ]
        return "\n".join([*lines, self.clear()])

    def clear(self) -> str:
        """For ``ip -batch``: lose every address but IPv6's link-local one."""
        return f"address flush dev {self.device} scope global\n"


class World:
    """The networks of one run, in a lab that ends with it; ``mn``, ``cn``: numbers of places."""

    def __init__(
        self, lab: Lab, *, mn: tuple[int, ...] = (1, 2), cn: tuple[int, ...] = (3, 4)
    ) -> None:
        self.lab = lab
        self.directory = lab.directory
        self.core = self._router("core")
        self.servers = lab.host("servers")
        self.mn, self.mn_places = self._mobile("mn", mn)
        self.cn, self.cn_places = self._mobile("cn", cn)
        lab.link(self.servers, self.core, ["10.81.9.0/24", "fd81:0:0:9::/64"])
        for version, gateway in ((4, "10.81.9.2"), (6, "fd81:0:0:9::2")):
            self.servers.run(["ip", f"-{version}", "route", "add", "default", "via", gateway])
        self._delay()

    def _router(self, name: str) -> Host:
        router = self.lab.host(name)
        router.forward()
        for which in ("all", "default"):
            router.sysctl(f"net/ipv4/conf/{which}/rp_filter", 0)
        return router

    def _mobile(self, name: str, numbers: tuple[int, ...]) -> tuple[Host, list[Place]]:
        host = self.lab.host(name)
        places = []
        for number in numbers:
            router = self._router(f"access{number}")
            inside = [f"10.81.{number}.0/24", f"fd81:0:0:{number:x}::/64"]
            near, _ = self.lab.link(host, router, inside)
            place = Place(number, near.name, router)
            self.lab.link(router, self.core, [place.outside(version) for version in FAMILIES])
            for version, way in ((4, f"10.82.{number}."), (6, f"fd82:0:0:{number:x}::")):
                router.route("default", f"{way}2")
                self.core.route(place.subnet(version), f"{way}1")
            host.run(["ip", "-batch", "-"], stdin=place.clear().encode())
            places.append(place)
        return host, places

    def _delay(self) -> None:
        program = PROGRAMS / "delay_relay.py"
        half = f"{ROUND_TRIP * 1000 / 2}"
        self.core.popen([sys.executable, program, half]).wait_for("delaying")

    def change(self, *moves: tuple[Host, list[Step]]) -> float:
        """Do what ``mover.py`` does, on all hosts at once: the instant at which the last was done.

        LabError if a step fails."""
        command = [sys.executable, str(PROGRAMS / "mover.py")]
        # Interpreters start as soon as they can, and several not within half a round trip.
        first: list[Step] = [("until", str(time.monotonic() + STARTING))] if len(moves) > 1 else []
        started: list[Process] = [
            host.popen(command, stdin=json.dumps(first + steps).encode()) for host, steps in moves
        ]
        return max(float(each.check()) for each in started)

    def arrive(self, host: Host, place: Place, families: tuple[int, ...] = FAMILIES) -> None:
        """A host's first network."""
        host.run(["ip", "-batch", "-"], stdin=place.arrive(families).encode())

    def block_direct(self) -> Step:
        """Core's rules against UDP between the two mobile hosts, whatever their places."""
        rules = []
        for version, word in ((4, "ip"), (6, "ip6")):
            near, far = (
                ", ".join(each for p in places for each in (p.subnet(version), p.outside(version)))
                for places in (self.mn_places, self.cn_places)
            )
            for source, target in ((near, far), (far, near)):
                rules.append(
                    f"{word} saddr {{ {source} }} {word} daddr {{ {target} }} meta l4proto udp drop"
                )
        body = "\n".join(rules)
        chain = f"type filter hook forward priority filter;\n{body}"
        return ("nft", f"table inet direct {{\nchain forward {{\n{chain}\n}}\n}}\n")

    def unblock_direct(self) -> Step:
        """Forget those rules."""
        return ("nft", "delete table inet direct\n")


def check_round_trip(world: World, count: int = 50) -> list[float]:
    """Round trips of UDP echoes from mn to cn, seconds; both must be at their first place."""
    echo = world.cn.popen([sys.executable, "-c", _ECHO])
    echo.wait_for("ready")
    output = world.mn.run([sys.executable, "-c", _ASK, world.cn_places[0].address(), str(count)])
    echo.kill()
    times: list[float] = json.loads(output)
    if len(times) != count:
        raise LabError(f"{count - len(times)} of {count} echoes were lost on the long way")
    return times


_ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 7))
print("ready", flush=True)
while True:
    s.sendto(*s.recvfrom(2048))
"""

_ASK = """
import json, socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
s.connect((sys.argv[1], 7))
times = []
for _ in range(int(sys.argv[2])):
    begun = time.monotonic(); s.send(bytes(100)); s.recv(2048)
    times.append(time.monotonic() - begun)
print(json.dumps(times))
"""
