"""What ``docs/protocol.md`` says of messages, refusals, timers and limits: written from the code.

``python tests/support/protocol_document.py --write`` writes it and the test vectors anew; a test
compares them. Rows of timers and limits are the document's own, but for their values.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
import protocol_vectors

from ntmpatch.wire.control import AnyMessage
from ntmpatch.wire.control_messages import RefusalCode, RevocationReason

if TYPE_CHECKING:
    import enum
    from collections.abc import Callable

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"


class Field(NamedTuple):
    """One field of a message, for people."""

    name: str
    type: str
    default: str
    meaning: str


# --- tables --------------------------------------------------------------------------------------


def message_types() -> list[type[msgspec.Struct]]:
    """All messages by tag."""
    return sorted(get_args(AnyMessage), key=protocol_vectors.tag_of)


def structures() -> list[type[msgspec.Struct]]:
    """What messages are made of, by name."""
    found: dict[str, type[msgspec.Struct]] = {}

    def visit(kind: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if kind.__struct_config__.tag is None:
                found[kind.__name__] = kind
            for hint in get_type_hints(kind, include_extras=True).values():
                visit(hint)
        for argument in get_args(kind):
            visit(argument)

    for kind in message_types():
        visit(kind)
    return [found[name] for name in sorted(found)]


def fields_of(kind: type[msgspec.Struct]) -> list[Field]:
    """Its fields in order, with the words that stand below them in the source."""
    hints = get_type_hints(kind, include_extras=True)
    words = _words_below(kind)
    return [
        Field(
            info.name,
            _type_text(hints[info.name]),
            "" if info.required else _default_text(info.default),
            words.get(info.name, ""),
        )
        for info in msgspec.structs.fields(kind)
    ]


def _words_below(kind: type) -> dict[str, str]:
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    words: dict[str, str] = {}
    for before, statement in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
        ):
            words[before.target.id] = " ".join(str(statement.value.value).split())
    return words


def _type_text(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        base, *rest = get_args(hint)
        meta = next(each for each in rest if isinstance(each, msgspec.Meta))
        return _limited(base, meta)
    if get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_type_text(each) for each in get_args(hint))
    if get_origin(hint) is tuple:
        return f"array of {_type_text(get_args(hint)[0])}"
    names = {bytes: "bin", str: "str", int: "int", float: "float", bool: "bool", type(None): "nil"}
    return names.get(hint) or str(hint.__name__)


def _limited(base: Any, meta: msgspec.Meta) -> str:
    text = _type_text(base)
    low, high = meta.min_length, meta.max_length
    if high is not None:
        size = f"{low}" if low == high else f"{low or 0}..{high}"
        if get_origin(base) is tuple:
            return text.replace("array of", f"array of {size}", 1)
        pattern = f" matching `{meta.pattern}`" if meta.pattern else ""
        return f"{text} {size}{pattern}".replace("|", "\\|")
    if meta.ge is not None:
        top = "" if meta.le is None else f"{meta.le:g}" if base is float else _integer(int(meta.le))
        return f"{text} {meta.ge:g}..{top}"
    return text


def _integer(value: int) -> str:
    for power in (32, 40, 63):
        if value == 2**power - 1:
            return f"2^{power}-1"
        if value == 2**power:
            return f"2^{power}"
    return str(value)


def _default_text(value: Any) -> str:
    if isinstance(value, bytes | str | tuple) and not value:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "nil" if value is None else f"{value}"


def _rows(kind: type[msgspec.Struct], first: int) -> list[str]:
    rows = [
        f"| {number} | `{field.name}` | {field.type} | {field.default} | {field.meaning} |"
        for number, field in enumerate(fields_of(kind), first)
    ]
    head = ["| # | field | type | default | meaning |", "|---|---|---|---|---|"]
    return [*head, *rows] if rows else []


def _about(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "")


def messages_section() -> str:
    """Every message with its fields; field 0 is the tag."""
    parts: list[str] = []
    for kind in message_types():
        parts += [
            f"#### {protocol_vectors.tag_of(kind)} {kind.__name__}",
            _about(kind),
            "\n".join(_rows(kind, 1)),
        ]
    return "\n\n".join(part for part in parts if part)


def structures_section() -> str:
    """Arrays that stand in fields of messages; they have no tag."""
    parts: list[str] = []
    for kind in structures():
        parts += [f"#### {kind.__name__}", _about(kind), "\n".join(_rows(kind, 0))]
    return "\n\n".join(part for part in parts if part)


def codes_section(kind: type[enum.IntEnum]) -> str:
    """Every code of an enumeration."""
    words = _enum_words(kind)
    rows = [f"| {code.value} | {code.name} | {words.get(code.name, '')} |" for code in kind]
    return "\n".join(["| code | name | meaning |", "|---|---|---|", *rows])


def _enum_words(kind: type[enum.IntEnum]) -> dict[str, str]:
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    words: dict[str, str] = {}
    for before, statement in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(before, ast.Assign) and isinstance(statement, ast.Expr):
            (target,) = before.targets
            if isinstance(target, ast.Name) and isinstance(statement.value, ast.Constant):
                words[target.id] = " ".join(str(statement.value.value).split())
    return words


def constants_section(rows: str) -> str:
    """The rows as they are, with the values that the names in their last column have now."""
    table = [line for line in rows.splitlines() if line.startswith("|")]
    filled = []
    for row in table[2:]:
        part, what, _, unit, names = (cell.strip() for cell in row.strip("|").split("|"))
        value = ", ".join(map(_value_text, re.findall(r"`([\w.]+)`", names)))
        filled.append(f"| {part} | {what} | {value} | {unit} | {names} |")
    return "\n".join([*table[:2], *filled])


def _value_text(name: str) -> str:
    module, _, constant = name.rpartition(".")
    found = importlib.import_module(f"ntmpatch.{module}")
    if not hasattr(found, constant):
        raise SystemExit(f"{DOCUMENT}: ntmpatch.{module} has no {constant}: correct its row")
    value = getattr(found, constant)
    values = value if isinstance(value, tuple) else (value,)
    return ", ".join(f"{each:g}" if each < 1e6 else f"{each:,.0f}" for each in values)


SECTIONS: dict[str, Callable[[str], str]] = {
    "messages": lambda _: messages_section(),
    "structures": lambda _: structures_section(),
    "refusals": lambda _: codes_section(RefusalCode),
    "reasons": lambda _: codes_section(RevocationReason),
    "constants": constants_section,
}


def document(text: str) -> str:
    """``text`` of the document, with its generated sections as they have to be."""
    for name, make in SECTIONS.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        before, found, rest = text.partition(begin)
        assert found, f"{begin!r} is missing"
        old, after = rest[: rest.index(end)], rest[rest.index(end) :]
        text = f"{before}{begin}\n{make(old)}\n\n{after}"
    return text


def write() -> None:
    """Write the document and the vectors."""
    DOCUMENT.write_text(document(DOCUMENT.read_text()))
    protocol_vectors.FILE.write_text(protocol_vectors.text())


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    write()
