"""``ntmpatch wake``: hand a running node what came for it by a push gateway."""

from __future__ import annotations

import base64
import binascii

import click

from ntmpatch.base.errors import ConfigError
from ntmpatch.cli.control import NodeControl
from ntmpatch.cli.options import config_option, state_option
from ntmpatch.runtime.settings import load_settings
from ntmpatch.wire import local

MAX_PAYLOAD_SIZE = 4096


@click.command()
@click.argument("payload", default="")
@config_option
@state_option
def wake(payload: str, config: str | None, state: str | None) -> None:
    """Tell a running node that its coordinator wants it.

    PAYLOAD is what the push message has under that name; without it the node asks its coordinator
    afresh. For nodes whose device type is not tcp: whatever receives their pushes calls this.
    """
    try:
        decoded = base64.b64decode(payload, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        decoded = None
    if decoded is None or len(decoded) > MAX_PAYLOAD_SIZE:
        raise ConfigError("PAYLOAD: expected base64, as the push message has it")
    settings = load_settings(config=config, state=state)
    with NodeControl(settings.control_path) as node:
        node.ask(local.Wake(decoded), local.Done)
