"""The demo's parts: its steps, its processes, the download program, the size of the transfer."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ntmpatch.base.config import parse_node_config, parse_serve_config
from ntmpatch.cli.demo import configuration, play, processes
from ntmpatch.cli.demo.processes import Crew, DemoError
from ntmpatch.cli.demo.steps import Step, StepReader, parse_step
from ntmpatch.runtime.trace import TraceWriter


def test_steps_travel_from_the_trace_writer_to_the_reader_and_repeat_only_once(
    tmp_path: Path,
) -> None:
    shown: list[Step] = []
    with StepReader(tmp_path / "trace", shown.append) as reader:
        writer = TraceWriter(str(tmp_path / "trace"))
        for step, message in [("3.2", "DirectionRequest"), ("3.2", "again"), ("5.3", "moved")]:
            writer.write(
                step=step,
                sender="node a.demo.example",
                receiver="DC",
                message=message,
                at=time.monotonic(),
            )
        give_up_at = time.monotonic() + 10
        while len(reader.steps) < 2 and time.monotonic() < give_up_at:
            time.sleep(0.01)
        writer.close()
    assert [(s.figure, s.number, s.message) for s in shown] == [
        ("3", "2", "DirectionRequest"),
        ("5", "3", "moved"),
    ]
    assert shown[0].describe("demo.example").split() == [
        *("Fig.", "3", "(2)"),
        *("node", "a", "→", "DC"),
        *("direction", "request"),
        "DirectionRequest",
    ]
    assert reader.count("3") == reader.count("5") == 1


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b"\xff", b'{"at": "x"}', b"null"])
def test_a_line_that_is_no_step_is_none(line: bytes) -> None:
    assert parse_step(line) is None


def test_the_transfer_is_sized_to_take_seconds_within_bounds() -> None:
    roomy = 1 << 40
    assert play.transfer_size(1e3, roomy) == 32 << 20
    assert play.transfer_size(20e6, roomy) == (100_000_000 >> 20) << 20
    assert play.transfer_size(1e12, roomy) == 256 << 20
    assert play.transfer_size(1e12, 100 << 20) == 50 << 20
    assert play.transfer_size(1e12, 0) == 32 << 20


def test_the_download_is_a_plain_program_that_reports_size_hash_and_gap() -> None:
    body = os.urandom(300_000)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:100_000])
            self.wfile.flush()
            time.sleep(0.3)
            self.wfile.write(body[100_000:])

        def log_message(self, *_: Any) -> None:
            pass

    source = Path(play.__file__).with_name("download.py")
    assert "ntmpatch" not in source.read_text()
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            output = subprocess.run(
                [sys.executable, str(source)],
                input=f"http://127.0.0.1:{server.server_port}/\n" * 2,
                capture_output=True,
                text=True,
                check=True,
                timeout=30,
            ).stdout
        finally:
            server.shutdown()
            thread.join()
    finals = [r for r in map(json.loads, output.splitlines()) if r.get("done")]
    assert len(finals) == 2
    for final in finals:
        assert final["received_size"] == final["total_size"] == len(body)
        assert final["sha256"] == hashlib.sha256(body).hexdigest()
        assert 0.25 < final["longest_gap"] <= final["seconds"]


@pytest.fixture
def crew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crew:
    """A crew whose processes run ``python -c CODE``."""
    real = subprocess.Popen

    def popen(arguments: list[str], **options: Any) -> subprocess.Popen[str]:
        assert arguments[:3] == [sys.executable, "-m", "ntmpatch"]
        return real([sys.executable, "-c", arguments[3]], **options)

    monkeypatch.setattr(processes.subprocess, "Popen", popen)
    return Crew(tmp_path, os.environ)


def test_a_process_that_ends_is_reported_with_its_last_words(crew: Crew) -> None:
    process = crew.start("web server", ["import sys; sys.exit('no: port in use')"])
    process.wait(10)
    with pytest.raises(DemoError, match="web server ended with status 1: no: port in use"):
        crew.check()
    crew.release("web server")
    crew.check()


def test_all_processes_are_stopped_even_one_that_ignores_sigterm(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STOP_TIMEOUT", 0.3)
    stubborn = crew.start(
        "stubborn",
        [
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            "print('ready', flush=True); time.sleep(60)"
        ],
        interactive=True,
    )
    willing = crew.start("willing", ["import time; time.sleep(60)"])
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    crew.stop()
    assert stubborn.returncode == -signal.SIGKILL
    assert willing.returncode == -signal.SIGTERM
    assert stubborn.stdout.closed


def test_a_download_that_ends_early_or_falls_silent_is_an_error(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(play, "_SILENCE_TIMEOUT", 0.1)
    crew.start("download", ["import sys; sys.exit('name not known')"]).wait(10)
    for keep_open, what in ((True, "stood still"), (False, "ended early: name not known")):
        reading, writing = os.pipe()
        os.write(writing, b'{"received_size": 1}\n')
        if not keep_open:
            os.close(writing)
        with os.fdopen(reading) as reports:
            download = play.Download(io.StringIO(), reports, crew)
            assert download.next_report() == {"received_size": 1}
            with pytest.raises(DemoError, match=what):
                download.next_report()
        if keep_open:
            os.close(writing)


def test_the_configuration_is_what_users_write(tmp_path: Path) -> None:
    configuration.write_configuration(tmp_path, configuration.Addresses())
    servers = parse_serve_config((tmp_path / "servers.toml").read_text(), "servers.toml")
    sections = (servers.account, servers.dc, servers.ns, servers.rs, servers.dns)
    assert servers.serve.domain == "demo.example"
    assert len({section.port for section in sections}) == 5
    assert min(section.port for section in sections) > 0
    binds = {
        parse_node_config((tmp_path / f"{name}.toml").read_text(), name).node.bind
        for name in (configuration.SERVER_NAME, configuration.CLIENT_NAME)
    }
    assert binds == {("127.0.2.1",), ("127.0.3.1",)}


def test_free_ports_can_be_bound() -> None:
    first, second = configuration.free_ports("127.0.0.1", 2)
    assert first != second
    with socket.create_server(("127.0.0.1", first)):
        pass
