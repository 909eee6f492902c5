"""``ntmpatch netcheck``: which networks there are, what NATs do, and which servers answer."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from ntmpatch.base.errors import UnavailableError
from ntmpatch.cli.console import print_json, print_table
from ntmpatch.cli.control import running_node
from ntmpatch.cli.options import config_option, json_option, state_option, token_option
from ntmpatch.runtime.settings import load_settings
from ntmpatch.wire import local

NETCHECK_TIMEOUT = 20.0
"""Seconds: being registered, the NAT's discovery and the probes, each with its own bound."""
WORDS = {
    "unknown": "what a NAT does there is not known",
    "no NAT": "no NAT",
    "endpoint-independent": "behind a NAT that maps a port alike for everybody",
    "endpoint-dependent": "behind a NAT that maps a port anew for each destination",
}


@click.command()
@token_option
@config_option
@state_option
@json_option
def netcheck(token: str | None, config: str | None, state: str | None, as_json: bool) -> None:
    """Tell how this machine's networks look to a node, and which servers answer how fast.

    The node is the one with this state directory; if none is running, one runs for as long as this
    takes. Servers are asked from sockets made for it, so that tunnels notice nothing.
    """
    settings = load_settings(token=token, config=config, state=state)
    with running_node(settings, NETCHECK_TIMEOUT) as node:
        report = msgspec.json.decode(node.ask(local.Netcheck(), local.Report).json)
    if as_json:
        print_json(report)
    else:
        print_report(report)
    if not any(server["reachable"] for server in report["servers"]):
        raise UnavailableError("no server answers")


def print_report(report: dict[str, Any]) -> None:
    """The report for people."""
    standing = "registered" if report["registered"] else "not registered"
    print(f"{report['fqdn'] or 'a node that is not enrolled yet'}: {standing}")
    print()
    print_table(
        ("INTERFACE", "ADDRESS", ""),
        [
            (
                network["name"],
                network["address"],
                ", ".join(word for word in ("default_route", "metered") if network[word]).replace(
                    "_", " "
                ),
            )
            for network in report["interfaces"]
        ],
    )
    print()
    for family, title in (("ipv4", "IPv4"), ("ipv6", "IPv6")):
        facts = report[family]
        if not facts["usable"]:
            print(f"{title}: not usable")
            continue
        print(f"{title}: {WORDS.get(facts['mapping'], facts['mapping'])}")
        for server, seen in facts["seen_by"].items():
            print(f"  seen at {seen} by {'the coordinator' if server == 'coordinator' else server}")
    print(
        "UDP: no answer, it is blocked or all servers are away"
        if report["udp_blocked"]
        else "UDP: gets through"
    )
    print()
    print_table(
        ("SERVER", "NAME", "ENDPOINT", "BY", "ROUND TRIP"),
        [
            (
                server["role"],
                server["name"] or "-",
                server["endpoint"],
                server["protocol"],
                _round_trip(server),
            )
            for server in report["servers"]
        ],
    )


def _round_trip(server: dict[str, Any]) -> str:
    if not server["reachable"]:
        return "no answer"
    rtt = server["rtt_ms"]
    return "only after repetition" if rtt is None else f"{rtt:.2f} ms"
