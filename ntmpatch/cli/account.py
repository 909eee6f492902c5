"""``ntmpatch account``: the accounts of an account server, on its own state, running or not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from ntmpatch.cli.console import print_json, print_table
from ntmpatch.cli.options import json_option
from ntmpatch.cli.server_options import load_serve_config, serve_config_option

if TYPE_CHECKING:
    from ntmpatch.runtime.accounts import Accounts

_DAY = 86400.0

_lifetime_option = click.option(
    "--days",
    type=click.FloatRange(min=0.0, min_open=True, max=3650.0),
    default=7.0,
    show_default=True,
    help="How long the token can be used.",
)


@click.group()
def account() -> None:
    """Manage accounts: who may be a node, or a server, of the domain.

    Works where the account server's state is, whether it runs or not; a change takes effect at
    once.
    """


@account.command()
@click.argument("fqdn")
@click.option(
    "--role",
    type=click.Choice(["node", "dc", "ns", "rs"]),
    default="node",
    show_default=True,
    help="What the account is for.",
)
@_lifetime_option
@serve_config_option
def add(fqdn: str, role: str, days: float, config: str | None) -> None:
    """Add an account; print its enrolment token, and nothing else, on standard output.

    Whoever has the token becomes FQDN: hand it over as you would a password. It is good once.
    """
    click.echo(_open(config).add(fqdn, role, days * _DAY))


@account.command()
@click.argument("fqdn")
@_lifetime_option
@serve_config_option
def reissue(fqdn: str, days: float, config: str | None) -> None:
    """Print another enrolment token for an account, also for one that was revoked.

    The node that is enrolled under this name is out at once; tokens that were not used are void.
    """
    click.echo(_open(config).reissue(fqdn, days * _DAY))


@account.command()
@click.argument("fqdn")
@serve_config_option
def revoke(fqdn: str, config: str | None) -> None:
    """Take an account out: coordinators learn it within a minute."""
    _open(config).revoke(fqdn)


@account.command("list")
@serve_config_option
@json_option
def list_(config: str | None, as_json: bool) -> None:
    """Show all accounts."""
    rows = _open(config).list()
    if as_json:
        print_json([row._asdict() for row in rows])
        return
    print_table(
        ("NAME", "ROLE", "STATUS", "ADDED"),
        ((row.fqdn, row.role, row.status, _date(row.created_at)) for row in rows),
    )


def _open(config: str | None) -> Accounts:
    parsed = load_serve_config(config)
    from ntmpatch.runtime.accounts import Accounts  # noqa: PLC0415 (--help needs none of it)

    return Accounts(parsed)


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
