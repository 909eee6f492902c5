"""Play many seeds of nodes that move: ``python tests/simulate_mobility.py 1000 --jobs 2``.

A failure prints its seed; ``1 --seed SEED --story`` replays it and tells what happened. At the
end there are percentiles of how long each kind of event kept a pair from talking.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))

from mobility_story import BOUNDS, Recovery, Story

MAX_FAILURES = 40
_CHUNK = 5


def play(seed: int) -> tuple[list[Recovery], str | None]:
    """What was measured under ``seed``, and what went wrong, if anything did."""
    story = Story(seed)
    try:
        story.run()
    except Exception:
        return story.recoveries, traceback.format_exc(limit=-4)
    return story.recoveries, None


def _play_many(seeds: range) -> list[tuple[int, list[Recovery], str | None]]:
    return [(seed, *play(seed)) for seed in seeds]


def replay(seed: int) -> int:
    """One seed alone, as a story; 1 if it fails."""
    story = Story(seed, records=True)
    try:
        story.run()
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        for at, who, what in story.world.said:
            print(f"{at:12.6f} {who:24} {what}")
    print(f"seed {seed}: fine")
    return 0


def report(recoveries: list[Recovery]) -> None:
    """Percentiles by kind of event."""
    by_kind: dict[str, list[Recovery]] = defaultdict(list)
    for recovery in recoveries:
        by_kind[recovery.kind].append(recovery)
    print(f"{'seconds until both talk':24}{'count':>7}", end="")
    print("".join(f"{name:>8}" for name in ("p50", "p90", "p99", "p99.9", "max", "bound")), end="")
    print(f"{'changes':>9}{'direct of possible':>20}{'slowest seed':>14}")
    for kind, found in sorted(by_kind.items()):
        seconds = sorted(recovery.seconds for recovery in found)
        shares = [seconds[min(int(p * len(seconds)), len(seconds) - 1)] for p in _SHARES]
        figures = [*shares, seconds[-1], BOUNDS[kind]]
        possible = [recovery for recovery in found if recovery.could_be_direct]
        direct = sum(recovery.is_direct for recovery in possible)
        share = f"{100 * direct / len(possible):.1f} %" if possible else "-"
        print(f"{kind:24}{len(found):7}", end="")
        print("".join(f"{figure:8.3f}" for figure in figures), end="")
        slowest = max(found, key=lambda recovery: recovery.seconds).seed
        print(f"{max(recovery.changes for recovery in found):9}{share:>20}{slowest:>14}")


_SHARES = (0.5, 0.9, 0.99, 0.999)


def main() -> int:
    """The exit status: 0 if all seeds are fine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=1000, help="how many seeds")
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--story", action="store_true", help="tell the first seed's story alone")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if options.story:
        return replay(options.seed)
    began_at = time.monotonic()
    end = options.seed + options.count
    chunks = [range(at, min(at + _CHUNK, end)) for at in range(options.seed, end, _CHUNK)]
    done = 0
    failures: list[int] = []
    recoveries: list[Recovery] = []
    with multiprocessing.Pool(options.jobs) as pool:
        for results in pool.imap_unordered(_play_many, chunks):
            done += len(results)
            for seed, measured, failure in results:
                recoveries += measured
                if failure is not None:
                    failures.append(seed)
                    print(f"seed {seed}: python tests/simulate_mobility.py --seed {seed} --story")
                    print(failure, flush=True)
            if len(failures) >= MAX_FAILURES:
                break
    elapsed = time.monotonic() - began_at
    report(recoveries)
    print(f"{done} seeds in {elapsed:.1f} s, {done / elapsed:.1f} a second, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
