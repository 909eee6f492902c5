"""Play many seeds of the stack's simulator: ``python tests/simulate.py 2000``.

A failure prints its seed and what stood where; ``--only SEED`` replays it, ``--trace`` with every
packet.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))

from stack_seeds import Story

from ntmpatch.wire import ip, tcp

MAX_FAILURES = 10
_CHUNK = 20


def play(seed: int) -> str | None:
    """What went wrong under ``seed``, or None."""
    try:
        Story(seed).run()
    except Exception:
        return traceback.format_exc(limit=-6)
    return None


def _play_many(seeds: range) -> list[tuple[int, str | None]]:
    return [(seed, play(seed)) for seed in seeds]


def replay(seed: int, *, trace: bool) -> int:
    """One seed alone; 1 if it fails."""
    story = Story(seed)
    story.sim.records = trace
    try:
        story.run()
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        for at, sender, packet in story.sim.wire:
            print(f"{at:12.6f} {sender} {describe(packet)}")
    print(f"seed {seed}: fine")
    return 0


def describe(packet: bytes) -> str:
    """One line of a packet."""
    parsed = ip.parse_untrusted(memoryview(packet))
    if parsed.protocol != ip.TCP or parsed.is_fragment:
        return f"protocol {parsed.protocol}, {len(packet)} bytes"
    seg = tcp.parse_untrusted(parsed.payload)
    names = "".join(
        letter for bit, letter in zip(range(8), "FSRPAUEC", strict=True) if seg.flags >> bit & 1
    )
    return (
        f"{seg.source_port}>{seg.destination_port} {names} seq {seg.seq} ack {seg.ack} "
        f"size {seg.size} window {seg.window} sack {list(seg.options.sack)}"
    )


def main() -> int:
    """The exit status: 0 if all seeds are fine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=2000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--only", type=int, metavar="SEED", help="replay one")
    parser.add_argument("--trace", action="store_true", help="with its packets")
    options = parser.parse_args()
    if options.only is not None:
        return replay(options.only, trace=options.trace)
    began_at = time.monotonic()
    end = options.first + options.count
    chunks = [range(at, min(at + _CHUNK, end)) for at in range(options.first, end, _CHUNK)]
    done = 0
    failures: list[int] = []
    with multiprocessing.Pool(options.jobs) as pool:
        for results in pool.imap_unordered(_play_many, chunks):
            done += len(results)
            for seed, failure in results:
                if failure is not None:
                    failures.append(seed)
                    print(f"seed {seed} failed; python tests/simulate.py --only {seed} --trace")
                    print(failure, flush=True)
            if len(failures) >= MAX_FAILURES:
                break
    elapsed = time.monotonic() - began_at
    print(f"{done} seeds in {elapsed:.1f} s, {done / elapsed:.0f} a second, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
