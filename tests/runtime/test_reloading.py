"""SIGHUP: what can change while running does, and the log names the rest."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ntmpatch.base.config import ServeConfig, parse_serve_config
from ntmpatch.base.errors import ConfigError
from ntmpatch.runtime.logs import LoggedEvent
from ntmpatch.runtime.reloading import changes, reload

if TYPE_CHECKING:
    import pytest


class Relay:
    """A relay party, as far as reloading goes."""

    def __init__(self) -> None:
        self.limits: Any = None

    def limit(self, limits: Any, _now: float) -> None:
        self.limits = limits


def test_what_can_change_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = parse_serve_config("[rs]\nport = 7000\nsession_mbit = 8\n", "s.toml")
    fresh = parse_serve_config(
        "[serve]\ndrain_time = 5\n[rs]\nport = 7001\nsession_mbit = 16\n"
        "[[policy]]\nfrom = ['*.home.example']\n",
        "s.toml",
    )
    assert changes(before, fresh) == [
        ("serve", "drain_time"),
        ("rs", "port"),
        ("rs", "session_mbit"),
        ("policy", ""),
    ]
    relay, coordinator = Relay(), SimpleNamespace(policy=None)
    servers: Any = SimpleNamespace(
        config=before,
        stations={"rs": SimpleNamespace(party=relay), "dc": SimpleNamespace(party=coordinator)},
    )
    reload(servers, lambda: fresh)
    assert relay.limits.session_rate == 2e6
    assert coordinator.policy.access("a.other.example", "b.home.example") == ()
    assert servers.config.serve.drain_time == 5.0
    assert servers.config.rs.port == 7000, "as it was started"
    events = [record.msg for record in caplog.records if isinstance(record.msg, LoggedEvent)]
    fields = {event.event: event.fields for event in events}
    assert fields["reloaded"] == {"changed": "[serve] drain_time, [rs] session_mbit, [[policy]]"}
    assert fields["restart-needed"] == {"keys": "[rs] port"}


def test_a_broken_file_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    servers: Any = SimpleNamespace(config=ServeConfig(), stations={})

    def read() -> ServeConfig:
        raise ConfigError("s.toml: line 1: broken")

    reload(servers, read)
    reload(servers, None)
    assert servers.config == ServeConfig()
    assert caplog.messages == [
        'reload-failed error="s.toml: line 1: broken"',
        'reload-ignored reason="there is no configuration file"',
    ]
