"""Options that several commands share, and what they, the environment and the file amount to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from ntmpatch.base.config import parse_node_config
from ntmpatch.base.errors import ConfigError

TOKEN_VARIABLE: Final = "NTMPATCH_TOKEN"
CONFIG_VARIABLE: Final = "NTMPATCH_CONFIG"
STATE_VARIABLE: Final = "NTMPATCH_STATE"

_FILE_PREFIX: Final = "file:"

config_option = click.option(
    "--config",
    metavar="FILE",
    help="The node's configuration, in TOML.  [env: NTMPATCH_CONFIG]",
)
state_option = click.option(
    "--state",
    metavar="DIR",
    help="Where the node's identity is kept.  [env: NTMPATCH_STATE; default: the XDG state"
    " directory]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What was said about a node: on the command line before the environment before the file."""

    config_path: Path | None
    state_path: Path
    token: str | None
    """As it was given: a token or file:PATH. ``str()`` of this object does not show it."""
    is_static: bool
    """Its peers are in the configuration: it needs no servers, and no identity of theirs."""

    def __repr__(self) -> str:
        return f"NodeOptions(config_path={self.config_path!r}, state_path={self.state_path!r})"


def load_node_options(
    *, config: str | None, state: str | None, token: str | None = None
) -> NodeOptions:
    """Gather what was said; ConfigError if the configuration is not what was expected."""
    # Imported here: with it comes cryptography, which --help does not need.
    from ntmpatch.runtime.state import default_state_directory  # noqa: PLC0415

    config_name = config or os.environ.get(CONFIG_VARIABLE)
    config_path = Path(os.path.abspath(config_name)) if config_name else None
    file_state, file_token, is_static = "", "", False
    if config_path is not None:
        parsed = parse_node_config(read_text(config_path), os.fspath(config_path))
        file_state, file_token = parsed.node.state, parsed.node.token
        is_static = bool(parsed.peer)
    chosen = state or os.environ.get(STATE_VARIABLE) or file_state
    state_path = Path(chosen).expanduser() if chosen else default_state_directory()
    return NodeOptions(
        config_path=config_path,
        state_path=Path(os.path.abspath(state_path)),
        token=token or os.environ.get(TOKEN_VARIABLE) or file_token or None,
        is_static=is_static,
    )


def read_token(given: str) -> str:
    """The token itself, from the file if ``given`` is file:PATH; ConfigError if that fails."""
    if not given.startswith(_FILE_PREFIX):
        return given.strip()
    return read_text(Path(given.removeprefix(_FILE_PREFIX)).expanduser()).strip()


def read_text(path: Path) -> str:
    """A file's text; ConfigError, with the file's name, if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected text in UTF-8") from None
