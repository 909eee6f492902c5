"""docs/capacity.md: what a run found goes between its markers, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "capacity.md"


def replaced(text: str, name: str, content: str) -> str:
    """``text`` with the part between the markers of ``name`` replaced; ValueError without them."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, found_begin, rest = text.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"no markers of {name!r}")
    return f"{head}{begin}\n{content.strip()}\n{end}{tail}"


def write_document(parts: dict[str, str]) -> None:
    """Put each part in its place."""
    text = DOCUMENT.read_text()
    for name, content in parts.items():
        text = replaced(text, name, content)
    DOCUMENT.write_text(text)
