"""``up`` and the programs that share its node, or start one themselves where there is none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ntmpatch.cli.main import run_command
from ntmpatch.runtime.locking import acquire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.once

PREAMBLE = """
import errno, json, os, select, socket, sys, threading
from ntmpatch.patch import node

HERE = "here.home.example"

def tell(*facts):
    print(json.dumps(facts), flush=True)

def node_pid():
    from ntmpatch.wire.local import Report, Status
    return json.loads(node.current.call(Status(), Report).json)["pid"]

def error_of(function, *arguments):
    try:
        return repr(function(*arguments))
    except OSError as error:
        return errno.errorcode[error.errno]

def talk():
    with socket.create_server((HERE, 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            with listener.accept()[0] as connection:
                connection.sendall(b"said")
                return client.recv(10).decode()
"""


class Program:
    """A process of ours that tells facts a line, as JSON, and is asked to go on by lines."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ntmpatch", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def told(self) -> object:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        return json.loads(line)

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Its exit status, and what it wrote to stderr."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        errors = self.process.communicate(timeout=60)[1]
        return self.process.returncode, errors


@pytest.fixture
def start(static_identity: list[str]) -> Iterator[Callable[..., Program]]:
    """Start ``up``, or with code, ``run`` with that code."""
    programs: list[Program] = []

    def start(code: str = "", *, command: str = "up") -> Program:
        words = [command, *static_identity]
        if command == "up":
            words.append("--json")
        else:
            words += ["-c", PREAMBLE + textwrap.dedent(code)]
        programs.append(Program(*words))
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.process.communicate()


@pytest.fixture
def state(static_identity: list[str]) -> Path:
    return Path(static_identity[-1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_tells_when_it_is_up_and_ends_by_a_signal(
    start: Callable[..., Program], state: Path, number: signal.Signals
) -> None:
    program = start()
    control = state / "control.sock"
    assert program.told() == {
        "ready": True,
        "fqdn": "here.home.example",
        "ipv4": "198.18.0.1",
        "ipv6": None,
        "control_path": str(control),
        "pid": program.process.pid,
    }
    assert control.is_socket()
    assert control.stat().st_mode & 0o777 == 0o600
    assert program.end(number) == (0, "")
    assert not control.exists()


def test_a_second_one_fails_with_a_line(
    start: Callable[..., Program], static_identity: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = start()
    first.told()
    second = start()
    status, errors = second.wait()
    assert status == os.EX_CONFIG
    assert errors.count("\n") == 1
    assert f"process {first.process.pid} already runs" in errors
    assert run_command(["status", *static_identity]) == 0
    assert f"pid: {first.process.pid}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["up", "run"])
def test_without_an_identity_there_is_nothing_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    words = ["-c", "pass"] if command == "run" else []
    assert run_command([command, "--state", str(tmp_path / "new"), *words]) == os.EX_CONFIG
    assert "holds no identity: give --token" in capsys.readouterr().err


def test_programs_use_the_node_that_is_up_and_load_none(start: Callable[..., Program]) -> None:
    up = start()
    up.told()
    code = "tell(talk(), node_pid(), 'ntmpatch.runtime.node' in sys.modules)"
    for _ in range(2):
        program = start(code, command="run")
        assert program.told() == ["said", up.process.pid, False]
        assert program.wait() == (0, "")


def test_programs_that_start_at_the_same_moment_share_one_node(
    start: Callable[..., Program],
) -> None:
    code = "tell('ready'); input(); tell(node_pid()); input(); tell(talk()); input()"
    programs = [start(code, command="run") for _ in range(4)]
    for program in programs:
        program.told()
    for program in programs:
        program.go_on()
    users = [program.told() for program in programs]
    assert len({str(pid) for pid in users}) == 1
    assert users[0] in [[program.process.pid] for program in programs]
    for program in programs:
        program.go_on()
    assert [program.told() for program in programs] == [["said"]] * 4


HOLD_SOCKETS = """
listener = socket.create_server((HERE, 0))
client = socket.create_connection(listener.getsockname())
blocked, _ = listener.accept()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind((HERE, 0))
connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
connected.connect(datagrams.getsockname())
results = {}
def wait_in(name, function, *arguments):
    results[name] = error_of(function, *arguments)
waiters = [threading.Thread(target=wait_in, args=each) for each in (
    ("recv", blocked.recv, 1), ("accept", listener.accept), ("recvfrom", datagrams.recvfrom, 1),
    ("udp recv", connected.recv, 1),
)]
for waiter in waiters:
    waiter.start()
tell(node_pid())
for waiter in waiters:
    waiter.join()
tell(results)
tell(error_of(client.send, b"x"), client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
     error_of(datagrams.sendto, b"x", (HERE, 9)), error_of(connected.send, b"x"))
tell(talk(), node_pid() == os.getpid())
"""


def check_loss_and_recovery(program: Program) -> None:
    assert program.told() == [
        {
            "recv": "ECONNRESET",
            "accept": "ENETDOWN",
            "recvfrom": "ENETDOWN",
            "udp recv": "ENETDOWN",
        }
    ]
    assert program.told() == ["ECONNRESET", 0, "ENETDOWN", "ENETDOWN"]
    assert program.told() == ["said", True]
    assert program.wait() == (0, "")


def test_when_the_node_dies_calls_wake_up_and_the_next_one_starts_another(
    start: Callable[..., Program],
) -> None:
    up = start()
    up.told()
    program = start(HOLD_SOCKETS, command="run")
    assert program.told() == [up.process.pid]
    up.end(signal.SIGKILL)
    check_loss_and_recovery(program)


def test_a_listener_of_both_networks_serves_the_real_one_on(
    start: Callable[..., Program],
) -> None:
    up = start()
    up.told()
    program = start(
        """
        listener = socket.create_server(("", 0))
        port = listener.getsockname()[1]
        tell(node_pid())
        input()
        tell(error_of(listener.accept))
        listener.settimeout(0)
        tell(error_of(listener.accept), select.select([listener], [], [], 0)[0])
        listener.settimeout(None)
        with socket.create_connection(("127.0.0.1", port)) as client:
            tell(listener.accept()[0].getsockname() == client.getpeername())
        """,
        command="run",
    )
    program.told()
    up.end(signal.SIGKILL)
    program.go_on()
    assert program.told() == ["ENETDOWN"]
    assert program.told() == ["EAGAIN", []]
    assert program.told() == [True]


def test_when_the_program_that_embeds_the_node_ends_the_others_start_another(
    start: Callable[..., Program],
) -> None:
    embedder = start("tell(node_pid()); input()", command="run")
    assert embedder.told() == [embedder.process.pid]
    program = start(HOLD_SOCKETS, command="run")
    assert program.told() == [embedder.process.pid]
    embedder.go_on()
    assert embedder.wait() == (0, "")
    check_loss_and_recovery(program)


def test_after_a_restart_the_same_program_goes_on_with_the_new_node(
    start: Callable[..., Program],
) -> None:
    first = start()
    first.told()
    program = start("for _ in range(2): tell(talk(), node_pid()); input()", command="run")
    assert program.told() == ["said", first.process.pid]
    assert first.end() == (0, "")
    second = start()
    second.told()
    program.go_on()
    assert program.told() == ["said", second.process.pid]


def test_a_program_that_meets_a_node_which_is_ending_waits_for_its_identity(
    start: Callable[..., Program], state: Path
) -> None:
    state.mkdir(mode=0o700)
    ending = acquire(state / "node.lock")
    assert ending is not None
    program = start("tell('asks'); tell(talk(), node_pid() == os.getpid())", command="run")
    program.told()
    ending.close()
    assert program.told() == ["said", True]


def test_what_a_program_sent_is_let_out_before_the_node_that_is_up_ends(
    start: Callable[..., Program],
) -> None:
    up = start()
    up.told()
    program = start(
        """
        listener = socket.create_server((HERE, 0))
        client = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
        client.sendall(bytes(200_000))
        tell("sent")
        size = 0
        while size < 200_000:
            size += len(connection.recv(65536))
        tell(size)
        """,
        command="run",
    )
    program.told()
    assert up.end() == (0, "")
    assert program.told() == [200_000]
