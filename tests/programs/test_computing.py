"""A program that computes and computes loses no tunnel and no connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from lab_programs import checks_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab_programs import Pair

pytestmark = [pytest.mark.lab, pytest.mark.once]

SECONDS = 10.0
SERVERS = {"dc.lab.example", "ns.lab.example"}
SLACK = 0.5
"""Seconds by which two readings of one instant may differ: they are taken by two commands."""


def handshakes(facts: Mapping[str, Any]) -> dict[str, float]:
    """When each tunnel had its last handshake, in seconds since its node began."""
    return {
        peer["name"]: facts["uptime_seconds"] - peer["last_handshake_seconds"]
        for peer in facts["peers"]
        if peer["last_handshake_seconds"] is not None
    }


@pytest.mark.parametrize("threads", ["native", "gevent"])
def test_tunnels_and_connections_outlive_a_thread_that_computes(pair: Pair, threads: str) -> None:
    """Under gevent nothing else of the program runs meanwhile, so the echoes come at the end."""
    busy = pair.another("a", f"busy-{threads}", port={"native": 4471, "gevent": 4472}[threads])
    port = busy.port()
    options = ["--gevent"] if threads == "gevent" else []
    words = (*options, "server_busy.py", str(port), str(SECONDS))
    with busy.serving("serving", *words) as server:
        busy.node.wait_until_registered()
        client = pair["b"].begin("client_busy.py", busy.name, str(port), str(SECONDS))
        server.wait_for("computing")
        before = busy.node.status(), pair["b"].node.status()
        assert checks_of(client.check()) == ["before", "meanwhile", "afterwards"]
        assert "computed" in server.stdout
        after = busy.node.status(), pair["b"].node.status()
    for then, now in zip(before, after, strict=True):
        assert then["pid"] == now["pid"]
        # The nodes' own tunnel gets a relay in reserve after a while, and new keys with that.
        made, kept = (
            {name: at for name, at in handshakes(each).items() if name in SERVERS}
            for each in (then, now)
        )
        assert kept.keys() == SERVERS
        assert kept == pytest.approx(made, abs=SLACK), "a channel was made anew"
    assert "b.lab.example" in handshakes(after[0])
