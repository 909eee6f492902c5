"""Figures of a run: what was measured, and how it is printed and kept."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class Figure:
    """One row: several runs of one measurement; ``key`` is its name for the model and in JSON."""

    key: str
    what: str
    unit: str
    values: list[float]
    cpu: dict[str, float] = field(default_factory=dict)
    """Seconds of a core that each server spent on one operation: the median of the runs."""
    traffic: tuple[float, float] = (0.0, 0.0)
    """Messages and bytes of one operation between its nodes and the servers."""

    @property
    def median(self) -> float:
        """Of the runs."""
        return statistics.median(self.values)

    def spread(self) -> str:
        """The least and the most of several runs."""
        if len(self.values) < 2:
            return ""
        return f"{number(min(self.values))} to {number(max(self.values))}"

    def cpu_text(self) -> str:
        """Microseconds of a core an operation, and so how many one core could do."""
        busy = {role: cost for role, cost in self.cpu.items() if cost >= 1e-8}
        return ", ".join(
            f"{role.upper()} {number(cost * 1e6)}" for role, cost in sorted(busy.items())
        )

    def traffic_text(self) -> str:
        """Messages and bytes of one operation."""
        messages, size = self.traffic
        return f"{number(messages)}, {number(size)} B" if messages else ""

    def per_core(self) -> str:
        """Operations a second that one core of the busiest server could do."""
        cost = max(self.cpu.values(), default=0.0)
        return number(1.0 / cost) if cost >= 1e-8 else ""


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def number(value: float) -> str:
    """Three digits that count, and commas."""
    if value == 0.0:
        return "0"
    magnitude = abs(value)
    if magnitude >= 100:
        digits = len(str(int(magnitude))) - 3
        return f"{round(value, -digits):,.0f}" if digits > 0 else f"{value:,.0f}"
    return f"{value:.3g}"


def table(figures: Sequence[Figure]) -> str:
    """The figures in Markdown."""
    lines = [
        "| what | unit | median | range | µs of a core for one | a core's rate "
        "| messages of nodes for one |",
        "|---|---|--:|---|---|--:|---|",
    ]
    lines += [
        f"| {figure.what} | {figure.unit} | {number(figure.median)} | {figure.spread()} "
        f"| {figure.cpu_text()} | {figure.per_core()} | {figure.traffic_text()} |"
        for figure in figures
    ]
    return "\n".join(lines)
