"""The table of ``docs/programs.md``: written by ``pytest tests/programs --write-table``."""

from __future__ import annotations

from pathlib import Path

from programs_catalogue import PROGRAMS, Program

DOCUMENT = Path(__file__).parents[2] / "docs" / "programs.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->"
DIRECTIONS = ("b to a", "a to b")
"""The client's node, and the server's."""
_HEAD = (
    "| program | versions | what is compared | b to a | a to b | notes |\n"
    "|---|---|---|---|---|---|\n"
)


def id_of(program: Program, direction: str) -> str:
    """The name of a test in brackets."""
    return f"{program.name}, {direction}"


def row(program: Program, versions: str) -> str:
    """A program's row: only what has passed has one."""
    cells = (program.name, versions, "; ".join(program.checks), "passed", "passed", program.notes)
    return f"| {' | '.join(cells)} |".replace("|  |", "| |") + "\n"


def rows() -> list[str]:
    """Those of the document."""
    text = DOCUMENT.read_text()
    table = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert table.startswith(_HEAD), "the table has another head"
    return table.removeprefix(_HEAD).splitlines(keepends=True)


def write(passed: set[str]) -> str:
    """Put the table into the document, with the versions installed here: what was done.

    Nothing is, unless all tests are among ``passed``, which are ids."""
    missing = {id_of(p, d) for p in PROGRAMS for d in DIRECTIONS} - passed
    if missing:
        return f"{DOCUMENT} is as it was, since these did not pass: {'; '.join(sorted(missing))}"
    text = DOCUMENT.read_text()
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    table = "".join(row(program, program.versions()) for program in PROGRAMS)
    DOCUMENT.write_text(before + BEGIN + _HEAD + table + after)
    return f"{DOCUMENT} is written"
