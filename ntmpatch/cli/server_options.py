"""What ``serve`` and ``account`` share: the servers' configuration, and the libraries they need."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import click

from ntmpatch.base.config import ServeConfig, line_of, parse_serve_config
from ntmpatch.cli.exits import EX_UNAVAILABLE, CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

serve_config_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--config", metavar="FILE", help="The servers' configuration, in TOML; without: all defaults."
)


def load_serve_config(path: str | None) -> ServeConfig:
    """The servers' configuration; ConfigError says file, line and what was expected.

    CommandError if the libraries that only the servers need are not installed.
    """
    if importlib.util.find_spec("sqlalchemy") is None:
        raise CommandError(
            "the servers need more libraries than a node: install 'ntmpatch[server]'",
            EX_UNAVAILABLE,
        )
    if path is None:
        return ServeConfig()
    from ntmpatch.runtime.settings import read_text  # noqa: PLC0415 (cryptography comes with it)

    return parse_serve_config(read_text(path, "configuration"), path)


def locate(path: str, section: str, key: str) -> str:
    """``FILE: line N: `` of a key, or of its section; only ``FILE: `` where it is left out."""
    from ntmpatch.runtime.settings import read_text  # noqa: PLC0415 (as above)

    text = read_text(path, "configuration")
    line = line_of(text, section, key)
    return f"{path}: line {line}: " if line else f"{path}: "
