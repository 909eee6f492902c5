"""`ntmpatch events`, at a real door."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

from nodes import Nodes

from ntmpatch.cli.events import line_of
from ntmpatch.cli.exits import EX_UNAVAILABLE
from ntmpatch.cli.main import run_command
from ntmpatch.wire import local

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_it_prints_what_happens_until_the_node_ends(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nodes = Nodes(tmp_path, "control")
    feed = nodes.services["control"].feed
    statuses: list[int] = []
    command = ["events", "peer_gone", "--json", "--state", str(tmp_path)]
    follower = threading.Thread(target=lambda: statuses.append(run_command(command)))
    follower.start()
    output = ""
    deadline = time.monotonic() + 20.0
    while "\n" not in output and time.monotonic() < deadline:  # it may not be following yet
        nodes.thread.post(lambda: feed.tell("path_changed"))
        nodes.thread.post(lambda: feed.tell("peer_gone", "cam.home.example", old="192.0.2.1:7"))
        time.sleep(0.02)
        output += capfd.readouterr().out
    nodes.stop()
    follower.join(20.0)
    assert statuses == [EX_UNAVAILABLE]
    event = json.loads(output.splitlines()[0])
    assert (event["kind"], event["fqdn"]) == ("peer_gone", "cam.home.example")
    assert (event["old"], event["new"], event["relayed"]) == ("192.0.2.1:7", "", False)
    assert "path_changed" not in output


def test_a_line_says_when_what_whose_which_way_and_why() -> None:
    event = local.Event(
        "path_changed", "cam.home.example", "[fd00::1]:7", "192.0.2.1:7 (relay)", True, "why", 0.25
    )
    at, kind, rest = line_of(event).split(maxsplit=2)
    assert at.endswith(".250")
    assert (kind, rest) == (
        "path_changed",
        "cam.home.example  [fd00::1]:7 → 192.0.2.1:7 (relay)  (why)",
    )
