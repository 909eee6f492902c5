"""Options that several commands share."""

from __future__ import annotations

from typing import Final

import click

TOKEN_VARIABLE: Final = "NTMPATCH_TOKEN"
CONFIG_VARIABLE: Final = "NTMPATCH_CONFIG"
STATE_VARIABLE: Final = "NTMPATCH_STATE"

token_option = click.option(
    "--token",
    metavar="TOKEN",
    help="Enrol with this token first, unless the state already holds an identity. "
    "file:PATH reads it from a file, which keeps it off the command line.  [env: NTMPATCH_TOKEN]",
)
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
