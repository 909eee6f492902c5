"""What a program pays for being patched, before its first virtual socket: milliseconds.

    python benchmarks/start_up.py [--count 20] [--modules]

Each way is a fresh process; the median of some, and the least. `--modules` prints what
`python -X importtime` says, largest first. The aim is below 20 ms.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATCHING = "import ntmpatch; ntmpatch.patch_all(gevent=False)"
TIMED = f"import time; begun = time.perf_counter(); {PATCHING}; print(time.perf_counter() - begun)"


def environment(state: str) -> dict[str, str]:
    """A node that has enrolled, so that everything is done which can be."""
    Path(state, "names.json").write_text(
        '{"domains": ["home.example"], "prefixes": ["198.18.0.0/15", "fd12:3456:789a::/48"]}'
    )
    return {**os.environ, "NTMPATCH_STATE": state}


def timed(code: str, env: dict[str, str]) -> float:
    """Milliseconds that the code itself tells."""
    return 1000 * float(subprocess.check_output([sys.executable, "-c", code], env=env))


def whole(command: list[str], env: dict[str, str]) -> float:
    """Milliseconds of a whole process."""
    begun = time.perf_counter()
    subprocess.run(command, env=env, check=True)
    return 1000 * (time.perf_counter() - begun)


def print_modules(env: dict[str, str]) -> None:
    errors = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", PATCHING],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    rows = [line.removeprefix("import time:").split("|") for line in errors.splitlines()[1:]]
    for own, cumulative, name in sorted(rows, key=lambda row: -int(row[1]))[:25]:
        print(f"{int(own) / 1000:8.2f} {int(cumulative) / 1000:8.2f}  {name.strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--modules", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as state:
        env = environment(state)
        ways = {
            "patching a bare process": lambda: timed(TIMED, env),
            "patching after `import asyncio`": lambda: timed("import asyncio; " + TIMED, env),
            "python -c pass": lambda: whole([sys.executable, "-c", "pass"], env),
            "the same, patched": lambda: whole([sys.executable, "-c", PATCHING], env),
        }
        print(f"{'':34}{'median':>8}{'least':>8}  ms, of {options.count}")
        for name, way in ways.items():
            times = [way() for _ in range(options.count)]
            print(f"{name:34}{statistics.median(times):8.1f}{min(times):8.1f}")
        if options.modules:
            print("\n     own    whole  module, ms")
            print_modules(env)


if __name__ == "__main__":
    main()
