"""The log: events with fields, no secrets, and no flood."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.base.errors import ConfigError
from ntmpatch.runtime import logs
from ntmpatch.runtime.drop_reports import DropReports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ntmpatch.base.config import LogFormat

log = logging.getLogger("ntmpatch.test")


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """The root logger, which is afterwards as it was."""
    monkeypatch.delenv("NTMPATCH_LOG", raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def configure(log_format: LogFormat = "text", level: str = "warning") -> None:
    """Configure as a program of ours does, in which pytest has arranged nothing."""
    logging.getLogger().handlers[:] = []
    logs.configure_log(log_format, level)


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure("text", "info")
    fields = {"node": "cam.home.example", "text": 'a "b"\nc=d', "new": True, "none": None}
    logs.log_event(log, "info", "registered", fields)
    logs.log_event(log, "debug", "unheard", {})
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    at, rest = line.split(" ", 1)
    assert at.endswith("Z")
    assert rest == 'INFO registered node=cam.home.example text="a \\"b\\"\\nc=d" new=yes\n'


def test_json_is_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info")
    logs.log_event(log, "info", "directed", {"load": 0.5, "peer": "x" * 1000, "key": b"secret"})
    log.warning("plain %s", "words")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("unexpected")
    first, second, third = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["event"], first["load"], first["key"]) == ("directed", 0.5, "(6 bytes)")
    assert len(first["peer"]) == logs.MAX_VALUE_SIZE
    assert (second["level"], second["logger"], second["text"]) == (
        "warning",
        "ntmpatch.test",
        "plain words",
    )
    assert "ValueError: broken" in third["traceback"]


def test_the_environment_goes_first(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NTMPATCH_LOG", "Debug")
    configure("text", "error")
    assert root.level == logging.DEBUG
    monkeypatch.setenv("NTMPATCH_LOG", "loud")
    with pytest.raises(ConfigError, match="NTMPATCH_LOG: 'loud' is no level"):
        logs.configure_log()


def test_a_flood_is_cut_and_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=lambda: now))
    configure("text", "info")
    drops = DropCounter()
    reports = DropReports({"dc": drops})
    for _ in range(10_000):
        logs.log_event(log, "info", "refused", {"peer": "stranger 01020304"})
        drops.drop(Drop.CONTROL_STRANGER)
    logs.log_event(log, "info", "registered", {})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == logs.LIMITED_BURST + 1
    assert lines[-1].endswith("INFO registered")
    reports.report()
    dropped, suppressed = capsys.readouterr().err.splitlines()
    assert dropped.endswith("INFO drops server=dc control_stranger=10000")
    assert suppressed.endswith(f"suppressed of=refused count={10_000 - int(logs.LIMITED_BURST)}")
    reports.close()
    assert capsys.readouterr().err == "", "nothing new"
