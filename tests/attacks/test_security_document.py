"""docs/security.md: every test that it names exists, and every number is the code's."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))
VALUES = re.findall(r"`(ntmpatch[\w.]+)` = ([\d.]+) (s|min|h|d)\b", TEXT)
SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def test_every_test_that_is_named_exists() -> None:
    assert len(NAMED) > 30
    missing = [
        f"{file}::{name}"
        for file, name in NAMED
        if not re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
    ]
    assert not missing


def test_every_line_that_says_what_somebody_cannot_do_names_a_test() -> None:
    tables = re.findall(r"^\|.*cannot \| shown by \|\n\|[-|]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert len(tables) >= 5
    for row in "".join(tables).splitlines():
        assert re.search(r"`tests/[\w/]+\.py::\w+` \|$", row), row


def test_every_file_of_attacks_is_named() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in Path(__file__).parent.glob("test_*.py")}
    named = {file for file, _ in NAMED} | {Path(__file__).relative_to(ROOT).as_posix()}
    assert files <= named


@pytest.mark.parametrize(("path", "number", "unit"), VALUES, ids=[path for path, _, _ in VALUES])
def test_a_time_is_what_the_code_has(path: str, number: str, unit: str) -> None:
    module, _, name = path.rpartition(".")
    try:
        value = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError:  # a field of a class with defaults
        module, _, kind = module.rpartition(".")
        value = getattr(getattr(importlib.import_module(module), kind)(), name)
    assert value == float(number) * SECONDS[unit]
