"""A mistake is one line on stderr and a status, never a traceback."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.errors import ConfigError, RefusedError, UnavailableError
from ntmpatch.cli.exits import guarded
from ntmpatch.cli.main import COMMANDS, run_command
from ntmpatch.crypto.token import Token
from ntmpatch.wire import local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ntmpatch.runtime.settings import NodeSettings

TOKEN = Token(bytes(32), (Endpoint("192.0.2.1", 3470),), bytes(32), bytes(8), b"top-secret-bytes")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with nothing in the environment and an empty home."""
    for name in [name for name in os.environ if name.startswith("NTMPATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def failing(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that is to fail with a status: its one line, without the prefix."""

    def run(status: int, *arguments: str) -> str:
        assert run_command(arguments) == status
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("ntmpatch: ")
        assert output.err.count("\n") == 1
        return output.err.removeprefix("ntmpatch: ").rstrip()

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["run"],
        ["run", "--nonsense", "app.py"],
        ["run", "--token"],
        ["run", "-m"],
        ["status", "surplus"],
        ["demo", "--nonsense"],
    ],
)
def test_wrong_use_is_64(failing: Any, arguments: list[str]) -> None:
    assert "--help" in failing(os.EX_USAGE, *arguments) or arguments[0] == "run"


def test_no_command_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([]) == os.EX_USAGE
    shown = capsys.readouterr().err
    assert all(name in shown for name in COMMANDS)


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        assert run_command([name, "--help"]) == 0
        assert name in capsys.readouterr().out


def test_a_program_without_an_identity_is_78(failing: Any, home: Path) -> None:
    line = failing(os.EX_CONFIG, "run", "-c", "pass")
    assert str(home / "state-home") in line
    assert "--token" in line


def test_a_broken_configuration_is_78_with_file_and_line(failing: Any, home: Path) -> None:
    (home / "node.toml").write_text("[node]\n\nmtu = 'large'\n")
    for command in (["run", "--config", "node.toml", "x.py"], ["status", "--config", "node.toml"]):
        (home / "x.py").touch()
        assert "node.toml: line 3: mtu" in failing(os.EX_CONFIG, *command)
    assert "absent.toml" in failing(os.EX_CONFIG, "run", "--config", "absent.toml", "x.py")


def test_a_state_directory_that_others_can_read_is_refused(failing: Any, home: Path) -> None:
    (home / "open").mkdir(mode=0o755)
    assert "others can read" in failing(os.EX_CONFIG, "run", "--state", "open", "-c", "pass")


def test_a_token_that_is_none_is_78_and_not_repeated(failing: Any, home: Path) -> None:
    whole = TOKEN.encode()
    for token in ("secret-nonsense", whole[:-3], whole[:-1] + "-A"[whole[-1] == "-"]):
        line = failing(os.EX_CONFIG, "run", "--token", token, "-c", "pass")
        assert token not in line
    assert "absent" in failing(os.EX_CONFIG, "run", "--token", "file:absent", "-c", "pass")
    assert not list(home.glob("**/enrolment"))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RefusedError("this token was used already"), os.EX_NOPERM),
        (UnavailableError("the account server did not answer"), os.EX_UNAVAILABLE),
        (ConfigError("the account server is another one"), os.EX_CONFIG),
    ],
)
@pytest.mark.parametrize("source", ["option", "file", "environment"])
def test_an_enrolment_that_fails_ends_the_command(
    failing: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, source: str
) -> None:
    home = Path.cwd()
    asked: list[Any] = []

    def enrol(settings: NodeSettings, timeout: float) -> None:
        asked.append((settings.token, timeout))
        assert settings.state.path == home / "state-home" / "ntmpatch"
        raise error

    monkeypatch.setitem(sys.modules, "ntmpatch.runtime.enrol", types.SimpleNamespace(enrol=enrol))
    (home / "token").write_text(TOKEN.encode() + "\n")
    options = {
        "option": ["--token", TOKEN.encode()],
        "file": ["--token", "file:token"],
        "environment": [],
    }[source]
    if source == "environment":
        monkeypatch.setenv("NTMPATCH_TOKEN", "file:token")
    assert failing(status, "run", *options, "-c", "pass") == str(error)
    assert asked == [(TOKEN, 15.0)]


def test_a_missing_program_is_127_even_without_identity(failing: Any) -> None:
    assert failing(127, "run", "no-such-program") == (
        "no-such-program: not found on PATH or in this directory"
    )


def test_no_node_to_ask_is_69(failing: Any) -> None:
    assert "no node is running" in failing(os.EX_UNAVAILABLE, "status")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 77, "/x: Permission denied"),
        (OSError(errno.EADDRINUSE, "Address already in use"), 73, "Address already in use"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), 69, "refused"),
        (ConfigError("two\nlines"), 78, "two lines"),
        (KeyboardInterrupt(), 130, None),
    ],
)
def test_what_the_system_says_becomes_a_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, line: str | None
) -> None:
    def fail() -> None:
        raise error

    assert guarded(fail) == status
    assert capsys.readouterr().err == ("" if line is None else f"ntmpatch: {line}\n")


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 // 0)


def test_a_reader_that_left_is_no_error_to_talk_about() -> None:
    command = f"{sys.executable} -m ntmpatch --help | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.returncode in (0, 1, 141)  # click itself ends with 1


# --------------------------------------------------------------------------- status, with a node


@pytest.fixture
def node(home: Path) -> Iterator[dict[type, local.Record | bytes | None]]:
    """A node that answers as the test says: by kind of request, a reply, bytes, or nothing."""
    answers: dict[type, local.Record | bytes | None] = {
        local.Hello: local.Welcome(local.VERSION, "a.home.example", None, None, (), (), ""),
        local.Status: local.Report(b'{"fqdn": "a.home.example", "peers": [], "drops": {}}'),
    }
    directory = home / "state-home" / "ntmpatch"
    directory.mkdir(parents=True, mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(directory / "control.sock"))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while record := connection.recv(local.MAX_RECORD_SIZE):
                    answer = answers[type(local.decode_request(record))]
                    if answer is None:
                        break
                    connection.send(answer if isinstance(answer, bytes) else local.encode(answer))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield answers
        thread.join(10)


def test_status_prints_the_nodes_facts(node: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert node
    assert run_command(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fqdn"] == "a.home.example"


def test_status_prints_lines_for_people(node: Any, capsys: pytest.CaptureFixture[str]) -> None:
    node[local.Status] = local.Report(
        b'{"fqdn": "a", "ipv6": null, "peers": [{"name": "b", "sent_bytes": 1}], "ends": ["x","y"]}'
    )
    assert run_command(["status"]) == 0
    assert capsys.readouterr().out == (
        "fqdn: a\nipv6: -\npeers:\n  name: b\n  sent bytes: 1\nends: x, y\n"
    )


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (None, os.EX_UNAVAILABLE),
        (b"\xff", os.EX_UNAVAILABLE),
        (local.Done(), os.EX_UNAVAILABLE),
        (local.Failed(errno.EBUSY), os.EX_DATAERR),
    ],
)
def test_a_node_that_answers_otherwise_is_told(
    failing: Any, node: Any, answer: Any, status: int
) -> None:
    node[local.Status] = answer
    assert "control.sock" in failing(status, "status")
