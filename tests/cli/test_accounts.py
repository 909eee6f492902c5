"""Accounts as an administrator handles them, and a node's key that is rotated, killed or not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from commands import fail, succeed, write_config

from ntmpatch.crypto.token import parse_token
from ntmpatch.runtime.state import ROTATION

if TYPE_CHECKING:
    from pathlib import Path

STEPS = (
    "write rotation",
    "offer",
    "enrol",
    "write private.key",
    "write enrolment",
    "write names.json",
)
"""Of a rotation, each durable before the next; after the last, the first file is removed."""
_ROTATE = """
import os, signal, sys
from ntmpatch.cli import rotate_key as command
from ntmpatch.runtime import rotation
from ntmpatch.runtime.settings import load_settings
from ntmpatch.runtime.state import StateDirectory

def killed_after(step, call):
    def wrapped(*args, **more):
        result = call(*args, **more)
        name = f"write {args[1]}" if step == "write" else step
        if name == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped

StateDirectory.write = killed_after("write", StateDirectory.write)
rotation.offer_key = killed_after("offer", rotation.offer_key)
rotation.enrolled_by = killed_after("enrol", rotation.enrolled_by)
rotation.rotate_key(load_settings(state=sys.argv[1]), 15.0)
"""
_OWN_ADDRESS = "import socket; print(socket.gethostbyname('cam.home.example'))"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two domains."""
    return write_config(tmp_path, monkeypatch, {"as": 'domains = ["home.example", "b.example"]'})


def test_accounts_of_several_domains_end_are_removed_and_every_change_is_logged(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def account(*arguments: str) -> str:
        return succeed(capsys, "account", *arguments, "--config", config)

    token = account("add", "a.b.example", "--expires", "30")
    account("add", "dc.b.example", "--role", "dc", "--domain", "cars.b.example")
    account("revoke", "a.b.example")
    account("reissue", "a.b.example")
    account("expiry", "a.b.example", "--in", "0")
    rows = {row["fqdn"]: row for row in json.loads(account("list", "--json"))}
    assert rows["dc.b.example"]["domains"] == ["cars.b.example"]
    assert rows["a.b.example"]["status"] == "expired"
    account("expiry", "a.b.example", "--never")
    account("remove", "a.b.example")
    account("add", "a.b.example")

    log = json.loads(account("log", "a.b.example", "--json"))
    actions = ["add", "revoke", "reissue", "expiry", "expiry", "remove", "add"]
    assert [row["action"] for row in log] == actions
    assert all(row["who"] and row["origin"].startswith("command line on ") for row in log)
    assert log[0]["at"] <= log[-1]["at"]
    told = account("log")
    assert "remove" in told
    secrets = parse_token(token)
    for secret in (secrets.secret, secrets.token_id):
        assert secret.hex() not in json.dumps(log) + told


def test_what_is_refused_of_accounts(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for status, arguments, words in (
        (os.EX_CONFIG, ["add", "a.c.example"], "home.example, b.example"),
        (os.EX_CONFIG, ["add", "a.b.example", "--domain", "x.b.example"], "only a dc"),
        (os.EX_CONFIG, ["add", "dc.b.example", "--role", "dc", "--domain", "c.example"], "not in"),
        (os.EX_NOPERM, ["remove", "a.b.example"], "no account"),
        (os.EX_NOPERM, ["expiry", "a.b.example", "--never"], "no account"),
        (os.EX_USAGE, ["expiry", "a.b.example"], "--never"),
        (os.EX_USAGE, ["add", "a.b.example", "--expires", "0"], "expires"),
    ):
        assert words in fail(capsys, status, "account", *arguments, "--config", config)


def test_a_signing_key_is_rotated_while_the_as_runs_and_older_tokens_stay_good(
    servers: Any, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert servers.poll() is None
    old = succeed(capsys, "account", "add", "cam.home.example", "--config", config)
    words = ["account", "rotate-signing-key", "--config", config]
    signs_from = json.loads(succeed(capsys, *words, "--overlap", "0", "--json"))["signs_from"]
    again = json.loads(succeed(capsys, *words, "--json"))["signs_from"]
    assert again > signs_from + 4 * 86400.0
    assert "already" in fail(capsys, os.EX_NOPERM, *words)
    new = succeed(capsys, "account", "add", "desk.home.example", "--config", config)
    assert parse_token(old).signing_key != parse_token(new).signing_key
    for token, state in ((old, "old"), (new, "new")):
        ran = ntmpatch("run", "--token", token.strip(), "--state", state, "-c", "print('ran')")
        assert ran == ("ran\n", "", 0)
    log = json.loads(succeed(capsys, "account", "log", "--json", "--config", config))
    assert [row["action"] for row in log].count("rotate-signing-key") == 2


@pytest.mark.once
def test_a_node_whose_key_rotation_is_killed_anywhere_is_the_same_node(
    servers: Any, config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert servers.poll() is None
    token = succeed(capsys, "account", "add", "cam.home.example", "--config", config).strip()
    address, *_ = ntmpatch("run", "--token", token, "--state", "cam", "-c", _OWN_ADDRESS)
    assert address.startswith("198.18.")
    keys = [(tmp_path / "cam" / "private.key").read_bytes()]
    for step in STEPS:
        command = [sys.executable, "-c", _ROTATE, "cam", step]
        killed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert killed.returncode == -signal.SIGKILL, (step, killed.stderr)
        assert (tmp_path / "cam" / ROTATION).exists()
        # The next start finishes it: with the name, the address, and the new key.
        ran = ntmpatch("run", "--state", "cam", "-c", _OWN_ADDRESS)
        assert ran == (address, "", 0), step
        assert not (tmp_path / "cam" / ROTATION).exists()
        keys.append((tmp_path / "cam" / "private.key").read_bytes())
    assert ntmpatch("rotate-key", "--state", "cam") == ("", "", 0)
    assert ntmpatch("run", "--state", "cam", "-c", _OWN_ADDRESS) == (address, "", 0)
    keys.append((tmp_path / "cam" / "private.key").read_bytes())
    assert len(set(keys)) == len(STEPS) + 2
    rows = json.loads(succeed(capsys, "account", "list", "--json", "--config", config))
    assert [row["status"] for row in rows if row["fqdn"] == "cam.home.example"] == ["enrolled"]


def test_a_running_node_s_key_is_not_rotated(
    servers: Any, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert servers.poll() is None
    line = fail(capsys, os.EX_CONFIG, "rotate-key", "--state", "none")
    assert "no identity" in line
    token = succeed(capsys, "account", "add", "cam.home.example", "--config", config).strip()
    code = "import socket; socket.gethostbyname('cam.home.example'); print(1, flush=True); input()"
    command = [sys.executable, "-m", "ntmpatch", "run", "--token", token, "--state", "cam"]
    with subprocess.Popen(
        [*command, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "1\n" or program.poll() is not None
        assert "running" in fail(capsys, os.EX_NOPERM, "rotate-key", "--state", "cam")
        program.communicate("\n", timeout=60)


def ntmpatch(*arguments: str) -> tuple[str, str, int]:
    """Run a command in a process of its own: what it printed, and its status."""
    ended = subprocess.run(
        [sys.executable, "-m", "ntmpatch", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return ended.stdout, ended.stderr, ended.returncode
