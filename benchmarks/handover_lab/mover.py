"""Change a host's network in one go, and print the instant (CLOCK_MONOTONIC) at which it was done.

Standard input is a JSON list of steps, done in order: ``["ip", LINES]`` for ``ip -batch``,
``["nft", RULES]``, ``["forget"]`` for all entries of the connection table, ``["wait", SECONDS]``,
``["until", INSTANT]`` of CLOCK_MONOTONIC, which is one clock for all namespaces.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from pyroute2 import NFCTSocket  # type: ignore[import-untyped]  # has no types


def do(step: list[str]) -> None:
    """One step; CalledProcessError if a tool refuses it."""
    match step:
        case ["ip", lines]:
            subprocess.run(["ip", "-batch", "-"], input=lines.encode(), check=True)
        case ["nft", rules]:
            subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)
        case ["forget"]:
            with NFCTSocket() as table:
                table.flush()
        case ["wait", seconds]:
            time.sleep(float(seconds))
        case ["until", instant]:
            late = time.monotonic() - float(instant)
            if late > 0:
                sys.exit(f"{late:.3f} s late: hosts that move at once would not")
            time.sleep(-late)
        case _:
            sys.exit(f"no such step: {step}")


def main() -> None:
    """Do all steps."""
    for step in json.load(sys.stdin):
        do(step)
    print(time.monotonic(), flush=True)


if __name__ == "__main__":
    main()
