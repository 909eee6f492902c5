"""benchmarks/servers.py: real servers under a little real load, and the document that it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from load.document import replaced
from load.figures import Figure
from load.model import NEEDED, model_text

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = ("registrations", "tunnels", "dns", "relay", "enrolments", "connections")


@pytest.mark.once
def test_every_operation_succeeds_and_is_accounted_for(tmp_path: Path) -> None:
    kept = tmp_path / "figures.json"
    words = ["--nodes", "12", "--held", "24", "--seconds", "0.1", "--runs", "1", "--json", kept]
    played = subprocess.run(
        [sys.executable, BENCHMARKS / "servers.py", "--only", *PARTS, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert played.returncode == 0, played.stderr
    assert played.stderr == ""  # failures of operations are told there
    figures = {figure["key"]: figure for figure in json.loads(kept.read_text())}
    for key in ("registration_first", "registration", "tunnel", "dns", "relay_1400", "connection"):
        assert figures[key]["values"][0] > 0.0, key
    assert figures["connections_lost"]["values"] == [0.0]
    assert figures["connections"]["values"] == [24.0]


def test_the_model_multiplies_what_was_measured_and_the_document_keeps_the_rest() -> None:
    cpu = {"as": 1e-4, "dc": 1e-3, "ns": 1e-4, "rs": 1e-6}
    figures = [Figure(key, key, "1/s", [10.0], cpu, (2.0, 500.0)) for key in NEEDED]
    text = model_text(figures)
    # 20 queries of a millisecond each; 50 set-ups, each with two handshakes of the DC.
    assert "| query of its name | 20 | 0 | 0 | 2 | 20 | 2 |" in text
    assert "| tunnel set up | 50 | 400 | 100 | 5 | 150 | 55 |" in text
    assert model_text(figures[1:]) == ""

    document = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n"
    assert replaced(document, "x", "new") == document.replace("old", "new")
    with pytest.raises(ValueError, match="markers of 'y'"):
        replaced(document, "y", "new")
    committed = (BENCHMARKS.parent / "docs" / "capacity.md").read_text()
    for name in ("figures", "model"):
        assert replaced(committed, name, "") != replaced(committed, name, "x")
