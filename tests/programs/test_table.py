"""``docs/programs.md`` says of every program what its tests do, and of no other."""

from __future__ import annotations

from programs_catalogue import PROGRAMS
from programs_table import row, rows


def test_rows_are_the_tests() -> None:
    """Versions are those of whoever wrote the table last."""
    written = rows()
    assert len(written) == len(PROGRAMS)
    for program, line in zip(PROGRAMS, written, strict=True):
        versions = line.split(" | ")[1]
        assert line == row(program, versions)
        for distribution in program.distributions:
            assert f"{distribution} " in versions
