"""What ``trace`` prints of a report. All of it, for real, is in tests/lab/test_federation.py."""

from __future__ import annotations

from typing import Any

from ntmpatch.cli.trace import figure


def step(number: str, at_ms: float | None, **more: Any) -> dict[str, Any]:
    """One step of a report."""
    line = {"step": number, "title": f"title of {number}", "sender": "node a", "receiver": "DC d"}
    return {**line, "at_ms": at_ms, "refused": False, "note": "", **more}


def test_steps_are_numbered_timed_and_those_unseen_are_told_together() -> None:
    report = {
        "fqdn": "b.home.example",
        "steps": [
            step("3.1", 0.0, receiver="node a"),
            step("3.2", 0.125),
            step("3.4", None, note="not needed"),
            step("3.5", None, note="not needed"),
            step("3.7", 10.5, refused=True),
            step("5.14", 11.0),
            step("3.8", None, note="did not happen"),
        ],
    }
    heading, *rows = figure(report)
    assert heading.startswith("Fig. 3: tunnel creation to b.home.example;")
    assert rows == [
        "        (1)   0.00  node a         title of 3.1",
        "        (2)   0.12  node a → DC d  title of 3.2",
        "    (4)-(5)      -  node a → DC d  [not needed]",
        "        (7)  10.50  node a → DC d  title of 3.7: refused",
        "Fig. 5 (14)  11.00  node a → DC d  title of 5.14",
        "        (8)      -  node a → DC d  title of 3.8  [did not happen]",
    ]
