"""What commands print: plain lines, coloured by rich on a terminal, or one JSON document."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import Console as RichConsole
    from rich.progress import Progress, TaskID


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, indent=2, default=str))


def print_facts(facts: Mapping[str, object], indent: str = "") -> None:
    """Names and values, one a line, nested ones indented."""
    for name, value in facts.items():
        label = name.replace("_", " ")
        if isinstance(value, dict):
            print(f"{indent}{label}:")
            print_facts(value, indent + "  ")
        elif isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
            print(f"{indent}{label}:")
            for item in value:
                print_facts(item if isinstance(item, dict) else {"": item}, indent + "  ")
                if item is not value[-1]:
                    print()
        elif isinstance(value, list | tuple):
            print(f"{indent}{label}: {', '.join(map(str, value)) or '-'}")
        elif isinstance(value, bool):
            print(f"{indent}{label}: {'yes' if value else 'no'}")
        else:
            print(f"{indent}{label}: {'-' if value is None else value}")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns, as wide as their widest cell; nothing but the headings if there are no rows."""
    table = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    for row in table:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


class Console:
    """Lines for people: styled on a terminal, plain elsewhere, none if ``silent``."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._rich: RichConsole | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if not silent and sys.stdout.isatty():
            from rich.console import Console as RichConsole  # noqa: PLC0415 (terminals only)

            self._rich = RichConsole(highlight=False)

    def say(self, line: str, *, style: str | None = None) -> None:
        """One line; ``style`` is one of rich's."""
        if self._silent:
            return
        if self._rich is not None:
            self._rich.print(line, style=style, markup=False, soft_wrap=True)
        else:
            print(line, flush=True)

    def show_progress(self, done_size: int, total_size: int) -> None:
        """A bar on a terminal, and nothing elsewhere: sizes in bytes."""
        if self._rich is None:
            return
        if self._progress is None:
            self._progress = self._new_progress(self._rich)
            self._task = self._progress.add_task("", total=total_size)
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, completed=done_size)

    def end_progress(self) -> None:
        """Take the bar away; harmless if there is none."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @staticmethod
    def _new_progress(console: RichConsole) -> Progress:
        from rich import progress  # noqa: PLC0415 (terminals only)

        columns: Any = (
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
        )
        return progress.Progress(*columns, console=console, transient=True)
