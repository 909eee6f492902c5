"""The group of commands. Each is imported when it is called: ``run`` waits for nobody's library."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

import click

from ntmpatch import __version__
from ntmpatch.cli.exits import guarded

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final = {
    "demo": ("ntmpatch.cli.demo.command", "Show the whole system on this machine."),
    "serve": ("ntmpatch.cli.serve", "Run the servers."),
    "account": ("ntmpatch.cli.account", "Manage the accounts of nodes."),
    "nodes": ("ntmpatch.cli.nodes", "Show where a coordinator's nodes are."),
    "zone": ("ntmpatch.cli.zone", "Show a coordinator's zones in DNS."),
    "run": ("ntmpatch.cli.run", "Run a program whose sockets reach nodes by name."),
    "up": ("ntmpatch.cli.up", "Run a node that programs share."),
    "trace": ("ntmpatch.cli.trace", "Show how a tunnel is set up, step by step."),
    "events": ("ntmpatch.cli.events", "Follow what happens to a running node's paths."),
    "wake": ("ntmpatch.cli.wake", "Tell a running node that its coordinator wants it."),
    "rotate-key": ("ntmpatch.cli.rotate_key", "Give a node another private key."),
    "netcheck": ("ntmpatch.cli.netcheck", "Tell how this machine's networks look to a node."),
    "status": ("ntmpatch.cli.status", "Tell what a running node knows."),
}
"""Name, module that holds a click command of that name, and the line in the list of commands."""


class Commands(click.Group):
    """A group that knows its commands by name and imports one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = getattr(
            importlib.import_module(COMMANDS[cmd_name][0]), cmd_name.replace("-", "_")
        )
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ntmpatch", message="%(prog)s %(version)s")
def ntmpatch() -> None:
    """IP mobility and reachability for unmodified Python programs."""


def run_command(arguments: Sequence[str]) -> int:
    """Run the command line on ``arguments`` (without the program's name): the exit status."""
    return guarded(
        lambda: ntmpatch.main(list(arguments), prog_name="ntmpatch", standalone_mode=False)
    )
