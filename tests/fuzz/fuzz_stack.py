"""Fuzz the stack, guided by coverage: ``python tests/fuzz/fuzz_stack.py -max_total_time=60``.

Options of libFuzzer pass through; behind them may come one input, which is replayed. The corpus
grows in ``--corpus`` from inputs that the program makes itself. At the end it prints what was done,
with ``--report`` also which lines the corpus reaches. Needs atheris (``pip install '.[fuzz]'``, on
CPython 3.11); replaying and ``--report`` with ``--only-report`` do not.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(ROOT)]

from line_coverage import lines_of, lines_run  # noqa: E402 (behind the path)

REPLAY = "PYTHONHASHSEED=0 python tests/fuzz/fuzz_stack.py --replay"
MAX_SIZE = 1500
"""Bytes of an input."""
SLOWEST = 5
"""Seconds for one input; libFuzzer calls more a finding."""
MEASURED = ("packet/stack", "wire")
_NOT_OF_THE_STACK = {"control.py", "control_messages.py", "local.py", "relay.py", "wireguard.py"}


def fuzz(arguments: list[str]) -> None:
    """The child: never returns."""
    import atheris  # noqa: PLC0415 (only here it is needed)

    with atheris.instrument_imports(include=["ntmpatch.packet", "ntmpatch.wire"]):
        import stack_fuzz  # noqa: PLC0415
    atheris.Setup([sys.argv[0], *arguments], stack_fuzz.play)
    atheris.Fuzz()


def sow(corpus: Path) -> None:
    """Inputs to begin with: each first byte opens other connections."""
    corpus.mkdir(parents=True, exist_ok=True)
    for first in range(128):
        rng = random.Random(first)
        data = bytes([first]) + rng.randbytes(rng.choice((20, 100, 400)))
        (corpus / f"seed-{first:03}").write_bytes(data)


def replay(path: Path) -> int:
    """One input, with the traceback of what it finds."""
    from stack_fuzz import play  # noqa: PLC0415

    play(path.read_bytes())
    print(f"{path}: fine")
    return 0


def report(corpus: Path) -> None:
    """How much of the stack the corpus reaches, by file, with the lines that it does not."""
    sources = [path for part in MEASURED for path in (ROOT / "ntmpatch" / part).rglob("*.py")]
    files = sorted(path for path in sources if path.name not in _NOT_OF_THE_STACK)
    inputs = sorted(corpus.iterdir())

    def play_all() -> None:
        from stack_fuzz import play  # noqa: PLC0415

        for path in inputs:
            play(path.read_bytes())

    run = lines_run(play_all, files)
    reached = possible = 0
    for path in files:
        lines = lines_of(path)
        missing = sorted(lines - run[path])
        reached += len(lines) - len(missing)
        possible += len(lines)
        if lines:
            share = 100 * (len(lines) - len(missing)) / len(lines)
            name = path.relative_to(ROOT / "ntmpatch")
            print(f"{share:5.1f} %  {name}  {' '.join(map(str, missing))}".rstrip())
    print(f"{100 * reached / possible:.1f} % of {possible} lines, by {len(inputs)} inputs")


def run_child(corpus: Path, artifacts: Path, options: list[str]) -> int:
    """Fuzz in a process of its own, since libFuzzer ends the process; then say what was done."""
    artifacts.mkdir(parents=True, exist_ok=True)
    known = set(artifacts.iterdir())
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--child",
        f"-max_len={MAX_SIZE}",
        f"-timeout={SLOWEST}",
        f"-artifact_prefix={artifacts}/",
        *options,
        str(corpus),
    ]
    began_at = time.monotonic()
    done = last = ""
    # SO_REUSEPORT chooses by hash: the same in every process, so that a finding can be replayed.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as child:
        assert child.stderr is not None
        for line in child.stderr:
            print(line, end="", file=sys.stderr)
            if line.startswith("#"):
                last = line.strip()
            elif line.startswith("Done "):
                done = line.strip()
    elapsed = time.monotonic() - began_at
    print(f"{done or 'Cut short'}; {elapsed:.0f} s in all; last: {last}")
    for found in sorted(set(artifacts.iterdir()) - known):
        print(f"Found: {found}; {REPLAY} {found}")
    return child.returncode


def main() -> int:
    """The exit status: that of libFuzzer, which is not 0 after a finding."""
    if sys.argv[1:2] == ["--child"]:
        fuzz(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--corpus", type=Path, default=ROOT / ".fuzz" / "corpus")
    parser.add_argument("--artifacts", type=Path, default=ROOT / ".fuzz" / "found")
    parser.add_argument("--report", action="store_true", help="the lines that the corpus reaches")
    parser.add_argument("--only-report", action="store_true", help="and do not fuzz")
    parser.add_argument("--replay", type=Path, metavar="INPUT", help="play one input")
    options, of_libfuzzer = parser.parse_known_args()
    if options.replay is not None:
        return replay(options.replay)
    sow(options.corpus)
    status = 0
    if not options.only_report:
        status = run_child(options.corpus, options.artifacts, of_libfuzzer)
    if options.report or options.only_report:
        report(options.corpus)
    return status


if __name__ == "__main__":
    sys.exit(main())
