"""Processes forked by a server share its listener and its node, and may die at any time."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_programs import SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab import Process
    from lab_programs import Pair

pytestmark = [pytest.mark.lab, pytest.mark.once, pytest.mark.timeout(300)]

WORKERS = 4
REQUESTS = 5_000
AT_ONCE = 50
LOAD_TIMEOUT = 120.0


@dataclass(frozen=True)
class Site:
    """A gunicorn whose master keeps the node."""

    master: Process
    name: str
    port: int

    def load(self, pair: Pair) -> Process:
        """Begin to ask it from node ``b``."""
        words = ("load.py", self.name, self.port, REQUESTS, AT_ONCE)
        return pair["b"].begin(*map(str, words))

    def workers(self) -> list[int]:
        """Their pids, as seen outside the lab."""
        pid = self.master.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gunicorn(port: int) -> tuple[str | Path, ...]:
    """Its command line."""
    options = ("--workers", str(WORKERS), "--bind", f"0.0.0.0:{port}")
    return (SCRIPTS / "gunicorn", *options, "web_wsgi:app")


@pytest.fixture(scope="module")
def site(programs_lab: Pair) -> Iterator[Site]:
    residence = programs_lab.another("a", "site", port=4470)
    port = residence.port()
    with residence.serving("Booting worker", *gunicorn(port)) as master:
        residence.node.wait_until_registered()
        yield Site(master, residence.name, port)


def test_5000_requests_50_at_once_are_all_answered(pair: Pair, site: Site) -> None:
    result = json.loads(site.load(pair).check(LOAD_TIMEOUT).splitlines()[-1])
    assert result["failed"] == {}
    assert result["answered"] == REQUESTS
    assert len(result["pids"]) == WORKERS, "some workers were never asked"


def test_killed_workers_cost_at_most_their_own_requests(pair: Pair, site: Site) -> None:
    client = site.load(pair)
    for quarter in range(1, 4):
        client.wait_for(f"quarter {quarter}", LOAD_TIMEOUT)
        os.kill(site.workers()[0], signal.SIGKILL)
    result = json.loads(client.check(LOAD_TIMEOUT).splitlines()[-1])
    # A worker of this kind has one request at a time, and three were killed.
    assert len(result["failed"]) <= 3
    assert result["answered"] + len(result["failed"]) == REQUESTS
    assert len(result["pids"]) == WORKERS + 3, "not all were replaced"


def test_upgraded_server_loses_no_request(pair: Pair) -> None:
    """gunicorn executes itself anew with its listener; the node, kept by another process, stays."""
    port = pair["a"].port()
    with pair["a"].serving("Booting worker", *gunicorn(port)) as master:
        client = Site(master, pair["a"].name, port).load(pair)
        client.wait_for("quarter 1", LOAD_TIMEOUT)
        master.send_signal(signal.SIGUSR2)
        client.wait_for("quarter 2", LOAD_TIMEOUT)
        master.send_signal(signal.SIGTERM)
        result = json.loads(client.check(LOAD_TIMEOUT).splitlines()[-1])
        assert result["failed"] == {}
        assert result["answered"] == REQUESTS
        assert len(result["pids"]) == 2 * WORKERS
        master.wait_for("Master has been promoted")
