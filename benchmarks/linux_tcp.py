"""Our TCP beside the kernel's on the same emulated paths: goodput, ratios, and fair shares.

    python benchmarks/linux_tcp.py

Needs Linux with user namespaces (or root) and ``ip``; everything happens in namespaces of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parents[1] / "tests" / "lab" / "programs" / "talk_with_linux.py"

OURS, LINUX_0, LINUX_1 = "10.77.1.1", "10.77.2.1", "10.77.3.1"

PATHS = {
    "20 Mbit/s, 50 ms, 1 % loss": {"rate": 20e6, "rtt": 0.05, "loss": 0.01},
    "100 Mbit/s, 100 ms, 0.1 % loss": {"rate": 100e6, "rtt": 0.1, "loss": 0.001},
}


def way(path: dict[str, float], *, back: bool = False) -> dict[str, float]:
    """One direction; losses are on the way of the data, the queue holds a path's worth."""
    rate = path["rate"] / 8
    return {
        "delay": path["rtt"] / 2,
        "loss": 0.0 if back else path["loss"],
        "rate": rate,
        "queue_size": int(rate * path["rtt"]),
    }


def play(experiment: dict[str, Any]) -> dict[str, Any]:
    """The report of one experiment in a namespace of its own."""
    command = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
    result = subprocess.run(
        [*command, sys.executable, str(PROGRAM), json.dumps(experiment)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def goodput(report: dict[str, Any]) -> float:
    """Of a receiver, Mbit/s."""
    return float(report["received"] * 8 / max(report["span"], 1e-9) / 1e6)


def one_flow(path: dict[str, float], sender: str, duration: float, seed: int) -> float:
    """Goodput of a flow alone on the path; ``sender`` names who sends and who receives."""
    data, acks = way(path), way(path, back=True)
    pour = {"port": 5000, "until": duration, "congestion": "cubic"}
    listen = {"listen": True, "port": 5000}
    experiment: dict[str, Any] = {"seed": seed, "limit": duration + 60}
    if sender == "linux-linux":
        experiment |= {
            "linux": [listen | {"host": 1}, pour | {"address": LINUX_1}],
            "ways": {"linux1": data, "linux0": acks},
        }
        return goodput(play(experiment)["linux"][0][0])
    if sender == "ours-linux":
        experiment |= {
            "ours": [pour | {"address": LINUX_0}],
            "linux": [listen],
            "ways": {"linux0": data, "ours": acks},
        }
        return goodput(play(experiment)["linux"][0][0])
    experiment |= {
        "ours": [listen],
        "linux": [pour | {"address": OURS}],
        "ways": {"ours": data, "linux0": acks},
    }
    return goodput(play(experiment)["ours"][0][0])


def shares(path: dict[str, float], duration: float, seed: int) -> tuple[float, float]:
    """Goodput of one flow of ours and one of the kernel's that share the way to a receiver."""
    pour = {"until": duration, "address": LINUX_1, "congestion": "cubic"}
    back = way(path, back=True) | {"rate": 0.0}
    report = play(
        {
            "seed": seed,
            "limit": duration + 60,
            "ours": [pour | {"port": 5000}],
            "linux": [
                {"listen": True, "port": 5000, "host": 1},
                {"listen": True, "port": 5001, "host": 1},
                pour | {"port": 5001},
            ],
            "ways": {"linux1": way(path), "linux0": back, "ours": back},
        }
    )
    return goodput(report["linux"][0][0]), goodput(report["linux"][1][0])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of one flow")
    options = parser.parse_args()
    for name, path in PATHS.items():
        print(f"{name}: goodput, Mbit/s, median of {options.runs} runs of {options.duration:g} s")
        results = {}
        for sender in ("linux-linux", "ours-linux", "linux-ours"):
            runs = [one_flow(path, sender, options.duration, seed) for seed in range(options.runs)]
            results[sender] = statistics.median(runs)
            ratio = results[sender] / results["linux-linux"]
            spread = f"{min(runs):.2f} to {max(runs):.2f}"
            print(
                f"  {sender:12} {results[sender]:8.2f}  ({spread})  ratio {ratio:.2f}", flush=True
            )
    fair = {"rate": 20e6, "rtt": 0.05, "loss": 0.0}
    print(f"20 Mbit/s, 50 ms shared by one flow of each, {3 * options.duration:g} s")
    for seed in range(options.runs):
        ours, theirs = shares(fair, 3 * options.duration, seed)
        share = ours / (ours + theirs)
        print(f"  ours {ours:6.2f}  Linux CUBIC {theirs:6.2f}  our share {share:.0%}", flush=True)


if __name__ == "__main__":
    main()
