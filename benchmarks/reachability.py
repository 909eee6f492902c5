"""Who reaches whom, and how: every kind of access network against every other.

    python benchmarks/reachability.py --jobs 3                 all 121 cells: some 25 minutes
    python benchmarks/reachability.py --kinds no-nat symmetric      and those four cells alone
    python benchmarks/reachability.py --pairs symmetric:port-restricted
    python benchmarks/reachability.py --write                  and write docs/reachability.md

The first of a pair calls the second by name. Each run has networks of its own, in namespaces, with
four servers and two nodes that know nothing of each other before. Needs Linux with user namespaces
(or root), ``ip`` and ``nft``. Each cell is played once, and those that only port probing makes
direct 20 times. The exit status is 1 if a cell did not connect, or was not direct as
often as RFC 4787 lets it (by port probing: in 95 % of runs).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from lab import unavailable
from lab_access import Access, Directness
from reachability_lab.cell import Cell, Run, play
from reachability_lab.report import as_json, findings, table, write_document

KINDS = {access.name.lower().replace("_", "-"): access for access in Access}


def pair(text: str) -> Cell:
    """CALLER:CALLED, by names of kinds."""
    caller, colon, called = text.partition(":")
    if not colon or caller not in KINDS or called not in KINDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND:KIND, of {', '.join(KINDS)}")
    return Cell(KINDS[caller], KINDS[called])


def natural(text: str) -> int:
    """A number of at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def measure(counts: dict[Cell, int], jobs: int, patience: float) -> dict[Cell, list[Run]]:
    """Play each cell so often, some at the same time; what is found is printed as it comes."""
    results: dict[Cell, list[Run]] = {cell: [] for cell in counts}
    turns = [cell for n in range(max(counts.values())) for cell in counts if n < counts[cell]]
    with ThreadPoolExecutor(jobs) as pool:
        played = pool.map(lambda cell: play(cell, patience), turns)
        for cell, run in zip(turns, played, strict=True):
            results[cell].append(run)
            print(f"{cell}: {run}", flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    chosen.add_argument("--pairs", nargs="+", type=pair, metavar="KIND:KIND")
    parser.add_argument("--runs", type=natural, default=1)
    parser.add_argument(
        "--probing-runs",
        type=natural,
        default=20,
        help="at least so many of each cell that is direct by port probing alone",
    )
    parser.add_argument("--jobs", type=natural, default=1, help="cells at the same time")
    parser.add_argument(
        "--patience", type=float, default=15.0, help="seconds that a cell has to become direct"
    )
    parser.add_argument("--json", type=Path, help="write the figures of every run there")
    parser.add_argument("--write", action="store_true", help="write docs/reachability.md and .json")
    options = parser.parse_args()
    if reason := unavailable():
        parser.error(reason)
    kinds = [KINDS[name] for name in options.kinds]
    cells = options.pairs or [Cell(*each) for each in itertools.product(kinds, repeat=2)]
    counts = dict.fromkeys(cells, options.runs)
    for cell in cells:
        if cell.allowed is Directness.BY_PROBING:
            counts[cell] = max(options.runs, options.probing_runs)
    results = measure(counts, options.jobs, options.patience)
    problems = findings(results)
    print(f"\n{table(results)}\n\n{problems or 'Each cell is as RFC 4787 allows.'}")
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(results), indent=1) + "\n")
    if options.write:
        write_document(results, options.patience)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
