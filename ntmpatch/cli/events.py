"""``ntmpatch events``: what happens to a running node's networks, paths and peers, as it does."""

from __future__ import annotations

import json
import time

import click
import msgspec

from ntmpatch.cli.control import ANSWER_TIMEOUT, NodeControl
from ntmpatch.cli.exits import complain
from ntmpatch.cli.options import config_option, state_option
from ntmpatch.runtime.settings import load_settings
from ntmpatch.wire import local

PATIENCE = 30.0
"""Seconds that one question waits for an event."""


@click.command()
@click.argument("kinds", metavar="[KIND]...", nargs=-1, type=click.Choice(local.EVENT_KINDS))
@config_option
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print each as a JSON document in a line.")
def events(kinds: tuple[str, ...], config: str | None, state: str | None, as_json: bool) -> None:
    """Print what happens to a running node from now on, one line an event, until Ctrl-C.

    The node is the one with this state directory, whichever process it lives in. Without KIND:
    every kind.
    """
    settings = load_settings(config=config, state=state)
    with NodeControl(settings.control_path, timeout=PATIENCE + ANSWER_TIMEOUT) as node:
        number = node.ask(local.Follow(-1), local.Events).number
        while True:
            told = node.ask(local.Follow(number, PATIENCE), local.Events)
            number = told.number
            if told.lost:
                complain(f"{told.lost} events were lost: they come faster than they are printed")
            for event in told.events:
                if not kinds or event.kind in kinds:
                    text = json.dumps(msgspec.structs.asdict(event)) if as_json else line_of(event)
                    print(text, flush=True)


def line_of(event: local.Event) -> str:
    """An event for people: when, what, whose, the way before and the one from now on, and why."""
    seconds, _, fraction = f"{event.at:.3f}".partition(".")
    at = time.strftime("%H:%M:%S", time.localtime(int(seconds)))
    way = " → ".join(dict.fromkeys(filter(None, (event.old, event.new))))
    facts = "  ".join(filter(None, (event.fqdn, way)))
    reason = f"  ({event.reason})" if event.reason else ""
    return f"{at}.{fraction}  {event.kind:<16}  {facts}{reason}"
