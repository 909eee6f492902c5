"""The matrix as a table of Markdown and as JSON, and which cells are not what they may be."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lab_access import Access, Directness

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from reachability_lab.cell import Cell, Run

    Results: TypeAlias = Mapping[Cell, list[Run]]

DOCUMENT = Path(__file__).parents[2] / "docs" / "reachability.md"
SHARE_BY_PROBING = 0.95
"""Of the runs of a cell that is direct by port probing alone, those that have to be."""


def table(results: Results) -> str:
    """A row a caller, a column a called; of several runs, medians, and how many were direct."""
    callers = [each for each in Access if any(cell.caller is each for cell in results)]
    called = [each for each in Access if any(cell.called is each for cell in results)]
    cells = {(cell.caller, cell.called): _text(cell, runs) for cell, runs in results.items()}
    rows = [
        ["Caller, called", *(each.value for each in called)],
        ["---"] * (len(called) + 1),
        *([row.value, *(cells.get((row, column), "") for column in called)] for row in callers),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _text(cell: Cell, runs: list[Run]) -> str:
    connected = [run for run in runs if run.connects]
    if not connected:
        return "**no connection**"
    direct = sum(run.is_direct for run in runs)
    way = "direct" if direct == len(runs) else "relayed"
    if 0 < direct < len(runs):
        way = f"direct in {direct} of {len(runs)}"
    if direct < _wanted(cell, runs):
        way = f"**{way}**"
    if len(connected) < len(runs):
        way += f", **{len(runs) - len(connected)} of {len(runs)} without connection**"
    first = _median(run.udp_first_byte for run in runs)
    return f"{way}; {first * 1000:.0f} ms{_after(runs)}"


def _after(runs: list[Run]) -> str:
    times = [run.time_to_direct for run in runs if run.time_to_direct is not None]
    return f", {statistics.median(times):.2f} s" if times else ""


def _median(values: Iterable[float | None]) -> float:
    return statistics.median(value for value in values if value is not None)


def _wanted(cell: Cell, runs: list[Run]) -> float:
    """How many of the runs have to be direct."""
    share = {
        Directness.ALWAYS: 1.0,
        Directness.BY_PROBING: SHARE_BY_PROBING,
        Directness.NEVER: 0.0,
    }
    return share[cell.allowed] * len(runs)


def findings(results: Results) -> str:
    """Cells that do not connect, that lose bytes, or that are relayed and need not be."""
    lines = []
    for cell, runs in results.items():
        failed = [run for run in runs if not run.connects]
        if failed:
            lines.append(f"- {cell}: no connection in {len(failed)} of {len(runs)} runs.")
        broken = sum(run.connects and bool(run.error) for run in runs)
        if broken:
            lines.append(
                f"- {cell}: broke, or its path is not what it says, "
                f"in {broken} of {len(runs)} runs."
            )
        direct = sum(run.is_direct for run in runs)
        if direct < _wanted(cell, runs):
            lines.append(
                f"- {cell}: direct in {direct} of {len(runs)} runs; may be {cell.allowed.value}."
            )
    return "\n".join(lines)


def as_json(results: Results) -> list[dict[str, Any]]:
    """Every run of every cell, without what failed programs printed (it names the machine)."""
    return [
        {
            "caller": cell.caller.value,
            "called": cell.called.value,
            "allowed": cell.allowed.value,
            "runs": [
                {**asdict(run), "error": bool(run.error), "connects": run.connects} for run in runs
            ],
        }
        for cell, runs in results.items()
    ]


def write_document(results: Results, patience: float) -> None:
    """Write docs/reachability.md and, beside it, every run as JSON."""
    runs = min(map(len, results.values()))
    most = max(map(len, results.values()))
    of_probing = f" ({most} where only port probing makes it direct)" if most > runs else ""
    problems = findings(results)
    DOCUMENT.write_text(
        f"""# Who reaches whom, measured

Written by `python benchmarks/reachability.py --write`; runs of each cell: {runs}{of_probing}.
The row calls the column, by name, in a lab of network namespaces with nftables NATs and no delay
besides the machine's own. A cell tells the path at the end, the time from the look-up to the first
byte of an answer by UDP, and the time until the path was direct; of several runs, the medians. A
path had {patience:g} s to become direct. Bold is what is not as it should be. Figures of every run:
[reachability.json](reachability.json).

{table(results)}

Cells that did not connect, or were relayed though RFC 4787 behaviour lets them be direct:

{problems or "- nothing."}
"""
    )
    DOCUMENT.with_suffix(".json").write_text(json.dumps(as_json(results), indent=1) + "\n")
