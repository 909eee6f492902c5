"""Handover beside other ways to be mobile: how long after a switch the first echo comes.

    python benchmarks/handover.py --jobs 3                      everything, 20 runs of each
    python benchmarks/handover.py --cases hard --peers ntmpatch raw-udp --runs 3
    python benchmarks/handover.py --write                       and write docs/handover.md

Each run has networks of its own (``handover_lab/world.py``), in namespaces, with a round trip of
51 ms. Needs Linux with user namespaces (or root), /dev/net/tun, ``ip`` and ``nft``; a peer that is
not installed is left out, and the table says so. Of several runs side by side, at most one starts
its programs or awaits its recovery. Make no other load meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from handover_lab.cases import CASES
from handover_lab.peers import KINDS, PEERS
from handover_lab.play import Result, Run, play
from handover_lab.report import OURS, as_json, draw, table, write_document
from handover_lab.world import World, check_round_trip
from lab import Lab, LabError, unavailable


def measure(options: argparse.Namespace, skipped: dict[str, str]) -> list[Result]:
    """Play all that was chosen; the runs of the peers take turns, so that load hits them alike."""
    results: list[Result] = []
    quiet = Lock()
    for name in options.cases:
        case = CASES[name]
        for messages in options.messages:
            rows = {
                peer: Result(name, PEERS[peer].name, messages)
                for peer in options.peers
                if PEERS[peer].name not in skipped
                and messages in PEERS[peer].kinds
                and (PEERS[peer].has_relay or not case.needs_relay)
            }
            counts = {
                peer: options.runs if row.peer == OURS else min(options.runs, options.peer_runs)
                for peer, row in rows.items()
            }
            turns = [peer for n in range(options.runs) for peer in rows if n < counts[peer]]
            with ThreadPoolExecutor(options.jobs) as pool:
                played = [
                    pool.submit(play, case, PEERS[peer], messages, options.timeout, quiet)
                    for peer in turns
                ]
                for peer, future in zip(turns, played, strict=True):
                    _note(rows[peer], f"{name} {messages} {peer}", future)
            results += rows.values()
            if options.plots is not None:
                draw(options.plots, list(rows.values()))
            if options.json is not None:
                options.json.write_text(json.dumps(as_json(results), indent=1) + "\n")
    return results


def _note(row: Result, what: str, future: Future[Run]) -> None:
    """Keep what a run came to, and print it."""
    try:
        run = future.result()
    except LabError as error:
        row.failures.append(str(error))
        print(f"{what}: {error}", file=sys.stderr, flush=True)
        return
    row.runs.append(run)
    took = "never" if run.recovery is None else f"{run.recovery * 1000:.1f} ms"
    print(f"{what}: {took}, {run.lost} lost, {run.wrong} wrong", flush=True)


def tell_round_trip() -> None:
    """Of plain UDP, as the long way may be late on a machine with other load."""
    with Lab() as lab:
        world = World(lab)
        world.arrive(world.mn, world.mn_places[0])
        world.arrive(world.cn, world.cn_places[0])
        times = [each * 1000 for each in check_round_trip(world)]
    middle = statistics.median(times)
    print(f"round trip: {middle:.2f} ms, {min(times):.2f} to {max(times):.2f}", flush=True)


def main() -> None:
    """Measure, and print or keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER")
    parser.add_argument("--messages", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--peer-runs", type=int, default=20, help="at most so many of the others")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds until it is never")
    parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="a drawing of each, SVG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    parser.add_argument(
        "--write", action="store_true", help="docs/handover.md and drawings of ours"
    )
    options = parser.parse_args()
    if reason := unavailable():
        sys.exit(reason)
    reasons = {PEERS[peer].name: PEERS[peer].unavailable() for peer in options.peers}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    tell_round_trip()
    results = measure(options, skipped)
    text = table(results, skipped)
    print(f"\n{text}")
    if options.write:
        write_document(text, results, options)


if __name__ == "__main__":
    main()
