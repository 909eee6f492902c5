"""``ntmpatch up``: the node of this identity, in the foreground, for programs to share."""

from __future__ import annotations

import ipaddress
import json
import os
from typing import TYPE_CHECKING, Any

import click

from ntmpatch.cli.control import NodeControl
from ntmpatch.cli.identity import ensure_identity
from ntmpatch.cli.options import config_option, json_option, state_option, token_option
from ntmpatch.runtime.logs import configure_log
from ntmpatch.runtime.settings import load_settings

if TYPE_CHECKING:
    from ntmpatch.wire.local import Welcome


@click.command()
@token_option
@config_option
@state_option
@json_option
def up(token: str | None, config: str | None, state: str | None, as_json: bool) -> None:
    """Run the node until SIGTERM or Ctrl-C, and let programs share it.

    One line on standard output tells when it is registered. Programs of 'ntmpatch run' with the
    same state directory use it; what they have sent is let out before it ends.
    """
    settings = load_settings(token=token, config=config, state=state)
    configure_log()
    ensure_identity(settings)
    from ntmpatch.runtime.shared import SharedNode  # noqa: PLC0415 (heavy; --help needs none of it)

    def tell() -> None:
        with NodeControl(settings.control_path) as node:
            facts = describe(node.welcome)
        if as_json:
            # One line: it is read by whoever started us, while we go on.
            facts = {"ready": True, **facts, "pid": os.getpid()}
            print(json.dumps(facts), flush=True)
            return
        addresses = " ".join(facts[family] for family in ("ipv4", "ipv6") if facts[family])
        name = facts["fqdn"] or "a node without a name"
        print(f"up: {name} {addresses}, programs reach it at {facts['control_path']}", flush=True)

    SharedNode(settings).serve(tell)


def describe(welcome: Welcome) -> dict[str, Any]:
    """Who a node is, for people and for JSON."""
    return {
        "fqdn": welcome.fqdn,
        "ipv4": str(ipaddress.ip_address(welcome.ipv4)) if welcome.ipv4 else None,
        "ipv6": str(ipaddress.ip_address(welcome.ipv6)) if welcome.ipv6 else None,
        "control_path": welcome.control_path,
    }
