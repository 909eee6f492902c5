"""Results as a table of Markdown, as JSON, and as drawings of sequence numbers over time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handover_lab.cases import CASES
from handover_lab.world import ROUND_TRIP

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping

    from handover_lab.play import Result, Run

DOCUMENT = Path(__file__).parents[2] / "docs" / "handover.md"
DRAWINGS = DOCUMENT.with_suffix("")
OURS = "ntmpatch"

WIDTH, HEIGHT, MARGIN = 720, 400, 56
BEFORE, LEAST_AFTER, AFTER_RECOVERY = 0.2, 0.4, 0.2
"""Seconds that a drawing shows around the switch."""


def table(results: list[Result], skipped: Mapping[str, str]) -> str:
    """A row for each case, kind of message, and peer."""
    ours = {(each.case, each.kind): each.median for each in results if each.peer == OURS}
    lines = [
        "| Case | Messages | Peer | Median, ms | Worst, ms | Ratio | Lost (median; worst) "
        "| Intact |",
        "|---|---|---|--:|--:|--:|--:|---|",
    ]
    for each in results:
        cells = [CASES[each.case].title, each.kind, each.peer]
        if each.runs:
            lost = sorted(run.lost for run in each.runs)
            ratio = _ratio(each.median, ours.get((each.case, each.kind)))
            whole = sum(not (run.lost or run.wrong) for run in each.runs)
            intact = f"{whole} of {len(each.runs)}" if each.kind == "stream" else ""
            cells += [_milliseconds(each.median), _milliseconds(each.worst), ratio]
            cells += [f"{lost[len(lost) // 2]}; {lost[-1]}", intact]
        else:
            cells += ["not measured", "", "", "", ""]
        if each.failures:
            cells[-1] += f" ({len(each.failures)} runs failed)"
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"Not measured: {name}, as {reason}." for name, reason in skipped.items())]
    return "\n".join(lines).rstrip()


def _milliseconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds * 1000:.0f}"


def _ratio(theirs: float | None, ours: float | None) -> str:
    return "" if theirs is None or ours is None else f"{theirs / ours:.2f}"


def as_json(results: list[Result]) -> list[dict[str, Any]]:
    """Figures of every run, without each message's instants."""
    return [
        {
            **{key: value for key, value in asdict(each).items() if key != "runs"},
            "runs": [
                {
                    "recovery": run.recovery,
                    "sent": len(run.sent),
                    "lost": run.lost,
                    "wrong": run.wrong,
                }
                for run in each.runs
            ],
        }
        for each in results
    ]


def write_document(text: str, results: list[Result], options: argparse.Namespace) -> None:
    """Write docs/handover.md anew, with a drawing of each case of ours."""
    ours = [each for each in results if each.peer == OURS and each.runs]
    draw(DRAWINGS, ours)
    pictures = "\n".join(
        f"![{CASES[each.case].title}, {each.kind}]({DRAWINGS.name}/{_file_name(each)})"
        for each in ours
    )
    peer_runs = min(options.runs, options.peer_runs)
    of_peers = f", {peer_runs} of other peers than `{OURS}`" if peer_runs < options.runs else ""
    DOCUMENT.write_text(
        f"""# Handover, measured

Written by `python benchmarks/handover.py --write`. A message of 100 bytes is sent every 10 ms and
echoed; round trip {ROUND_TRIP * 1000:.0f} ms, {options.runs} runs of each{of_peers};
{options.jobs} side by side, of which at most one starts its programs or awaits its recovery. The
time is from the end of the switch to the first echo of a message that was sent after it; "never":
not within {options.timeout:g} s. The ratio is to `ntmpatch` in the same case. Lost are messages of
the whole run whose echo never came, also before the end of the switch. A stream is intact if each
of its bytes came back, once and in order.

{text}

## Sequence over time

Of the first run of each case: when each message was sent, and when its echo came.

{pictures}
"""
    )


def draw(directory: Path, results: list[Result]) -> None:
    """The first run of each."""
    directory.mkdir(parents=True, exist_ok=True)
    for each in results:
        if each.runs:
            title = f"{CASES[each.case].title}: {each.peer}, {each.kind}"
            (directory / _file_name(each)).write_text(drawing(title, each.runs[0]))


def _file_name(result: Result) -> str:
    return f"{result.case}-{result.kind}-{result.peer.replace(' ', '-')}.svg"


def drawing(title: str, run: Run) -> str:
    """An SVG: when each message was sent, and when its echo came."""
    end = max(LEAST_AFTER, (run.recovery or max(run.sent)) + AFTER_RECOVERY)
    shown = [n for n, at in enumerate(run.sent) if -BEFORE <= at <= end]
    low, high = (shown[0], max(shown[-1], shown[0] + 1)) if shown else (0, 1)

    def x(at: float) -> float:
        return MARGIN + (at + BEFORE) / (end + BEFORE) * (WIDTH - 2 * MARGIN)

    def y(sequence: int) -> float:
        return HEIGHT - MARGIN - (sequence - low) / (high - low) * (HEIGHT - 2 * MARGIN)

    def dots(points: Iterable[tuple[int, float]], colour: str) -> list[str]:
        return [
            f'<circle cx="{x(at):.1f}" cy="{y(n):.1f}" r="2" fill="{colour}"/>'
            for n, at in points
            if low <= n <= high and -BEFORE <= at <= end
        ]

    bottom, right = HEIGHT - MARGIN, WIDTH - MARGIN
    axes = f"M{MARGIN},{MARGIN} V{bottom} H{right}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{MARGIN}" y="20" font-size="14">{title}</text>',
        f'<text x="{MARGIN}" y="38"><tspan fill="#888">sent</tspan> '
        '<tspan fill="#06c">echoed</tspan></text>',
        f'<path d="{axes}" fill="none" stroke="black"/>',
        f'<path d="M{x(0):.1f},{MARGIN} V{bottom}" stroke="#c00" stroke-dasharray="4"/>',
        f'<text x="{x(0):.1f}" y="{MARGIN - 4}" fill="#c00" text-anchor="middle">switch</text>',
        f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">'
        "milliseconds from the end of the switch</text>",
        f'<text x="8" y="{MARGIN - 8}">message</text>',
        f'<text x="{MARGIN - 6}" y="{bottom}" text-anchor="end">{low}</text>',
        f'<text x="{MARGIN - 6}" y="{MARGIN + 8}" text-anchor="end">{high}</text>',
    ]
    for eighth in range(9):
        at = -BEFORE + (end + BEFORE) * eighth / 8
        label = f"{at * 1000:.0f}"
        parts.append(f'<text x="{x(at):.1f}" y="{bottom + 16}" text-anchor="middle">{label}</text>')
    parts += dots(enumerate(run.sent), "#bbb")
    parts += dots(run.echoed, "#06c")
    return "\n".join([*parts, "</svg>\n"])
