"""``ntmpatch trace``: a tunnel's set-up as the paper's figure, numbered, with times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from ntmpatch.base.addresses import normalise_fqdn
from ntmpatch.base.errors import RefusedError, UnavailableError
from ntmpatch.cli.console import print_json
from ntmpatch.cli.control import running_node
from ntmpatch.cli.options import config_option, json_option, state_option, token_option
from ntmpatch.runtime.settings import load_settings
from ntmpatch.wire import local

if TYPE_CHECKING:
    from collections.abc import Sequence

TRACE_TIMEOUT = 45.0
"""Seconds: being registered, a look-up, and the coordinators' parts, each with its own bound."""


@click.command()
@click.argument("fqdn")
@token_option
@config_option
@state_option
@json_option
def trace(
    fqdn: str, token: str | None, config: str | None, state: str | None, as_json: bool
) -> None:
    """Have a tunnel to FQDN directed, and print each step of it with its time.

    The node is the one with this state directory; if none is running, one runs for as long as this
    takes. A tunnel that is up is directed anew: its connections go on meanwhile. What the
    coordinators and notification servers beyond saw is asked of them. Times are milliseconds since
    the look-up began; those of other machines are set between what both sides saw.
    """
    name = normalise_fqdn(fqdn)
    settings = load_settings(token=token, config=config, state=state)
    with running_node(settings, TRACE_TIMEOUT) as node:
        report = msgspec.json.decode(node.ask(local.Trace(name), local.Report).json)
    if as_json:
        print_json(report)
    else:
        for line in figure(report):
            click.echo(line)
    if report["failure"]:
        kind = RefusedError if report["is_unknown"] else UnavailableError
        raise kind(str(report["failure"]))


def figure(report: dict[str, Any]) -> Sequence[str]:
    """The lines that are printed for a report of the node."""
    rows = [_row(steps) for steps in _together(report["steps"])]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        f"Fig. 3: tunnel creation to {report['fqdn']}; milliseconds since the look-up",
        *(
            f"{number:>{widths[0]}}  {at:>{widths[1]}}  {way:<{widths[2]}}  {title}".rstrip()
            for number, at, way, title in rows
        ),
    ]


def _together(steps: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Steps of one line: each has its own, but for runs that were not seen for one reason."""
    grouped: list[list[dict[str, Any]]] = []
    for step in steps:
        before = grouped[-1][-1] if grouped else None
        if (
            before is not None
            and before["at_ms"] is None is step["at_ms"]
            and before["note"] == step["note"]
        ):
            grouped[-1].append(step)
        else:
            grouped.append([step])
    return grouped


def _row(steps: list[dict[str, Any]]) -> tuple[str, str, str, str]:
    first, last = steps[0], steps[-1]
    figure_number, _, number = first["step"].partition(".")
    label = f"({number})" if figure_number == "3" else f"Fig. {figure_number} ({number})"
    if last is not first:
        label += f"-({last['step'].partition('.')[2]})"
    at = "-" if first["at_ms"] is None else f"{first['at_ms']:.2f}"
    sender, receiver = first["sender"], first["receiver"]
    way = sender if sender == receiver else f"{sender} → {receiver}"
    title = first["title"] if last is first else ""
    if first["refused"]:
        title += ": refused"
    note = f"[{first['note']}]" if first["note"] else ""
    return label, at, way, f"{title}  {note}".strip()
