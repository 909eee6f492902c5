"""``serve --check``: a line for each thing that would keep servers from working, and no change."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ntmpatch.cli.main import run_command
from ntmpatch.runtime import checking

if TYPE_CHECKING:
    from collections.abc import Callable

DC_ALONE = "[serve]\nstate = '{state}'\n[dc]\ntoken = 'file:{token}'\n"


@pytest.fixture
def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """Checks a configuration: its problems, each without the file's name."""
    for name in [name for name in os.environ if name.startswith("NTMPATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(checking, "RESOLVER_TIMEOUT", 0.1)
    path = tmp_path / "servers.toml"

    def check(text: str, *roles: str) -> list[str]:
        path.write_text(
            text.replace("{state}", str(tmp_path / "state")).replace(
                "{token}", str(tmp_path / "token")
            )
        )
        before = sorted(tmp_path.rglob("*"))
        status = run_command(["serve", *roles, "--check", "--config", str(path)])
        assert sorted(tmp_path.rglob("*")) == before, "it has changed something"
        output = capsys.readouterr()
        assert status == (os.EX_CONFIG if output.err else 0)
        assert bool(output.out) is not bool(output.err)
        return [
            line.removeprefix("ntmpatch: ").removeprefix(f"{path}: ")
            for line in output.err.splitlines()
        ]

    return check


def test_every_problem_of_the_file_has_its_line(check: Callable[..., list[str]]) -> None:
    lines = check(
        "[serve]\nlisten = '127.0.0.1'\n"
        "[dc]\nport = 3470\n[ns]\nlisten = ['127.0.0.1', '127.0.0.2']\n"
        "[rs]\nlisten = '::1'\npublic = '192.0.2.1'\n"
    )
    assert lines == [
        "line 6: [ns] listen: expected one address, or one IPv4 and one IPv6 address",
        "line 9: [rs] public: an address of a family at which [rs] does not listen",
        "line 4: [dc] port: UDP 127.0.0.1:3470 is [as]'s already",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[ns]\nport = 3475\n", "[dns] port: UDP 127.0.0.1:3475 is [ns]'s already"),
        ("[dns]\nport = 3472\n", "line 2: [dns] port: UDP 127.0.0.1:3472 is [ns]'s already"),
        ("[metrics]\nlisten = '127.0.0.1'\nport = 3475\n", "line 3: [metrics] port: TCP"),
        ("[serve]\nlisten = '0.0.0.0'\npublic = '192.0.2.1'\n[rs]\nport = 3471\n", "line 5: [rs]"),
        ("[serve]\nlisten = '::'\n", "line 2: [serve] listen: :: is a wildcard"),
        ("[serve]\npublic = '::'\n", "line 2: [serve] public: :: is no address"),
        ("[rs]\nport = 0\n", "line 2: [rs] port: expected 1 to 65535"),
        ("[ns]\nname = 'ns'\n", "line 2: [ns] name: 'ns' is not a fully qualified name"),
        ("[[policy]]\nports = ['tcp/x']\n", "line 1: [[policy]] 1:"),
        ("[serve]\ndatabase = 'nonsense'\n", "line 2: [serve] database: not a URL"),
        ("[serve]\ndatabase = 'sqlite:////no/where/x.db'\n", "line 2: [serve] database: /no/where"),
        ("[rs]\nlisten = '192.0.2.99'\n", "line 2: [rs] listen: 192.0.2.99 is not an address of"),
        ("[dns]\nexempt = ['x']\n", "line 2: [dns] exempt: 'x' does not appear to be"),
        ("[dns]\nresolver = ['x']\n", "line 2: [dns] resolver: 'x' is neither an address"),
        (
            "[dns]\nresolver = ['127.0.0.1:1']\n",
            "line 2: [dns] resolver: 127.0.0.1:1 does not answer",
        ),
        (
            "[serve]\nstate = '/dev/null'\n",
            "line 2: [serve] state: /dev/null: expected a directory",
        ),
    ],
)
def test_what_cannot_work_is_told(check: Callable[..., list[str]], text: str, problem: str) -> None:
    lines = check(text)
    assert len(lines) == 1
    assert lines[0].startswith(problem)


def test_tokens_of_servers_on_their_own(
    check: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "account.toml"
    config.write_text(f"[serve]\nstate = '{tmp_path / 'as'}'\n")
    (line,) = check("[serve]\nstate = '{state}'\n", "dc")
    assert "[dc] token: expected" in line
    assert "account add --role dc dc.home.example" in line
    (line,) = check(DC_ALONE, "dc")
    assert line.startswith("line 4: [dc] token: ")
    assert "No such file" in line
    (tmp_path / "token").write_text("ntm1.secretsecret")
    (line,) = check(DC_ALONE, "dc")
    assert "secretsecret" not in line
    for name, problem in (("ns", "it is for ns.home.example"), ("dc", "")):
        arguments = ["account", "add", "--role", name, f"{name}.home.example"]
        assert run_command([*arguments, "--config", str(config)]) == 0
        (tmp_path / "token").write_text(capsys.readouterr().out)
        lines = check(DC_ALONE, "dc")
        assert [problem in line for line in lines] == ([True] if problem else [])


def test_files_that_others_can_read(check: Callable[..., list[str]], tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    text = "[serve]\nstate = '{state}'\n"
    (line,) = check(text)
    assert line.startswith("line 2: [serve] state: ")
    assert line.endswith("chmod 0700 it")
    state.chmod(0o700)
    assert check(text) == []
    key = state / "dc.key"
    key.write_bytes(bytes(32))
    key.chmod(0o640)
    (line,) = check(text)
    assert line.endswith("dc.key: others can read it (mode 0640): chmod 0600 it")


def test_a_database_of_another_version_and_a_damaged_one(
    check: Callable[..., list[str]], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    database = state / "account.db"
    text = "[serve]\nstate = '{state}'\n"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER)")
        connection.execute("INSERT INTO schema_version VALUES (999)")
    connection.close()
    database.chmod(0o600)
    (line,) = check(text)
    assert "newer ntmpatch (schema 999)" in line
    database.write_bytes(b"this is no database, but it is long enough to look like one" * 20)
    (line,) = check(text)
    assert "account.db: " in line
    assert "cannot be opened" in line
    assert (
        check("[serve]\ndatabase = 'postgresql+nodriver://u:pw@127.0.0.1:1/x'\n")[0].count("pw")
        == 0
    )


def test_low_ports_need_the_right_to_them(
    check: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "[dns]\nport = 53\n"
    monkeypatch.setattr(checking, "_may_bind_low_ports", lambda: False)
    start = int(Path(checking.UNPRIVILEGED_START).read_text())
    lines = check(text)
    assert [line.startswith("line 2: [dns] port: 53 is below") for line in lines] == (
        [True] if start > 53 else []
    )
    monkeypatch.setattr(checking, "_may_bind_low_ports", lambda: True)
    assert check(text) == []


def test_a_good_configuration_is_told_as_facts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "servers.toml"
    path.write_text("[serve]\nlisten = ['127.0.0.1', '::1']\n[rs]\nport = 7000\nname = 'rs9.a.b'\n")
    assert run_command(["serve", "as", "rs", "--check", "--json", "--config", str(path)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts["servers"]) == ["as", "rs"]
    assert facts["servers"]["rs"] == {
        "name": "rs9.a.b",
        "bind": "127.0.0.1:7000, [::1]:7000",
        "public": "127.0.0.1:7000, [::1]:7000",
    }
