"""How servers end: those that others depend on last, and each when its work is done.

1. RS and NS tell their coordinators that they take nothing new. The relay goes on forwarding until
   its sessions have ended; the notification server goes on waking nodes. Then both say goodbye.
   For that, DC and AS still have to serve.
2. The DC finishes the directions and registrations under way, for which it may need the AS.
3. The AS finishes its requests. Databases have nothing to finish: what was answered is on the disk.

All together take at most the drain time; a second signal ends them at once.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import gevent
import gevent.event

from ntmpatch.runtime.logs import log_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.runtime.serve import Servers

log = logging.getLogger("ntmpatch.serve")

STAGES = (("rs", "ns"), ("dc",), ("as",))
FAREWELL_TIMEOUT = 3.0
"""Seconds for the goodbye, beside the drain time: else coordinators would go on choosing us."""


def drain(servers: Servers, drain_time: float, hurry: gevent.event.Event) -> None:
    """Let every server end in its turn, within ``drain_time`` seconds or until ``hurry`` is set."""
    deadline = time.monotonic() + drain_time
    for stage in STAGES:
        roles = [role for role in stage if role in servers.stations]
        if roles and not hurry.is_set():
            _drain_stage(servers, roles, deadline, hurry)
        for role in roles:
            servers.close_role(role)


def _drain_stage(
    servers: Servers, roles: Sequence[str], deadline: float, hurry: gevent.event.Event
) -> None:
    stations = [servers.stations[role] for role in roles]
    for station in stations:
        log_event(log, "info", "draining", {}, party=station.party)
        station.drain()
    for station in stations:
        _wait(station.idle, deadline, hurry)
        if not station.idle.is_set():
            log_event(log, "warning", "drain-incomplete", {}, party=station.party)
    for station in stations:
        station.leave()
    said_at = time.monotonic()
    for station in stations:
        # What still goes on (sessions of the relay, after the drain time) ends with the port.
        _wait(station.told, said_at + FAREWELL_TIMEOUT, hurry)


def _wait(event: gevent.event.Event, deadline: float, hurry: gevent.event.Event) -> None:
    gevent.wait([event, hurry], timeout=max(0.0, deadline - time.monotonic()), count=1)
