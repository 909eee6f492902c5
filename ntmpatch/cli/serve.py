"""``ntmpatch serve``: the servers, in this process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ntmpatch.base.errors import ConfigError
from ntmpatch.cli.console import print_facts, print_json
from ntmpatch.cli.exits import EX_CONFIG, complain
from ntmpatch.cli.options import json_option
from ntmpatch.cli.server_options import load_serve_config, locate, serve_config_option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ntmpatch.base.config import ServeConfig
    from ntmpatch.runtime.checking import Problem
    from ntmpatch.runtime.places import Place
    from ntmpatch.runtime.serve import Servers


@click.command()
@click.argument(
    "roles",
    nargs=-1,
    type=click.Choice(["all", "as", "dc", "ns", "rs"]),
    metavar="[all|as|dc|ns|rs]...",
)
@serve_config_option
@click.option("--check", is_flag=True, help="Only tell what would keep them from working.")
@json_option
def serve(roles: tuple[str, ...], config: str | None, check: bool, as_json: bool) -> int:
    """Run servers until SIGTERM or Ctrl-C: all four in one process, or those that are named.

    AS handles accounts, DC locates nodes and directs tunnels, NS wakes nodes, RS relays. One line
    on standard output tells when all of them serve. The first SIGTERM lets what is under way end,
    the second ends at once; SIGHUP reads the configuration again.
    """
    parsed = load_serve_config(config)
    from ntmpatch.runtime.places import ALL_ROLES  # noqa: PLC0415 (--help needs none of it)

    chosen = tuple(role for role in ALL_ROLES if not roles or "all" in roles or role in roles)
    if check:
        return _check(parsed, chosen, config, as_json)
    from ntmpatch.runtime.checking import configuration_problems, places_of  # noqa: PLC0415
    from ntmpatch.runtime.logs import configure_log  # noqa: PLC0415 (as in the first line)
    from ntmpatch.runtime.serve import serve as serve_roles  # noqa: PLC0415

    for problem in configuration_problems(parsed, chosen):
        raise ConfigError(_line(problem, config))
    facts = _describe(parsed, places_of(parsed, chosen))
    configure_log(parsed.log.format, parsed.log.level)
    serve_roles(
        parsed,
        chosen,
        on_ready=lambda servers: _tell(servers, facts, as_json),
        read_config=(lambda: load_serve_config(config)) if config is not None else None,
    )
    return 0


def _check(config: ServeConfig, roles: tuple[str, ...], path: str | None, as_json: bool) -> int:
    """Print where the servers will be, or a line for each problem; the exit status."""
    from ntmpatch.runtime import checking  # noqa: PLC0415 (as in serve)

    problems = checking.configuration_problems(config, roles)
    problems = problems or checking.machine_problems(config, roles)
    for problem in problems:
        complain(_line(problem, path))
    if problems:
        return EX_CONFIG
    facts = _describe(config, checking.places_of(config, roles))
    print_json(facts) if as_json else print_facts({"configuration": "good", **facts})
    return 0


def _line(problem: Problem, path: str | None) -> str:
    place = locate(path, problem.section, problem.key) if path is not None else ""
    return f"{place}{problem}"


def _tell(servers: Servers, facts: dict[str, Any], as_json: bool) -> None:
    if servers.dns:
        facts["dns"] = ", ".join(str(service.local) for service in servers.dns)
    if as_json:
        # One line: it is read by whoever started us, while we go on.
        print(json.dumps({"ready": True, **facts}), flush=True)
        return
    places = ", ".join(f"{role} {place['bind']}" for role, place in facts["servers"].items())
    dns = f", dns {facts['dns']}" if "dns" in facts else ""
    print(f"serving {facts['domain']}: {places}{dns}", flush=True)


def _describe(config: ServeConfig, places: Mapping[str, Place]) -> dict[str, Any]:
    servers = {
        role: {
            "name": place.name,
            "bind": ", ".join(map(str, place.binds)),
            "public": ", ".join(map(str, place.publics)),
        }
        for role, place in places.items()
    }
    return {"domain": config.serve.domain, "servers": servers}
