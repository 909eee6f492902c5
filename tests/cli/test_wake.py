"""``wake``, and the way there: DC, NS, and a push gateway over real HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from ntmpatch.cli.demo.configuration import free_ports
from ntmpatch.cli.main import run_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "127.0.0.1"
COMMAND = (sys.executable, "-m", "ntmpatch")


class Gateway(ThreadingHTTPServer):
    """Hands each push to the device's receiver, which calls ``ntmpatch wake``."""

    def __init__(self, state: Path) -> None:
        super().__init__((HOST, 0), GatewayHandler)
        self.state = state
        self.woken: list[tuple[str, str, int]] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class GatewayHandler(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        wake = [*COMMAND, "wake", body["payload"], "--state", str(self.server.state)]
        status = subprocess.run(wake, check=False, timeout=30).returncode
        self.server.woken.append((self.path, body["node"], status))

    def log_message(self, *_: object) -> None:
        """Not to the test's output."""


@contextlib.contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A server or node that has told that it is ready; killed at the end."""
    command = [*COMMAND, *map(str, arguments), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["ready"] is True
            yield process
        finally:
            process.kill()


@pytest.mark.once
def test_a_node_that_is_woken_by_push_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("NTMPATCH_")]:
        monkeypatch.delenv(name)
    config, node, state = tmp_path / "servers.toml", tmp_path / "node.toml", tmp_path / "b"
    node.write_text('[node]\ndevice = "webhook"\npush_token = "abc:1"\n')

    def add(label: str) -> str:
        words = ["account", "add", f"{label}.home.example", "--config", str(config)]
        assert run_command(words) == 0
        return capsys.readouterr().out.strip()

    def wake(*payload: str) -> int:
        return run_command(["wake", *payload, "--state", str(state)])

    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(Gateway(state))
        stack.callback(gateway.shutdown)
        lines = [f'[serve]\nstate = "{tmp_path}/servers"']
        roles = ("as", "dc", "ns", "rs", "dns")
        for role, port in zip(roles, free_ports(HOST, len(roles)), strict=True):
            lines.append(f"[{role}]\nport = {port}")
        url = f"http://{HOST}:{gateway.server_port}/push/{{token}}"
        lines.append(f'[ns.devices.webhook]\nurl = "{url}"')
        config.write_text("\n".join(lines))
        stack.enter_context(running("serve", "all", "--config", config))
        up = ("up", "--token", add("b"), "--config", node, "--state", state)
        stack.enter_context(running(*up))
        look_up = "import socket; print(socket.gethostbyname('b.home.example'))"
        run = [*COMMAND, "run", "--token", add("a"), "--state", str(tmp_path / "a"), "-c", look_up]
        subprocess.run(run, check=True, timeout=60, capture_output=True)
        # The node may have been found before its receiver was done.
        for _ in range(200):
            if gateway.woken:
                break
            time.sleep(0.1)
        assert gateway.woken == [("/push/abc%3A1", "b.home.example", 0)]

        assert wake() == 0
        assert wake(base64.urlsafe_b64encode(b"\xc0 forged").decode()) != 0
        assert "not a notification" in capsys.readouterr().err
    assert wake("!") == os.EX_CONFIG
    assert wake() == os.EX_UNAVAILABLE
