"""``ntmpatch serve``: the servers, in this process."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from ntmpatch.base.errors import ConfigError
from ntmpatch.cli.console import print_facts, print_json
from ntmpatch.cli.options import json_option
from ntmpatch.cli.server_options import load_serve_config, serve_config_option

if TYPE_CHECKING:
    from ntmpatch.base.config import ServeConfig
    from ntmpatch.runtime.serve import Place, Servers


@click.command()
@click.argument(
    "roles",
    nargs=-1,
    type=click.Choice(["all", "as", "dc", "ns", "rs"]),
    metavar="[all|as|dc|ns|rs]...",
)
@serve_config_option
@click.option("--check", is_flag=True, help="Only tell whether the configuration is good.")
@json_option
def serve(roles: tuple[str, ...], config: str | None, check: bool, as_json: bool) -> None:
    """Run servers until SIGTERM or Ctrl-C: all four in one process, or those that are named.

    AS handles accounts, DC locates nodes and directs tunnels, NS wakes nodes, RS relays. One line
    on standard output tells when all of them serve.
    """
    parsed = load_serve_config(config)
    from ntmpatch.runtime.serve import ALL_ROLES  # noqa: PLC0415 (--help needs none of it)
    from ntmpatch.runtime.serve import serve as serve_roles  # noqa: PLC0415

    chosen = tuple(role for role in ALL_ROLES if not roles or "all" in roles or role in roles)
    facts = check_configuration(parsed, chosen)
    if check:
        print_json(facts) if as_json else print_facts({"configuration": "good", **facts})
        return
    configure_log()
    serve_roles(parsed, chosen, on_ready=lambda servers: _tell(servers, facts, as_json))


def check_configuration(config: ServeConfig, roles: tuple[str, ...]) -> dict[str, Any]:
    """Where the servers of ``roles`` will be; ConfigError if the configuration cannot work."""
    from ntmpatch.base.addresses import normalise_fqdn  # noqa: PLC0415 (as in serve)
    from ntmpatch.base.config import policy_of  # noqa: PLC0415
    from ntmpatch.runtime.accounts import account_server_endpoint  # noqa: PLC0415
    from ntmpatch.runtime.serve import place_of  # noqa: PLC0415
    from ntmpatch.runtime.settings import read_token  # noqa: PLC0415

    domain = normalise_fqdn(config.serve.domain)
    policy_of(config.policy)
    if "as" in roles:
        account_server_endpoint(config)
    for role in roles:
        token = config.account.token if role == "as" else getattr(config, role).token
        if token:
            read_token(token)
    places = {role: place_of(config, role, domain) for role in roles}
    for role, place in places.items():
        others = {other.bind: name for name, other in places.items() if name != role}
        if place.bind in others:
            raise ConfigError(f"[{role}] port: {place.bind} is [{others[place.bind]}]'s already")
    return {"domain": domain, "servers": {role: _describe(p) for role, p in places.items()}}


def configure_log() -> None:
    """Log to stderr from the level on that NTMPATCH_LOG names; warnings if it names none."""
    name = os.environ.get("NTMPATCH_LOG", "warning").upper()
    level = logging.getLevelNamesMapping().get(name)
    if level is None:
        raise ConfigError(f"NTMPATCH_LOG: {name.lower()!r} is no level, as debug, info or warning")
    logging.basicConfig(
        stream=sys.stderr, level=level, format="%(asctime)s %(name)s %(levelname)s: %(message)s"
    )


def _tell(servers: Servers, facts: dict[str, Any], as_json: bool) -> None:
    if servers.dns is not None:
        facts["dns"] = str(servers.dns.local)
    if as_json:
        # One line: it is read by whoever started us, while we go on.
        print(json.dumps({"ready": True, **facts}), flush=True)
        return
    places = ", ".join(f"{role} {place['bind']}" for role, place in facts["servers"].items())
    dns = f", dns {facts['dns']}" if "dns" in facts else ""
    print(f"serving {facts['domain']}: {places}{dns}", flush=True)


def _describe(place: Place) -> dict[str, str]:
    return {"name": place.name, "bind": str(place.bind), "public": str(place.public)}
