"""Run CPython's own tests on our sockets and hold every failure against the reasons that we know.

``python tests/cpython/report.py [MODULE …]`` runs each module twice: patched but on ordinary
addresses, where nothing may fail that does not fail unpatched, and moved to virtual addresses,
where what fails must have a reason in ``reasons.toml``. With ``--write`` the table of this version
of Python goes into ``docs/cpython.md``. Needs the interpreter's own ``test`` package.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import fnmatch
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parents[1] / "docs" / "cpython.md"
MODULES = (
    "test_asyncio",
    "test_ftplib",
    "test_httplib",
    "test_selectors",
    "test_smtplib",
    "test_socket",
    "test_socketserver",
    "test_ssl",
    "test_telnetlib",
    "test_urllib2_localnet",
    "test_xmlrpc",
)
LIMIT = 900
"""Seconds for one module."""
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


@dataclass(frozen=True)
class Reason:
    """Why some tests fail on virtual addresses; ``tests`` are patterns of their names."""

    why: str
    tests: tuple[str, ...]
    may_pass: bool = False
    """It depends on who is faster."""

    @property
    def words(self) -> str:
        return f"{self.why} Not every time." if self.may_pass else self.why

    def covers(self, test: str) -> bool:
        return any(fnmatch.fnmatchcase(test, pattern) for pattern in self.tests)


def known_reasons() -> list[Reason]:
    with open(HERE / "reasons.toml", "rb") as file:
        entries = tomllib.load(file)["reason"]
    return [
        Reason(each["why"], tuple(each["tests"]), each.get("may_pass", False)) for each in entries
    ]


Outcomes = dict[str, tuple[str, str]]


def run(module: str, mode: str, *only: str) -> Outcomes:
    """What became of each test: (passed, failed or skipped; why)."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "report.json"
        command = [sys.executable, HERE / "suite.py", f"test.{module}", *only]
        done = subprocess.run(
            [*command, "--mode", mode, "--report", path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT,
            check=False,
        )
        if done.returncode or not path.exists():
            return {f"test.{module}": ("failed", f"ended early:\n{done.stderr[-3000:]}")}
        outcomes: Outcomes = {
            test: tuple(outcome)
            for test, outcome in json.loads(path.read_text(encoding="utf-8")).items()
        }
        return outcomes


def failures(outcomes: Outcomes) -> dict[str, str]:
    return {test: why for test, (outcome, why) in outcomes.items() if outcome == "failed"}


def failing_unpatched(module: str, tests: set[str]) -> set[str]:
    """Those of ``tests`` that fail on this machine without us as well."""
    if not tests:
        return set()
    names = [test.removeprefix(f"test.{module}.") for test in tests if "(" not in test]
    return tests & failures(run(module, "plain", *names)).keys()


@dataclass
class Row:
    """One module's line of the table."""

    module: str
    patched: Outcomes
    moved: Outcomes
    excused: set[str]
    """Fail unpatched too."""

    def count(self, outcome: str) -> int:
        return sum(each[0] == outcome for each in self.moved.values())

    def line(self) -> str:
        patched = len(failures(self.patched).keys() - self.excused)
        excused = len(failures(self.moved).keys() & self.excused)
        failed = self.count("failed") - excused
        ran = len(self.moved) - self.count("skipped")
        counts = (ran, self.count("passed"), failed, excused, self.count("skipped"))
        return f"| {self.module} | {patched} | {' | '.join(map(str, counts))} |"


def measure(module: str) -> Row:
    patched, moved = run(module, "patched"), run(module, "virtual")
    excused = failing_unpatched(module, {*failures(patched), *failures(moved)})
    return Row(module, patched, moved, excused)


def judge(rows: list[Row], reasons: list[Reason]) -> tuple[dict[str, list[str]], list[str]]:
    """Failures on virtual addresses by reason, and words about each that has none."""
    explained: dict[str, list[str]] = {}
    unexplained: list[str] = []
    for row in rows:
        for test, why in failures(row.patched).items():
            if test not in row.excused:
                unexplained.append(f"{test}, patched on ordinary addresses:\n{why}")
        for test, why in failures(row.moved).items():
            if test in row.excused:
                continue
            reason = next((each for each in reasons if each.covers(test)), None)
            if reason is None:
                unexplained.append(f"{test}, on virtual addresses:\n{why}")
            else:
                explained.setdefault(reason.words, []).append(test)
    return explained, unexplained


HEADING = f"## Python {VERSION}\n"
COLUMNS = """\
| module | failed, ordinary addresses | run, virtual addresses | passed | failed | fail unpatched \
too | skipped |
|---|---|---|---|---|---|---|
"""


def section(rows: list[Row], explained: dict[str, list[str]]) -> str:
    """This version's part of the document."""
    text = HEADING + "\n" + COLUMNS + "\n".join(row.line() for row in rows) + "\n"
    for why, tests in sorted(explained.items()):
        classes = Counter(_class_of(test) for test in tests)
        listed = "\n".join(f"- {name}: {count}" for name, count in sorted(classes.items()))
        text += f"\n{len(tests)} failed: {why}\n\n{listed}\n"
    return text


def _class_of(test: str) -> str:
    """Module and class; one that fails alone with its own name."""
    *path, name = test.removeprefix("test.").split(".")
    return f"`{'.'.join(path)}`" if len(path) > 1 else f"`{'.'.join([*path, name])}`"


def write(text: str) -> None:
    """Put this version's part in its place."""
    head, *parts = re.split(r"(?m)^(?=## Python )", DOCUMENT.read_text(encoding="utf-8"))
    others = [part.strip() + "\n" for part in parts if not part.startswith(HEADING)]
    DOCUMENT.write_text("\n".join([head.rstrip() + "\n", *sorted([*others, text])]), "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("modules", nargs="*", default=MODULES)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the table into docs/cpython.md")
    options = parser.parse_args()
    present = [module for module in options.modules if find_spec(f"test.{module}")]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(measure, present))
    reasons = known_reasons()
    explained, unexplained = judge(rows, reasons)
    print(section(rows, explained))
    if options.write:
        write(section(rows, explained))
    for words in unexplained:
        print(f"UNEXPLAINED {words}\n", file=sys.stderr)
    print(f"{sum(row.count('passed') for row in rows)} passed, {len(unexplained)} failed")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
