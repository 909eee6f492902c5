"""``serve``, ``account`` and enrolment by ``run``, with real servers on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from commands import HOST, fail, succeed, write_config

from ntmpatch.cli import identity
from ntmpatch.crypto.token import parse_token

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All servers, and their metrics."""
    return write_config(tmp_path, monkeypatch, {"metrics": f'listen = "{HOST}"'})


def test_add_prints_the_token_and_nothing_else(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = succeed(capsys, "account", "add", "Cam.home.example", "--config", config)
    assert token.endswith("\n")
    assert parse_token(token).fqdn == "cam.home.example"
    rows = json.loads(succeed(capsys, "account", "list", "--json", "--config", config))
    assert [(row["fqdn"], row["role"], row["status"]) for row in rows] == [
        ("cam.home.example", "node", "invited")
    ]
    assert "cam.home.example  node  invited" in succeed(
        capsys, "account", "list", "--config", config
    )


def test_what_accounts_refuse(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed(capsys, "account", "add", "a.home.example", "--config", config)
    for status, arguments, words in (
        (os.EX_NOPERM, ["add", "a.home.example"], "already"),
        (os.EX_NOPERM, ["revoke", "b.home.example"], "no account"),
        (os.EX_NOPERM, ["reissue", "b.home.example"], "no account"),
        (os.EX_CONFIG, ["add", "a.other.example"], "not in home.example"),
        (os.EX_CONFIG, ["add", "bad..name"], "fully qualified"),
        (os.EX_USAGE, ["add"], "FQDN"),
        (os.EX_USAGE, ["add", "a.home.example", "--role", "king"], "king"),
        (os.EX_USAGE, ["add", "a.home.example", "--days", "0"], "days"),
    ):
        assert words in fail(capsys, status, "account", *arguments, "--config", config)


def test_check_tells_places_and_starts_nothing(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = json.loads(succeed(capsys, "serve", "--check", "--json", "--config", config))
    assert sorted(facts["servers"]) == ["as", "dc", "ns", "rs"]
    assert not (config.parent / "servers").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[serve]\ndomain = 'single'\n", "single"),
        ("[serve]\nlisten = 'somewhere'\n", "somewhere"),
        ("[serve]\nlisten = '0.0.0.0'\n", "public"),
        ("[serve]\n\nstat = ''\n", "line 3: stat: unknown key"),
        ("[rs]\nport = 3470\n", "[as]"),
        ("[dc]\ntoken = 'nonsense'\n", "token"),
        ("[as]\nport = 70000\n", "port"),
        ("[serve\n", "broken.toml"),
    ],
)
def test_a_configuration_that_cannot_work_is_78(
    config: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    broken = config.with_name("broken.toml")
    broken.write_text(text)
    assert words in fail(capsys, os.EX_CONFIG, "serve", "--check", "--config", broken)


def test_serve_tells_its_metrics_and_ends_by_sigterm_with_success(
    servers: subprocess.Popen[str], config: Path
) -> None:
    port = tomllib.loads(config.read_text())["metrics"]["port"]
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=20) as response:
        lines = response.read().decode().splitlines()
    for server, message in (("as", "EnrolmentRequest"), ("dc", "ServerAnnouncement")):
        labels = f'message="{message}",outcome="answered",server="{server}"'
        (line,) = [
            line for line in lines if line.startswith(f"ntmpatch_requests_total{{{labels}}}")
        ]
        assert float(line.rpartition(" ")[2]) >= 2
    for role in ("as", "dc", "ns", "rs"):
        assert f'ntmpatch_draining{{server="{role}"}} 0.0' in lines
    for name in (
        "nodes",
        "dns_answers_total",
        "relay_sessions",
        "relay_bytes_total",
        "stun_answers_total",
    ):
        assert f"ntmpatch_{name} 0.0" in lines
    servers.send_signal(signal.SIGTERM)
    assert servers.wait(20) == 0


def test_a_port_in_use_ends_serve_with_73_and_its_place(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = json.loads(succeed(capsys, "serve", "--check", "--json", "--config", config))
    bind = places["servers"]["ns"]["bind"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((HOST, int(bind.rpartition(":")[2])))
        assert bind in fail(capsys, os.EX_CANTCREAT, "serve", "--config", config)


def test_serve_alone_needs_a_token(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fail(capsys, os.EX_CONFIG, "serve", "dc", "--config", config)
    assert "account add --role dc" in line


def test_a_token_is_good_once_and_a_revoked_account_for_nothing(
    servers: Any, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert servers.poll() is None
    here = config.parent
    token = here / "token"
    token.write_text(succeed(capsys, "account", "add", "a.home.example", "--config", config))
    command = [sys.executable, "-m", "ntmpatch", "run", "--token", f"file:{token}"]

    first = subprocess.run(
        [*command, "--state", "one", "-c", "print('ran')"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (first.stdout, first.stderr, first.returncode) == ("ran\n", "", 0)

    # The identity stays: the same command again asks nobody. Another state is another node.
    token_again = ["run", "--token", f"file:{token}", "--state", "two", "-c", "pass"]
    assert "used" in fail(capsys, os.EX_NOPERM, *token_again)
    servers.kill()
    servers.wait()
    again = subprocess.run(
        [*command, "--state", "one", "-c", "print('ran')"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (again.stdout, again.returncode) == ("ran\n", 0)


def test_a_revoked_account_is_refused(
    servers: Any, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert servers.poll() is None
    token = succeed(capsys, "account", "add", "b.home.example", "--config", config)
    succeed(capsys, "account", "revoke", "b.home.example", "--config", config)
    line = fail(capsys, os.EX_NOPERM, "run", "--token", token, "--state", "three", "-c", "pass")
    assert "revoked" in line
    fresh = succeed(capsys, "account", "reissue", "b.home.example", "--config", config)
    assert parse_token(fresh).fqdn == "b.home.example"


def test_unreachable_servers_end_run_with_69_in_bounded_time(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "ENROLMENT_TIMEOUT", 1.0)
    token = succeed(capsys, "account", "add", "c.home.example", "--config", config)
    line = fail(capsys, os.EX_UNAVAILABLE, "run", "--token", token, "-c", "pass")
    assert "does not answer" in line
    assert token.strip() not in line


@pytest.mark.usefixtures("servers")
def test_up_enrols_and_tells_when_it_is_registered(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text(succeed(capsys, "account", "add", "cam.home.example", "--config", config))
    words = ["up", "--token", f"file:{token}", "--state", "cam"]
    with subprocess.Popen(
        [sys.executable, "-m", "ntmpatch", *words, "--json"], stdout=subprocess.PIPE, text=True
    ) as up:
        assert up.stdout is not None
        facts = json.loads(up.stdout.readline())
        assert (facts["ready"], facts["fqdn"], facts["pid"]) == (True, "cam.home.example", up.pid)
        assert facts["ipv4"].startswith("198.18.")
        code = "import socket; print(socket.gethostbyname('cam.home.example'))"
        shared = subprocess.run(
            [sys.executable, "-m", "ntmpatch", "run", "--state", "cam", "-c", code],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (shared.stdout, shared.stderr) == (facts["ipv4"] + "\n", "")
        (node,) = json.loads(succeed(capsys, "nodes", "--json", "--config", config))
        assert (node["name"], node["ipv4"]) == ("cam.home.example", facts["ipv4"])
        assert node["seen_at"] in node["local"]
        assert (node["nat"], node["device_type"]) == ("none", "tcp")
        up.terminate()
        assert up.wait(60) == 0
    left = succeed(capsys, "nodes", "--config", config).splitlines()[1]
    assert left.split()[:3] == ["cam.home.example", facts["ipv4"], "left"]


@pytest.mark.usefixtures("servers")
def test_two_runs_at_once_with_one_token_are_one_node(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text(succeed(capsys, "account", "add", "cam.home.example", "--config", config))
    code = "import socket; print(socket.gethostbyname('cam.home.example'), flush=True); input()"
    words = ["run", "--token", f"file:{token}", "--state", "cam", "-c", code]
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", "ntmpatch", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    addresses = [program.stdout.readline() for program in programs if program.stdout]
    # Both are asked to end only now, so that they needed one node at the same time.
    ends = [program.communicate("\n", timeout=60) for program in programs]
    assert addresses[0] == addresses[1]
    assert addresses[0].startswith("198.18.")
    assert ends == [("", "")] * 2


@pytest.mark.usefixtures("servers")
def test_up_ends_with_a_line_when_the_account_is_revoked(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = succeed(capsys, "account", "add", "b.home.example", "--config", config)
    succeed(capsys, "account", "revoke", "b.home.example", "--config", config)
    line = fail(capsys, os.EX_NOPERM, "up", "--token", token, "--state", "b")
    assert "revoked" in line
