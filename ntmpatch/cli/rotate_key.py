"""``ntmpatch rotate-key``: another private key for a node."""

from __future__ import annotations

from typing import Final

import click

from ntmpatch.cli.options import config_option, state_option
from ntmpatch.runtime.settings import load_settings

TIMEOUT: Final = 15.0
"""Seconds that each question to the AS may take."""


@click.command("rotate-key")
@config_option
@state_option
def rotate_key(config: str | None, state: str | None) -> None:
    """Give the node another private key. Its name and its virtual addresses stay.

    The node must not be running. If this is cut short, do it again, or start the node: either
    finishes it.
    """
    from ntmpatch.runtime.rotation import rotate_key as rotate  # noqa: PLC0415 (heavy)

    rotate(load_settings(config=config, state=state), TIMEOUT)
