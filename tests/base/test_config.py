"""The servers' configuration: what its errors say, and that docs/servers.md has every key."""

from __future__ import annotations

from pathlib import Path

import config_table
import pytest

from ntmpatch.base.config import ServeConfig, line_of, parse_serve_config
from ntmpatch.base.errors import ConfigError

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_the_documentation_has_every_key_with_its_default_and_meaning() -> None:
    assert config_table.undocumented() == []
    assert config_table.documented() == config_table.render(), (
        "run: PYTHONPATH=tests/support python tests/support/config_table.py"
    )


def test_what_the_documentation_says_is_the_default_is() -> None:
    lines = []
    for line in config_table.render().splitlines():
        if line.startswith("### "):
            # Keys that all servers have are tried in the first of them, [as].
            lines.append(line.split("`")[1])
        elif line.startswith("| `"):
            _, key, _, default, _ = line.split("`", 4)
            lines.append(f"{key} = {default}")
    parsed = parse_serve_config("\n".join(lines), "docs/servers.md")
    assert len(parsed.policy) == 1
    assert parsed == ServeConfig(policy=parsed.policy)


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_examples_parse(example: Path) -> None:
    parse_serve_config(example.read_text(), example.name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[rs]\n\nport = 'x'\n", "s.toml: line 3: port: expected a whole number"),
        ("[serve]\nlisten = 7\n", "s.toml: line 2: listen: expected text or a list"),
        ("[log]\nformat = 'xml'\n", "s.toml: line 2: format: invalid"),
        ("[rs]\nsession_mbit = -1\n", "s.toml: line 2: session_mbit: expected a number >= 0"),
        ("[ns]\ncapacity_mbit = 1\n", "s.toml: line 2: capacity_mbit: unknown key"),
        ("[metric]\n", "s.toml: line 1: metric: unknown key"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_serve_config(text, "s.toml")
    assert words in str(raised.value)


def test_a_key_is_found_in_its_section() -> None:
    text = "[serve]\nlisten = 'a'\n[dc]\n# listen\nlisten = 'b'\n[rs]\n"
    assert line_of(text, "serve", "listen") == 2
    assert line_of(text, "dc", "listen") == 5
    assert line_of(text, "rs", "") == 6
    assert line_of(text, "rs", "listen") == 6
    assert line_of(text, "ns", "listen") is None
