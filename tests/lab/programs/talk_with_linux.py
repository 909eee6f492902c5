"""One experiment: our stack, the kernel's, and a network between them; run it in a namespace.

Takes a JSON object and prints one:

``ours``, ``linux``   lists of plans (see ``linux_peer.py``); of the kernel's, ``host`` is 0 or 1
``ways``              what happens to packets on the way to ``ours``, ``linux0`` and ``linux1``
``mtu``, ``limit``    bytes, seconds
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from tun_emulator import Emulator, Way, open_tun, packed
from tun_talker import Talker, talk

from ntmpatch.packet.stack import Stack

PEER = Path(__file__).with_name("linux_peer.py")

OURS = ["10.77.1.1", "fd77::1:1"]
LINUX = [["10.77.2.1", "fd77::2:1"], ["10.77.3.1", "fd77::3:1"]]


class Host:
    """A namespace of the kernel's with a TUN device into the emulated network."""

    def __init__(self, index: int, mtu: int) -> None:
        self.holder: subprocess.Popen[bytes] | None = None
        self.prefix: list[str] = []
        if index:
            self.holder = subprocess.Popen(
                ["unshare", "-n", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert self.holder.stdin is not None
            assert self.holder.stdout is not None
            self.holder.stdin.write(b"\n")  # once it echoes, it is in its namespace
            self.holder.stdin.flush()
            self.holder.stdout.read(1)
            self.prefix = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net"]
        name = f"ntmtun{index}"
        self.tun = open_tun(name, self.holder.pid if self.holder else None)
        ipv4, ipv6 = LINUX[index]
        for command in (
            f"ip address add {ipv4}/16 dev {name}",
            f"ip address add {ipv6}/64 dev {name} nodad",
            f"ip link set {name} mtu {mtu} txqueuelen 2000 up",
        ):
            subprocess.run([*self.prefix, *command.split()], check=True)

    def peer(self, plan: dict[str, Any]) -> Peer:
        """The kernel's end of a plan."""
        peer = Peer([*self.prefix, sys.executable, str(PEER), json.dumps(plan)])
        if plan.get("listen"):
            peer.wait_for_line()
        return peer

    def counters(self) -> dict[str, int]:
        """The kernel's, by nstat's names."""
        lines = subprocess.run(
            [*self.prefix, "nstat", "-asz"], check=True, capture_output=True, text=True
        ).stdout.splitlines()[1:]
        return {line.split()[0]: int(line.split()[1]) for line in lines}

    def close(self) -> None:
        os.close(self.tun)
        if self.holder is not None:
            self.holder.kill()
            self.holder.wait()


class Peer:
    """A program beside us; what it says may be more than a pipe holds."""

    def __init__(self, command: list[str]) -> None:
        self._output = os.memfd_create("peer")
        self.process = subprocess.Popen(command, stdout=self._output)

    def wait_for_line(self) -> None:
        """Until it has said something."""
        while not self.lines() and self.process.poll() is None:
            time.sleep(0.01)

    def lines(self) -> list[bytes]:
        """All that it has said."""
        size = os.fstat(self._output).st_size
        return os.pread(self._output, size, 0).splitlines()  # the position is the program's, too

    def close(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._output)


def main() -> None:
    """Play the experiment."""
    experiment = json.loads(sys.argv[1])
    ways = {name: Way(**values) for name, values in experiment.get("ways", {}).items()}
    mtu = experiment.get("mtu", 1376)
    emulator = Emulator(experiment.get("seed", 1))
    now = time.monotonic()
    stack = Stack(rng=random.Random(), now=now, mtu=mtu, max_mtu=mtu)
    for address in OURS:
        stack.add_address(packed(address))
    emulator.attach(stack, [packed(each) for each in OURS], ways.setdefault("ours", Way()))
    hosts: list[Host] = []
    peers: list[Peer] = []
    try:
        wanted = 1 + max(plan.get("host", 0) for plan in experiment["linux"])
        for index in range(wanted):
            host = Host(index, mtu)
            hosts.append(host)
            way = ways.setdefault(f"linux{index}", Way())
            emulator.attach(host.tun, [packed(each) for each in LINUX[index]], way)
        ours: list[list[Talker]] = []
        plans = experiment.get("ours", [])
        ours += [talk(emulator, stack, plan) for plan in plans]
        peers += [hosts[plan.get("host", 0)].peer(plan) for plan in experiment["linux"]]

        def is_over() -> bool:
            return all(peer.process.poll() is not None for peer in peers) and all(
                len(talkers) >= plan.get("count", 1) and all(each.is_over for each in talkers)
                for plan, talkers in zip(plans, ours, strict=True)
            )

        emulator.is_over = is_over
        emulator.tick()
        emulator.run(experiment.get("limit", 60))
        output = {
            "ours": [[talker.report() for talker in talkers] for talkers in ours],
            "linux": [json.loads(peer.lines()[-1]) for peer in peers],
            "counters": [host.counters() for host in hosts],
            "drops": stack.drops.by_name(),
            "ways": {name: vars(way) for name, way in ways.items()},
        }
        print(json.dumps(output))
    finally:
        for peer in peers:
            peer.close()
        for host in hosts:
            host.close()


if __name__ == "__main__":
    main()
