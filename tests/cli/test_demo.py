"""The demo as a user runs it: to success, to failure, and interrupted; it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytestmark = pytest.mark.once

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO = [sys.executable, "-m", "ntmpatch", "demo"]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the demo's files go, and are to be gone from. Its path is short: sockets lie below."""
    with tempfile.TemporaryDirectory(prefix="d-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
def environment(directory: Path) -> dict[str, str]:
    """The environment of the demo."""
    return {**os.environ, "TMPDIR": str(directory)}


def processes_of(directory: Path) -> list[tuple[int, str]]:
    """Pid and command line of each process that was told of ``directory``."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            told = words.encode() + (entry / "environ").read_bytes()
        except (OSError, UnicodeDecodeError):
            continue
        if entry.name.isdigit() and f"{directory}/ntmpatch-demo-".encode() in told:
            found.append((int(entry.name), words))
    return found


def test_the_demo_succeeds_moves_and_leaves_nothing(
    environment: dict[str, str], directory: Path
) -> None:
    started_at = time.monotonic()
    result = subprocess.run(
        [*DEMO, "--json"], env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert result.stderr == ""
    assert result.returncode == 0
    facts = json.loads(result.stdout)
    assert facts["ok"] is True
    assert facts["moved_from"] != facts["moved_to"]
    assert 0 < facts["moved_at_size"] < facts["received_size"]
    steps = [(step["figure"], int(step["number"])) for step in facts["steps"]]
    # All of Fig. 3. MN's side is in the paper's order; the sides of MN and CN overlap.
    assert {number for figure, number in steps if figure == "3"} == set(range(1, 22))
    # (15) and (16) are of two exchanges that may overtake each other.
    of_mn = [n for figure, n in steps if figure == "3" and n in {1, 2, 3, 15, 16, 19, 21}]
    assert of_mn[:3] + sorted(of_mn[3:5]) + of_mn[5:] == [1, 2, 3, 15, 16, 19, 21]
    assert {("5", n) for n in range(1, 9)} <= set(steps)
    assert not processes_of(directory)
    assert list(directory.iterdir()) == []
    assert time.monotonic() - started_at < 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(
    environment: dict[str, str], directory: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(DEMO, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("Downloading"):
                break
        assert len(processes_of(directory)) >= 3
        demo.send_signal(number)
        assert demo.wait(30) == 130
    assert not processes_of(directory)
    assert list(directory.iterdir()) == []


def test_a_part_that_dies_fails_the_demo_in_one_line(
    environment: dict[str, str], directory: Path
) -> None:
    with subprocess.Popen(
        DEMO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("Downloading"):
                break
        (download,) = [pid for pid, words in processes_of(directory) if "download.py" in words]
        os.kill(download, signal.SIGKILL)
        _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert errors.startswith("ntmpatch: download ended")
    assert errors.count("\n") == 1
    assert not processes_of(directory)
    assert list(directory.iterdir()) == []


def test_a_path_too_long_for_sockets_is_said(environment: dict[str, str], directory: Path) -> None:
    deep = directory / ("x" * 90)
    deep.mkdir()
    result = subprocess.run(
        DEMO,
        env=environment | {"TMPDIR": str(deep)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == os.EX_CANTCREAT
    assert "TMPDIR" in result.stderr
    assert list(deep.iterdir()) == []
