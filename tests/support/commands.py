"""The command line in this process, and a configuration for servers on loopback."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ntmpatch.cli.demo.configuration import free_ports
from ntmpatch.cli.main import run_command

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest

HOST = "127.0.0.1"
ROLES = ("as", "dc", "ns", "rs", "dns")


def succeed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that is to succeed: its output."""
    assert run_command([str(argument) for argument in arguments]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def fail(capsys: pytest.CaptureFixture[str], status: int, *arguments: object) -> str:
    """Run a command that is to fail: its one line."""
    assert run_command([str(argument) for argument in arguments]) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("ntmpatch: ")
    assert output.err.count("\n") == 1
    return output.err


def write_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Mapping[str, str] | None = None
) -> Path:
    """A file for all servers on free ports, with their state in the test's own directory.

    ``more``: lines by section. Nothing of the tester's own environment counts from then on.
    """
    for name in [name for name in os.environ if name.startswith("NTMPATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-home"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "servers.toml"
    lines = [f'[serve]\nstate = "{tmp_path / "servers"}"']
    more = dict(more or {})
    sections = (*ROLES, *(section for section in more if section not in ROLES))
    for section, port in zip(sections, free_ports(HOST, len(sections)), strict=True):
        lines.append(f"[{section}]\nport = {port}\n{more.get(section, '')}")
    path.write_text("\n".join(lines))
    return path
