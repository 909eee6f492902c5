"""NTMPATCH_REQUIRE_ALL=1 turns every kind of skip into a failure."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPING = """
import pytest

def test_by_call():
    pytest.skip("no lab here")

@pytest.mark.skipif(True, reason="not today")
def test_by_mark():
    pass

@pytest.fixture
def missing():
    pytest.skip("nothing to give")

def test_by_fixture(missing):
    pass

@pytest.mark.xfail(reason="known")
def test_expected_to_fail():
    assert False

def test_that_passes():
    pass
"""


@pytest.mark.parametrize(
    ("require_all", "outcome"),
    [
        ("0", {"passed": 1, "skipped": 4, "xfailed": 1}),
        # A skip at set-up, or of a whole module, counts as an error.
        ("1", {"passed": 1, "failed": 1, "errors": 3, "xfailed": 1}),
    ],
)
def test_skips_are_failures_when_all_is_required(
    tmp_path: Path, require_all: str, outcome: dict[str, int]
) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    (tmp_path / "test_absent.py").write_text("import pytest\npytest.importorskip('no_such_module')")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--continue-on-collection-errors", tmp_path],
        env={**os.environ, "NTMPATCH_REQUIRE_ALL": require_all},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    summary = run.stdout.splitlines()[-1]
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) ([a-z]+)", summary)}
    counts.pop("warnings", None)
    assert {("errors" if kind == "error" else kind): n for kind, n in counts.items()} == outcome
    assert ("forbids this skip: Skipped: nothing to give" in run.stdout) is (require_all == "1")
