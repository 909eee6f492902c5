"""The long way between the access networks: a router holds every packet for a while.

``tc netem`` is not in every kernel, so a program does it. The router's policy routing sends what
comes in from a cable into one TUN device; this program keeps each packet for the delay, writes it
back into the same device, and the kernel then forwards it by its ordinary routes. Packets of one
way keep their order, as the delay is the same for all.

    python delay_relay.py MILLISECONDS    # in the router's namespace; prints ``delaying``
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

from tun_emulator import open_tun

TUN = "long"
TABLE = "100"
QUEUE_LENGTH = 10_000
"""Packets that the device holds for us while this program waits for a processor."""


def set_up_routes() -> None:
    """What comes by any ``eth*`` goes to the TUN device; what comes from there goes on."""
    commands = [f"link set {TUN} txqueuelen {QUEUE_LENGTH} up"]
    for family in ("-4", "-6"):
        commands.append(f"{family} route replace default dev {TUN} table {TABLE}")
        # Below the rule of local addresses (0), above the main table (32766).
        commands.append(f"{family} rule add iif {TUN} lookup main priority 10")
        # IPv6's own neighbour discovery is link-local and never forwarded, so it is not caught.
        commands.append(f"{family} rule add iif lo lookup main priority 11")
        commands.append(f"{family} rule add lookup {TABLE} priority 12")
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


def relay(descriptor: int, delay: float) -> None:
    """For ever: ``delay`` seconds between the arrival of a packet and its going on."""
    held: deque[tuple[float, bytes]] = deque()
    while True:
        # select() takes microseconds, epoll and poll only milliseconds.
        wait = max(0.0, held[0][0] - time.monotonic()) if held else None
        select.select([descriptor], [], [], wait)
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = os.read(descriptor, 65536)
                held.append((time.monotonic() + delay, packet))
        now = time.monotonic()
        while held and held[0][0] <= now:
            with contextlib.suppress(OSError):  # no way on: the kernel drops it, as routers do
                os.write(descriptor, held.popleft()[1])


def main() -> None:
    """Set the device up, and carry packets until killed."""
    delay = float(sys.argv[1]) / 1000
    descriptor = open_tun(TUN)
    set_up_routes()
    print("delaying", flush=True)
    relay(descriptor, delay)


if __name__ == "__main__":
    main()
