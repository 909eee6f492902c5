"""Fuzz every decoder of bytes from outside: ``python tests/fuzz/fuzz_decoders.py -n 10000000``.

Valid samples of every type are damaged (tests/support/decoder_fuzz.py tells how) and played, by
seed, in as many processes as ``--jobs`` says. At the end it prints how many inputs there were, how
many a second, and what became of them by name. A finding prints the command that replays it.

``--atheris SECONDS`` lets coverage guide the choice of inputs instead; it needs atheris
(``pip install '.[fuzz]'``, on CPython 3.11).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent / "support"), str(ROOT)]

BLOCK = 25_000
"""Inputs of one seed: then the targets begin anew."""


def play_block(
    arguments: tuple[int, int, tuple[str, ...]],
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """``count`` inputs of a seed; their outcomes, and what was found."""
    seed, count, names = arguments
    from decoder_fuzz import fuzz  # noqa: PLC0415 (in the child only)
    from decoder_targets import all_targets  # noqa: PLC0415

    targets = [target for target in all_targets() if not names or target.name in names]
    return fuzz(targets, count, seed)


def run(count: int, seed: int, jobs: int, names: tuple[str, ...]) -> int:
    """Play ``count`` inputs and print the report; the number of findings."""
    blocks = [(seed + at, min(BLOCK, count - at), names) for at in range(0, count, BLOCK)]
    counts: Counter[tuple[str, str]] = Counter()
    findings: list[str] = []
    began_at = time.monotonic()
    # Spawned: a fork would carry the hub of the first process along.
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=20) as pool:
        try:
            for done, found in pool.imap_unordered(play_block, blocks):
                counts += done
                findings += found
                for finding in found:
                    print(f"Found: {finding}", flush=True)
                if sys.stderr.isatty():
                    print(f"\r{counts.total():,} inputs", end="", file=sys.stderr)
        except KeyboardInterrupt:
            print("Interrupted; so far:")
    elapsed = time.monotonic() - began_at
    report(counts, elapsed)
    print(f"{len(findings)} findings")
    return len(findings)


def report(counts: Counter[tuple[str, str]], elapsed: float) -> None:
    """What became of the inputs, by target."""
    for name in sorted({name for name, _ in counts}):
        outcomes = Counter({what: n for (target, what), n in counts.items() if target == name})
        print(f"{name}: {outcomes.total():,}")
        for what, number in outcomes.most_common():
            print(f"    {number:>10,}  {what}")
    total = counts.total()
    print(f"{total:,} inputs in {elapsed:.0f} s, {total / max(elapsed, 0.001):,.0f} a second")


def replay(name: str, data: str) -> int:
    """One input, with the traceback of what it finds."""
    from decoder_targets import all_targets  # noqa: PLC0415

    (target,) = [target for target in all_targets() if target.name == name]
    print(target.play(bytes.fromhex(data)))
    return 0


def guided(seconds: int, corpus: Path) -> None:
    """Let coverage guide: the first byte of an input says which target it is for. Ends itself."""
    import atheris  # noqa: PLC0415 (only here it is needed)

    with atheris.instrument_imports(include=["ntmpatch.wire", "ntmpatch.crypto", "ntmpatch.base"]):
        from decoder_targets import all_targets  # noqa: PLC0415
    import random  # noqa: PLC0415

    targets = all_targets()
    corpus.mkdir(parents=True, exist_ok=True)
    for number, target in enumerate(targets):
        for seed in range(8):
            sample = bytes((number,)) + target.make(random.Random(seed))
            (corpus / f"seed-{number:02}-{seed}").write_bytes(sample)

    def play(data: bytes) -> None:
        if data:
            targets[data[0] % len(targets)].play(data[1:])

    options = [f"-max_total_time={seconds}", "-max_len=1500", str(corpus)]
    atheris.Setup([sys.argv[0], *options], play)
    atheris.Fuzz()


def main() -> int:
    """1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("-n", "--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", action="append", default=[], metavar="TARGET")
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "HEX"))
    parser.add_argument("--atheris", type=int, default=0, metavar="SECONDS")
    parser.add_argument("--corpus", type=Path, default=ROOT / ".fuzz" / "decoders")
    options = parser.parse_args()
    if options.replay:
        return replay(*options.replay)
    if options.atheris:
        guided(options.atheris, options.corpus)
    return min(1, run(options.inputs, options.seed, options.jobs, tuple(options.only)))


if __name__ == "__main__":
    sys.exit(main())
