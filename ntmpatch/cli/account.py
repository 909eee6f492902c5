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
@click.option(
    "--domain",
    "domains",
    multiple=True,
    metavar="DOMAIN",
    help="A domain that a dc leads beside that of its own name; may be given again.",
)
@click.option(
    "--expires",
    type=click.FloatRange(min=0.0, min_open=True, max=36500.0),
    metavar="DAYS",
    help="The account ends after so many days; without: never.",
)
@_lifetime_option
@serve_config_option
def add(
    fqdn: str,
    role: str,
    domains: tuple[str, ...],
    expires: float | None,
    days: float,
    config: str | None,
) -> None:
    """Add an account; print its enrolment token, and nothing else, on standard output.

    Whoever has the token becomes FQDN: hand it over as you would a password. It is good once.
    """
    expires_in = None if expires is None else expires * _DAY
    click.echo(_open(config).add(fqdn, role, days * _DAY, expires_in=expires_in, domains=domains))


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
    """Take an account out: its tunnels end within half a minute."""
    _open(config).revoke(fqdn)


@account.command()
@click.argument("fqdn")
@serve_config_option
def remove(fqdn: str, config: str | None) -> None:
    """Take an account out and forget it.

    Its name is free at once; its virtual addresses are nobody's for a month.
    """
    _open(config).remove(fqdn)


@account.command()
@click.argument("fqdn")
@click.option(
    "--in",
    "days",
    type=click.FloatRange(min=0.0, max=36500.0),
    metavar="DAYS",
    help="It ends after so many days from now; 0: now.",
)
@click.option("--never", is_flag=True, help="It does not end.")
@serve_config_option
def expiry(fqdn: str, days: float | None, never: bool, config: str | None) -> None:
    """Change when an account ends."""
    if never == (days is not None):
        raise click.UsageError("give either --in DAYS or --never")
    _open(config).set_expiry(fqdn, None if days is None else days * _DAY)


@account.command("rotate-signing-key")
@click.option(
    "--overlap",
    type=click.FloatRange(min=0.0, max=365.0),
    default=4.5,
    show_default=True,
    metavar="DAYS",
    help="How long the new key is announced before it signs.",
)
@click.option(
    "--distrust",
    is_flag=True,
    help="The keys before may be in wrong hands: what they signed is void at once.",
)
@serve_config_option
@json_option
def rotate_signing_key(overlap: float, distrust: bool, config: str | None, as_json: bool) -> None:
    """Give the account server another key to certify with.

    Nothing else is to be done: everybody learns the new key before it is used, and believes the old
    one until all that it signed has run out. Tokens that were made before stay good.
    """
    signs_from = _open(config).rotate_signing_key(overlap * _DAY, distrust=distrust)
    if as_json:
        print_json({"signs_from": signs_from})
    else:
        click.echo(f"the new key signs from {_date(signs_from)} on")


@account.command()
@click.argument("fqdn", required=False)
@click.option(
    "--last",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="N",
    help="How many changes to show.",
)
@serve_config_option
@json_option
def log(fqdn: str | None, last: int, config: str | None, as_json: bool) -> None:
    """Show what was changed, by whom and from where; of FQDN, or of all."""
    rows = _open(config).log(fqdn, last)
    if as_json:
        print_json([row._asdict() for row in rows])
        return
    print_table(
        ("WHEN", "WHO", "FROM", "WHAT", "OF"),
        ((_date(row.at), row.who, row.origin, row.action, row.subject) for row in rows),
    )


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
        ("NAME", "ROLE", "STATUS", "ADDED", "EXPIRES"),
        (
            (
                row.fqdn,
                row.role,
                row.status,
                _date(row.created_at),
                "never" if row.expires_at is None else _date(row.expires_at),
            )
            for row in rows
        ),
    )


def _open(config: str | None) -> Accounts:
    parsed = load_serve_config(config)
    from ntmpatch.runtime.accounts import Accounts  # noqa: PLC0415 (--help needs none of it)

    return Accounts(parsed)


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
