"""The four servers as four processes on loopback, with configurations and states of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from ntmpatch.cli.demo.configuration import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

DOMAIN = "home.example"
ROLES = ("as", "dc", "ns", "rs")
HOST = "127.0.0.1"
NTMPATCH = (sys.executable, "-m", "ntmpatch")


def clean_environment() -> dict[str, str]:
    """The environment without what somebody's node may have set."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("NTMPATCH_")}
    return {**kept, "PYTHONUNBUFFERED": "1"}


class ServerProcesses:
    """AS, DC, NS and RS of one domain; each can be killed and started again."""

    def __init__(self, directory: Path, domain: str = DOMAIN) -> None:
        self.domain = domain
        self._directory = directory
        self._processes: dict[str, subprocess.Popen[str]] = {}
        ports = dict(zip((*ROLES, "dns"), free_ports(HOST, 5), strict=True))
        for role in ROLES:
            (directory / role).mkdir(mode=0o700)
            lines = ["[serve]", f'domain = "{domain}"', f'state = "{directory / role}"']
            lines += [f'listen = "{HOST}"', f"[{role}]", f"port = {ports[role]}"]
            if role != "as":
                token = directory / f"{role}.token"
                lines.append(f'token = "file:{token}"')
                self._config(role).write_text("")
            if role == "dc":
                lines += ["[dns]", f"port = {ports['dns']}"]
            self._config(role).write_text("\n".join(lines) + "\n")
        for role in ROLES[1:]:
            (directory / f"{role}.token").write_text(self.token(f"{role}.{domain}", role))

    def _config(self, role: str) -> Path:
        return self._directory / f"{role}.toml"

    def token(self, fqdn: str, role: str = "node") -> str:
        """An enrolment token of a new account."""
        command = [*NTMPATCH, "account", "add", fqdn, "--role", role]
        command += ["--config", str(self._config("as"))]
        return subprocess.run(
            command, env=clean_environment(), capture_output=True, text=True, check=True
        ).stdout

    def tokens(self, labels: Iterable[str]) -> list[str]:
        """Tokens of many nodes, by one process."""
        script = (
            "import sys\n"
            "from ntmpatch.runtime.accounts import Accounts\n"
            "from ntmpatch.base.config import parse_serve_config\n"
            "accounts = Accounts(parse_serve_config(open(sys.argv[1]).read(), sys.argv[1]))\n"
            "for name in sys.argv[2:]: print(accounts.add(name))\n"
        )
        names = [f"{label}.{self.domain}" for label in labels]
        return subprocess.run(
            [sys.executable, "-c", script, str(self._config("as")), *names],
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()

    def start(self, roles: Sequence[str] = ROLES) -> None:
        """Start servers and wait until all of them serve."""
        for role in roles:
            self._processes[role] = subprocess.Popen(
                [*NTMPATCH, "serve", role, "--config", str(self._config(role)), "--json"],
                env=clean_environment(),
                stdout=subprocess.PIPE,
                stderr=(self._directory / f"{role}.log").open("ab"),
                text=True,
            )
        for role in roles:
            output = self._processes[role].stdout
            assert output is not None
            line = output.readline()
            assert line, (self._directory / f"{role}.log").read_text()
            assert json.loads(line)["ready"] is True

    def kill(self, role: str, number: int = signal.SIGKILL) -> None:
        """End a server at once."""
        process = self._processes.pop(role)
        process.send_signal(number)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

    def close(self) -> None:
        """End all that run."""
        for role in list(self._processes):
            self.kill(role)
