"""``ntmpatch nodes``: where a coordinator's nodes are, from its own state, running or not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from ntmpatch.cli.console import print_json, print_table
from ntmpatch.cli.options import json_option
from ntmpatch.cli.server_options import load_serve_config, serve_config_option

if TYPE_CHECKING:
    from ntmpatch.runtime.node_list import ListedNode


@click.command()
@serve_config_option
@json_option
def nodes(config: str | None, as_json: bool) -> None:
    """Show the nodes that have registered with the coordinator, and where they were then.

    Works where the coordinator's state is, whether it runs or not.
    """
    parsed = load_serve_config(config)
    from ntmpatch.runtime.node_list import list_nodes  # noqa: PLC0415 (--help needs none of it)

    listed = list_nodes(parsed)
    if as_json:
        print_json([each._asdict() for each in listed])
        return
    print_table(("NAME", "ADDRESS", "SEEN AT", "NAT", "WOKEN BY", "REGISTERED"), map(_row, listed))


def _row(node: ListedNode) -> tuple[str, ...]:
    registered = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(node.registered_at))
    return (
        node.name,
        node.ipv4 or node.ipv6 or "-",
        node.seen_at or "left",
        node.nat,
        node.device_type,
        registered,
    )
