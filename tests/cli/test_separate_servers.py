"""Each server a process of its own, as docs/examples has them: on loopback addresses here."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.message
import dns.query
import pytest

from ntmpatch.cli.demo.configuration import free_ports
from ntmpatch.cli.main import run_command

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
NETWORK = f"127.55.{os.getpid() % 250 + 1}."
FILES = {"as": "account", "dc": "direction", "ns": "notification", "rs": "relay"}

# As the units' MemoryDenyWriteExecute: PR_SET_MDWE is 65 (Linux 6.3; without it nothing changes).
_CONFINED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-m", "ntmpatch", *sys.argv[1:]])
"""


class Site:
    """A directory with the examples' files, and the processes of their servers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.dns_port, self.metrics_port, self.relay_port = free_ports("127.0.0.1", 3)
        for role in FILES:
            self.write(role, role)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("NTMPATCH_")
        } | {"NTMPATCH_LOG": "debug", "PYTHONUNBUFFERED": "1"}

    def write(self, label: str, role: str, *changes: tuple[str, str]) -> None:
        """The example of a role, made to fit this machine."""
        text = (EXAMPLES / f"{FILES[role]}.toml").read_text()
        for old, new in (
            *changes,
            ("/var/lib/ntmpatch/", f"{self.directory}/state-"),
            ("/etc/ntmpatch", str(self.directory)),
            ("192.0.2.", NETWORK),
            ("2001:db8::4", "::1"),
            ("port = 53\n", f"port = {self.dns_port}\n"),
            ('listen = "127.0.0.1"\n', f'listen = "127.0.0.1"\nport = {self.metrics_port}\n'),
            ("[rs]\n", f"[rs]\nport = {self.relay_port}\n"),
        ):
            text = text.replace(old, new)
        self.path(label).write_text(text)

    def path(self, label: str) -> Path:
        return self.directory / f"{label}.toml"

    def start(self, label: str, role: str, **environment: str) -> dict[str, Any]:
        """Start a server: what it says once it serves."""
        command = ["serve", role, "--json", "--config", str(self.path(label))]
        with (self.directory / f"{label}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _CONFINED, *command],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**self.environment, **environment},
            )
        self.processes[label] = process
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (self.directory / f"{label}.log").read_text()
        facts: dict[str, Any] = json.loads(line)
        return facts

    def account(self, capsys: pytest.CaptureFixture[str], fqdn: str, *options: str) -> str:
        """A new account's token, as the administrator makes it on the AS's host."""
        capsys.readouterr()
        assert (
            run_command(["account", "add", fqdn, *options, "--config", str(self.path("as"))]) == 0
        )
        return capsys.readouterr().out

    def resolve(self, name: str, kind: str) -> list[str]:
        """What the DC's DNS service says."""
        query = dns.message.make_query(name, kind)
        answer = dns.query.udp(query, f"{NETWORK}2", port=self.dns_port, timeout=5)
        return [item.to_text() for rrset in answer.answer for item in rrset]

    def end(self, label: str) -> int:
        process = self.processes.pop(label)
        process.send_signal(signal.SIGTERM)
        return process.wait(30)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    for process in site.processes.values():
        process.kill()
        process.wait()


def forms(secret: bytes) -> list[str]:
    """How a secret might look in a log."""
    return [secret.hex(), base64.b64encode(secret).decode()[:-2], repr(secret)[2:-1]]


def test_servers_on_hosts_of_their_own(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without its token, or with that of another server, a file is told to be wrong, and where.
    capsys.readouterr()
    assert run_command(["serve", "dc", "--check", "--config", str(site.path("dc"))]) == 78
    assert "dc.toml: line 10: [dc] token:" in capsys.readouterr().err
    tokens = []
    second = ('["192.0.2.4", "2001:db8::4"]', '"192.0.2.5"'), ("[metrics]\nlisten", "[metrics]\n#")
    site.write("rs2", "rs", ("rs1", "rs2"), ("/rs", "/rs2"), *second)
    names = {"dc": "dc", "ns": "ns1", "rs": "rs1", "rs2": "rs2"}
    for label, name in names.items():
        token = site.account(capsys, f"{name}.home.example", "--role", label[:2])
        tokens.append(token.strip())
        (tmp_path / f"{label}.token").write_text(token)
    for label in ("as", *names):
        role = label[:2]
        assert run_command(["serve", role, "--check", "--config", str(site.path(label))]) == 0

    site.start("as", "as")
    facts = site.start("dc", "dc")
    assert facts["servers"]["dc"]["public"] == f"{NETWORK}2:3471"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        site.start("ns", "ns")
        site.start("rs", "rs", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="30000000")
        site.start("rs2", "rs")
        assert manager.recv(1000).startswith(b"READY=1\n")
        assert manager.recv(1000) == b"WATCHDOG=1"

        # A node enrols, and both it and the DNS resolve its name; so do the servers' names.
        tokens.append(site.account(capsys, "cam.home.example").strip())
        code = "import socket; print(socket.gethostbyname('cam.home.example'), flush=True); input()"
        command = ["run", "--token", tokens[-1], "--state", str(tmp_path / "cam"), "-c", code]
        with subprocess.Popen(
            [sys.executable, "-m", "ntmpatch", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as program:
            assert program.stdout is not None
            address = program.stdout.readline().strip()
            assert address.startswith("198.18.")
            assert site.resolve("cam.home.example.", "A") == [address]
            program.communicate("\n", timeout=60)
        assert site.resolve("cam.home.example.", "A") == [], "it has left"
        assert site.resolve("rs1.home.example.", "A") == [f"{NETWORK}4"]
        assert site.resolve("rs1.home.example.", "AAAA") == ["::1"]
        assert site.resolve("rs2.home.example.", "A") == [f"{NETWORK}5"]

        url = f"http://127.0.0.1:{site.metrics_port}/metrics"
        metrics = urllib.request.urlopen(url, timeout=10).read().decode()
        assert 'ntmpatch_load{server="rs"} 0.0\n' in metrics

        site.processes["rs"].send_signal(signal.SIGHUP)
        assert site.end("rs") == 0
        assert manager.recv(1000).startswith(b"STOPPING=1\n")
    assert [site.end(label) for label in ("rs2", "ns", "dc", "as")] == [0, 0, 0, 0]

    logs = {label: (tmp_path / f"{label}.log").read_text() for label in ("as", *names)}
    events = [json.loads(line)["event"] for line in logs["rs"].splitlines()]
    assert events == ["certified", "serving", "reloaded", "draining"]
    assert 'server-left party="DC dc.home.example" peer="RS rs1.home.example"' in logs["dc"]
    assert "registered" in logs["dc"]
    secrets = [file.read_bytes() for file in tmp_path.glob("state-*/*.key")]
    assert len(secrets) == 6
    for text in logs.values():
        assert text
        assert "ntm1." not in text
        assert not any(form in text for secret in secrets for form in forms(secret))
        assert not any(token[5:45] in text for token in tokens)
