"""``ntmpatch zone``: the coordinator's zones in DNS, from its own state, running or not."""

from __future__ import annotations

import click

from ntmpatch.cli.console import print_json, print_table
from ntmpatch.cli.options import json_option
from ntmpatch.cli.server_options import load_serve_config, serve_config_option


@click.group()
def zone() -> None:
    """Show the zones that a coordinator serves in DNS.

    Works where the coordinator's state is, whether it runs or not.
    """


@zone.command("list")
@serve_config_option
@json_option
def list_(config: str | None, as_json: bool) -> None:
    """Show the names of all zones: the domains, and the reverse zones of the virtual prefixes."""
    parsed = load_serve_config(config)
    from ntmpatch.runtime.zone_export import load_zones  # noqa: PLC0415 (--help needs none of it)

    rows = [
        (each.text, "-" if each.prefix is None else str(each.prefix))
        for each in load_zones(parsed).all()
    ]
    if as_json:
        print_json([{"zone": name, "prefix": None if p == "-" else p} for name, p in rows])
        return
    print_table(("ZONE", "REVERSE OF"), rows)


@zone.command()
@click.argument("name", required=False)
@serve_config_option
def export(name: str | None, config: str | None) -> None:
    """Print a zone as a master file, as named-checkzone and other name servers read it.

    NAME is a domain, a reverse zone, or a virtual address or prefix for the reverse zone that it
    lies in; without it, the zone of the coordinator's first domain. Servers that only announce
    themselves to a running coordinator are missing.
    """
    parsed = load_serve_config(config)
    from ntmpatch.runtime.zone_export import (  # noqa: PLC0415 (as above)
        load_zones,
        master_file,
        zone_named,
    )

    zones = load_zones(parsed)
    chosen = zones.all()[0] if name is None else zone_named(zones, name)
    for line in master_file(zones, chosen):
        click.echo(line)
