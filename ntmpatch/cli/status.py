"""``ntmpatch status``: the facts of a running node, asked of it through its control socket."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from ntmpatch.cli.console import print_facts, print_json
from ntmpatch.cli.control import NodeControl
from ntmpatch.cli.options import config_option, json_option, state_option
from ntmpatch.runtime.settings import load_settings
from ntmpatch.wire import local


@click.command()
@config_option
@state_option
@json_option
def status(config: str | None, state: str | None, as_json: bool) -> None:
    """Tell what a running node knows: its name, addresses, peers, and what it dropped.

    The node is the one with this state directory, whichever process it lives in.
    """
    settings = load_settings(config=config, state=state)
    with NodeControl(settings.control_path) as node:
        facts: dict[str, Any] = msgspec.json.decode(node.ask(local.Status(), local.Report).json)
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)
