"""``run --check`` tells what ``run`` would do, is right about it, and changes nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ntmpatch.base.addresses import Endpoint
from ntmpatch.cli.hook import HOOK_DIRECTORY, interpreter_identity
from ntmpatch.cli.main import run_command
from ntmpatch.crypto.token import Token

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN = Token(
    bytes(32), (Endpoint("192.0.2.1", 3470),), bytes(32), bytes(8), bytes(16), "cam.home.example"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("NTMPATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").write_text("raise SystemExit('it was run')")
    return tmp_path


@pytest.fixture
def check(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """The facts of a check that ends with a status, and left every file as it was."""

    def check(status: int, *words: str) -> dict[str, Any]:
        before = sorted(here.glob("**/*"))
        assert run_command(["run", "--check", "--json", *words]) == status
        assert sorted(here.glob("**/*")) == before
        output = capsys.readouterr()
        facts: dict[str, Any] = json.loads(output.out)
        assert facts["works"] is (status == 0)
        first = "".join(f"ntmpatch: {obstacle}\n" for obstacle in facts["obstacles"][:1])
        assert output.err == first
        return facts

    return check


def test_what_would_be_run_and_patched(check: Any, static_identity: list[str], here: Path) -> None:
    facts = check(0, *static_identity, "--gevent", "app.py", "--json", "x")
    assert facts["program"] == {
        "executable": sys.executable,
        "argv": [sys.executable, "app.py", "--json", "x"],
    }
    assert facts["patching"] == {
        "patched": True,
        "children": "Python ones of the same environment",
        "interpreter": sys.executable,
        "environment": interpreter_identity(),
        "hook": str(HOOK_DIRECTORY),
        "gevent": True,
        "shadowed_sitecustomize": None,
    }
    assert facts["node"] == {
        "use": "start one in the program",
        "state": str(here / "state"),
        "fqdn": "here.home.example",
        "enrolled": False,
    }


def test_the_check_agrees_with_the_run(static_identity: list[str], here: Path) -> None:
    (here / "other").mkdir()
    (here / "other" / "sitecustomize.py").write_text("chained = True")
    program = "import sys, sitecustomize; print(sys.orig_argv, sitecustomize.__file__)"
    words = [*static_identity, "-c", program, "x"]
    command = [sys.executable, "-m", "ntmpatch", "run"]
    environment = {**os.environ, "PYTHONPATH": str(here / "other")}
    checked, ran = (
        subprocess.run(
            [*command, *more, *words], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for more in (["--check", "--json"], [])
    )
    facts = json.loads(checked)
    expected = facts["program"]["argv"], facts["patching"]["shadowed_sitecustomize"]
    assert ran == f"{expected[0]} {expected[1]}\n"


def test_a_node_that_runs_would_be_used(check: Any, static_identity: list[str]) -> None:
    up = [sys.executable, "-m", "ntmpatch", "up", "--json", *static_identity]
    with subprocess.Popen(up, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        node = check(0, *static_identity, "app.py")["node"]
        process.terminate()
    assert node == {
        "use": "attach to the one that runs",
        "state": static_identity[-1],
        "fqdn": "here.home.example",
        "ipv4": "198.18.0.1",
        "ipv6": None,
        "control_path": f"{static_identity[-1]}/control.sock",
        "pid": process.pid,
    }


def test_a_token_would_be_used_and_is_not(check: Any, here: Path) -> None:
    facts = check(0, "--token", TOKEN.encode(), "--state", "new", "app.py")
    assert facts["node"] == {
        "use": "enrol with the token, then start one in the program",
        "state": str(here / "new"),
        "fqdn": "cam.home.example",
        "account_servers": ["192.0.2.1:3470"],
    }


@pytest.mark.parametrize(
    ("status", "words", "obstacle"),
    [
        (os.EX_CONFIG, ["app.py"], "holds no identity: give --token"),
        (os.EX_CONFIG, ["--token", "x", "app.py"], "not an enrolment token"),
        (os.EX_CONFIG, ["--config", "absent.toml", "app.py"], "absent.toml"),
        (127, ["absent.py"], "absent.py: not found"),
        (127, ["-m", "absent.part"], "absent.part: no such module"),
        (os.EX_USAGE, [], "nothing to run"),
        (126, ["./isolated"], "ignores PYTHONPATH"),
    ],
)
def test_what_would_not_work_is_told_with_the_status_of_the_run(
    check: Any, here: Path, status: int, words: list[str], obstacle: str
) -> None:
    (here / "isolated").write_text(f"#!{sys.executable} -I\n")
    (here / "isolated").chmod(0o755)
    assert obstacle in check(status, *words)["obstacles"][0]


def test_a_port_that_is_taken(check: Any, static_identity: list[str]) -> None:
    config = Path(static_identity[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with_port = config.read_text().replace(
            "[node]\n", f'[node]\nbind = ["127.0.0.1"]\nport = {port}\n'
        )
        config.write_text(with_port)
        facts = check(os.EX_CANTCREAT, *static_identity, "app.py")
    assert facts["obstacles"] == [f"127.0.0.1:{port}: Address already in use"]


def test_people_read_lines(static_identity: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "--check", *static_identity, "-m", "http.server"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "works: yes"
    assert "  patched: yes" in lines
    assert "  fqdn: here.home.example" in lines


def test_json_alone_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "--json", "app.py"]) == os.EX_USAGE
    assert "--json goes with --check" in capsys.readouterr().err
