"""SIGHUP: the configuration is read again, and what can be changed while running is changed."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import msgspec

from ntmpatch.base.config import policy_of
from ntmpatch.base.errors import NtmpatchError
from ntmpatch.runtime.logs import configure_log, log_event
from ntmpatch.servers.relay.table import RelayLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.base.config import ServeConfig
    from ntmpatch.runtime.serve import Servers

log = logging.getLogger("ntmpatch.serve")

CHANGEABLE = frozenset(
    {
        ("serve", "drain_time"),
        ("policy", ""),
        ("log", "format"),
        ("log", "level"),
        ("rs", "max_sessions"),
        ("rs", "max_lifetime"),
        ("rs", "session_bytes"),
        ("rs", "session_mbit"),
        ("rs", "capacity_mbit"),
    }
)
"""Sections and keys that need no restart."""

_BYTES_PER_MBIT = 125_000


def relay_limits(config: ServeConfig) -> RelayLimits:
    """What ``[rs]`` says of what may pass."""
    section = config.rs
    return RelayLimits(
        max_sessions=section.max_sessions,
        max_lifetime=section.max_lifetime,
        session_bytes=section.session_bytes,
        session_rate=section.session_mbit * _BYTES_PER_MBIT,
        capacity=section.capacity_mbit * _BYTES_PER_MBIT,
    )


def reload(servers: Servers, read_config: Callable[[], ServeConfig] | None) -> None:
    """Go by the configuration as it is now; a broken one changes nothing, and is logged."""
    if read_config is None:
        log_event(log, "warning", "reload-ignored", {"reason": "there is no configuration file"})
        return
    try:
        fresh = read_config()
        changed = changes(servers.config, fresh)
        policy = policy_of(fresh.policy)
        configure_log(fresh.log.format, fresh.log.level)
    except (NtmpatchError, OSError) as error:
        log_event(log, "error", "reload-failed", {"error": error})
        return
    taken = [change for change in changed if change in CHANGEABLE]
    servers.config = _with(servers.config, fresh)
    coordinator = servers.stations.get("dc")
    if coordinator is not None:
        coordinator.party.policy = policy
    relay = servers.stations.get("rs")
    if relay is not None:
        relay.party.limit(relay_limits(servers.config), time.monotonic())
    log_event(log, "info", "reloaded", {"changed": _names(taken) or "nothing"})
    left = [change for change in changed if change not in CHANGEABLE]
    if left:
        log_event(log, "warning", "restart-needed", {"keys": _names(left)})


def changes(before: ServeConfig, after: ServeConfig) -> list[tuple[str, str]]:
    """Sections and keys in which two configurations differ; no key for a list of sections."""
    old, new = msgspec.to_builtins(before), msgspec.to_builtins(after)
    found: list[tuple[str, str]] = []
    for section, content in new.items():
        if isinstance(content, dict):
            found += [(section, key) for key in content if content[key] != old[section][key]]
        elif content != old[section]:
            found.append((section, ""))
    return found


def _with(before: ServeConfig, fresh: ServeConfig) -> ServeConfig:
    """``before``, with what can be changed as ``fresh`` has it: the rest is as it was started."""
    sections = {}
    for section in {section for section, _ in CHANGEABLE}:
        new = getattr(fresh, section)
        keys = {key: getattr(new, key) for name, key in CHANGEABLE if name == section and key}
        old = getattr(before, section)
        sections[section] = msgspec.structs.replace(old, **keys) if keys else new
    return msgspec.structs.replace(before, **sections)


def _names(keys: list[tuple[str, str]]) -> str:
    return ", ".join(f"[{section}] {key}" if key else f"[[{section}]]" for section, key in keys)
