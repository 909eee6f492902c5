"""``ntmpatch run``: execute a program in our place, with the hook in front of it.

The process that started ``run`` becomes the program: same pid, terminal, descriptors, and its exit
status and signals are its own.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import click

from ntmpatch.cli.exits import EX_NOT_EXECUTABLE, CommandError, complain
from ntmpatch.cli.hook import add_hook
from ntmpatch.cli.identity import ensure_identity
from ntmpatch.cli.options import (
    CONFIG_VARIABLE,
    STATE_VARIABLE,
    TOKEN_VARIABLE,
    config_option,
    state_option,
    token_option,
)
from ntmpatch.cli.target import resolve_target
from ntmpatch.runtime.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ntmpatch.cli.target import Target


class RunCommand(click.Command):
    """Options of ours end where the program begins; everything from there on is the program's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ours, ctx.meta["ntmpatch.words"] = self.split(args)
        return super().parse_args(ctx, ours)

    def split(self, args: Sequence[str]) -> tuple[list[str], list[str]]:
        """Our options, and the words of the program: from -m, -c, - or a name on, or after --."""
        with_value = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and not parameter.is_flag
            for name in parameter.opts
        }
        position = 0
        while position < len(args):
            word = args[position]
            if word == "--":
                return list(args[:position]), list(args[position + 1 :])
            if not word.startswith("-") or word == "-" or word.startswith(("-m", "-c")):
                break
            position += 2 if word in with_value else 1
        return list(args[:position]), list(args[position:])

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(
            ctx.command_path,
            "[OPTIONS] (SCRIPT | -m MODULE | -c CODE | PROGRAM) [ARGUMENTS]...",
        )


@click.command(cls=RunCommand)
@token_option
@config_option
@state_option
@click.option("--gevent", is_flag=True, help="Also apply gevent's monkey patching.")
@click.option(
    "--check",
    is_flag=True,
    help="Only tell what would be run and patched, and which node it would use.",
)
@click.option("--json", "as_json", is_flag=True, help="With --check, print one JSON document.")
@click.pass_context
def run(
    ctx: click.Context,
    token: str | None,
    config: str | None,
    state: str | None,
    gevent: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Run a Python program, unchanged, with sockets that reach nodes by name.

    SCRIPT may be a file, a directory or a zip file with a __main__, or - for standard input. A
    PROGRAM that is no Python is run as it is; its Python children are patched.
    """
    if check:
        from ntmpatch.cli.check import check_run  # noqa: PLC0415 (only where it is asked for)

        words = ctx.meta["ntmpatch.words"]
        check_run(words, token, config, state, gevent=gevent, as_json=as_json)
        return
    if as_json:
        raise click.UsageError("--json goes with --check", ctx)
    target = resolve_target(ctx.meta["ntmpatch.words"])
    environment = dict(os.environ)
    environment.update(identity_environment(token, config, state))
    # Enrolled, the process has no more use for the secret, nor have its children.
    environment.pop(TOKEN_VARIABLE, None)
    add_hook(environment, gevent=gevent)
    execute(target, environment)


def identity_environment(
    token: str | None, config: str | None, state: str | None
) -> dict[str, str]:
    """Make sure that there is an identity; the variables by which the program's process finds it.

    Raises ConfigError, RefusedError and UnavailableError.
    """
    settings = load_settings(token=token, config=config, state=state)
    ensure_identity(settings)
    variables = {STATE_VARIABLE: os.path.abspath(settings.state.path)}
    if settings.config_path is not None:
        variables[CONFIG_VARIABLE] = os.path.abspath(settings.config_path)
    return variables


def execute(target: Target, environment: Mapping[str, str]) -> None:
    """Become the program; returns only by raising CommandError."""
    if target.remark:
        complain(target.remark)
    if sys.stdout is not None:  # it was closed before us
        sys.stdout.flush()
    # Python ignores these, and ignored signals stay ignored across execve: a shell or `head` run
    # by us would miss them. A Python program ignores them again by itself.
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execve(target.executable, target.arguments, dict(environment))
    except OSError as error:
        raise CommandError(f"{target.executable}: {error.strerror}", EX_NOT_EXECUTABLE) from error
