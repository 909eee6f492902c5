"""The servers' configuration as tables for docs/servers.md, from base/config.py itself.

``python tests/support/config_table.py`` writes them anew.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
import typing
from pathlib import Path
from typing import Any

import msgspec

from ntmpatch.base import config

DOCUMENT = Path(__file__).parents[2] / "docs" / "servers.md"
BEGIN = "<!-- keys: made by tests/support/config_table.py -->\n"
END = "<!-- end of keys -->\n"


def attribute_docstrings(kind: type) -> dict[str, str]:
    """The string behind each field of a class, as one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    name = ""
    for statement in definition.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            if name:
                found[name] = " ".join(str(statement.value.value).split())
            name = ""
    return found


def sections() -> dict[type, list[str]]:
    """The kinds of sections, and the names under which the file has each."""
    found: dict[type, list[str]] = {}
    for field in msgspec.structs.fields(config.ServeConfig):
        kind: Any = field.type
        name = f"[{field.encode_name}]"
        if typing.get_origin(kind) is tuple:
            kind = typing.get_args(kind)[0]
            name = f"[{name}]"
        for base in kind.__mro__:
            if base is not msgspec.Struct and issubclass(base, msgspec.Struct):
                found.setdefault(base, []).append(name)
    return found


def toml(value: object) -> str:
    """A default as the file would have it."""
    if isinstance(value, tuple):
        return json.dumps(list(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def default_of(field: msgspec.structs.FieldInfo) -> object:
    """What a key is if the file leaves it out."""
    if field.default is msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def undocumented() -> list[str]:
    """Keys without a meaning."""
    return [
        f"{kind.__name__}.{field.name}"
        for kind in sections()
        for field in own_fields(kind)
        if field.name not in attribute_docstrings(kind)
    ]


def own_fields(kind: type) -> list[msgspec.structs.FieldInfo]:
    """The fields that a section has beside those of its base."""
    return [field for field in msgspec.structs.fields(kind) if field.name in kind.__annotations__]


def render() -> str:
    """All tables."""
    parts = []
    for kind, names in sections().items():
        meanings = attribute_docstrings(kind)
        doc = (inspect.getdoc(kind) or "").partition(": ")[2]
        doc = " ".join(doc.split()).replace("``", "`")
        lines = [f"### {', '.join(f'`{name}`' for name in names)}", doc[:1].upper() + doc[1:], ""]
        lines += ["| key | default | meaning |", "|---|---|---|"]
        for field in own_fields(kind):
            meaning = meanings.get(field.name, "").replace("``", "`").replace("|", "\\|")
            lines.append(f"| `{field.encode_name}` | `{toml(default_of(field))}` | {meaning} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def documented() -> str:
    """What the document has between its marks."""
    return DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0]


def write() -> None:
    """Put the tables into the document."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + render() + END + rest.partition(END)[2])


if __name__ == "__main__":
    write()
