"""Servers that are killed at any moment: what runs goes on, and what is asked ends cleanly.

AS, DC, NS and RS are processes of their own. A program downloads by a tunnel, and a crowd of nodes
has twenty tunnels a second set up, while one server after another dies by SIGKILL and comes back,
and at last all of them at once. ``NTMPATCH_KILLS=50`` makes it that many deaths, in random order.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from server_processes import NTMPATCH, ROLES, ServerProcesses, clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).parent / "programs"
RATE = 20.0
CROWD = 30
KILLS = int(os.environ.get("NTMPATCH_KILLS", "0"))
PAUSE = 1.0
"""Seconds for which a server is away, and then for which all are there."""

pytestmark = pytest.mark.once


class Lines:
    """The lines of JSON that a process prints, as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.records: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.records.append(json.loads(line))
                self._changed.notify_all()

    def wait_for(self, count: int, timeout: float = 60.0) -> None:
        """Until there are so many lines."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.records) >= count, timeout):
                raise AssertionError(f"{len(self.records)} lines of {count} after {timeout} s")

    def wait_until_up_since(self, instant: float, timeout: float = 30.0) -> None:
        """Until a set-up that began after ``instant`` has succeeded."""

        def is_up() -> bool:
            return any(
                record.get("outcome") == "up" and record["at"] > instant for record in self.records
            )

        with self._changed:
            if not self._changed.wait_for(is_up, timeout):
                raise AssertionError(f"no tunnel was set up in {timeout} s")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[ServerProcesses]:
    processes = ServerProcesses(tmp_path)
    try:
        processes.start()
        yield processes
    finally:
        processes.close()


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of the test, which end with it."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def start(started: list[subprocess.Popen[str]], *command: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    started.append(process)
    return process


def test_no_death_of_a_server_ends_what_runs_or_confuses_what_is_asked(
    servers: ServerProcesses, started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    tokens = servers.tokens(["cam", "desk", *(f"n{number}" for number in range(CROWD))])
    stream = str(PROGRAMS / "stream.py")

    def run(number: int, *arguments: str) -> Lines:
        state = str(tmp_path / f"node-{number}")
        token = tokens[number]
        command = [*NTMPATCH, "run", "--token", token, "--state", state, stream, *arguments]
        return Lines(start(started, *command))

    run(0, "serve").wait_for(1)
    sink = run(1, "read", f"cam.{servers.domain}")
    sink.wait_for(3)

    process = start(started, sys.executable, str(PROGRAMS / "crowd.py"), str(RATE))
    assert process.stdin is not None
    process.stdin.write("\n".join(tokens[2:]) + "\n\n")
    process.stdin.flush()
    crowd = Lines(process)
    crowd.wait_for(1 + int(RATE))

    rng = random.Random(KILLS)
    groups = [(rng.choice(ROLES),) for _ in range(KILLS)] or [(role,) for role in ROLES]
    away: list[tuple[tuple[str, ...], float, float]] = []
    for roles in [*groups, ROLES]:
        before = len(sink.records)
        died_at = time.monotonic()
        for role in roles:
            servers.kill(role)
        time.sleep(PAUSE)
        servers.start(roles)
        crowd.wait_until_up_since(time.monotonic())
        away.append((roles, died_at, time.monotonic()))
        sink.wait_for(before + 3)
        time.sleep(PAUSE)
    crowd.wait_for(len(crowd.records) + int(RATE))

    assert not any("error" in record for record in sink.records), sink.records[-1]
    set_ups = crowd.records[1:]
    # A set-up that was asked for while the DC was away may be told to try again. No name is ever
    # unknown, no look-up goes without its answer, and no other server is needed at all.
    failed = [record for record in set_ups if record["outcome"] != "up"]
    assert {record["outcome"] for record in failed} <= {"TryAgain"}, failed
    for record in failed:
        assert any(
            "dc" in roles and record["at"] < back_at and died_at < record["at"] + record["took"]
            for roles, died_at, back_at in away
        ), (record, away)
    last = [record for record in set_ups if record["at"] > away[-1][2] + PAUSE / 2]
    assert last
    assert {record["outcome"] for record in last} == {"up"}
