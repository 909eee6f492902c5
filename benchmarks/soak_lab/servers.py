"""The four servers, each a process of its own, so that one can be restarted and each measured."""

from __future__ import annotations

import contextlib
import json
import signal
from typing import TYPE_CHECKING

from handover_lab.world import FAMILIES
from lab_domain import DOMAIN, NODE_PORT, NTMPATCH, START_TIMEOUT, DomainNode, clean_environment

if TYPE_CHECKING:
    from pathlib import Path

    from lab import Host, Process

ROLES = ("as", "dc", "ns", "rs")
STOP_TIMEOUT = 20.0


class Servers:
    """AS, DC, NS and RS of one domain, on one host, reached by both IP versions."""

    def __init__(self, host: Host, directory: Path) -> None:
        self._host = host
        self._directory = directory
        listen = json.dumps([host.address(version) for version in FAMILIES])
        self._common = f'[serve]\ndomain = "{DOMAIN}"\nlisten = {listen}\n'
        self.processes: dict[str, Process] = {}
        self._write("as", "")
        tokens = {role: self._add(f"{role}.{DOMAIN}", role) for role in ROLES[1:]}
        sections = "".join(
            f'[{role}]\nlisten = {listen}\ntoken = "{token}"\n' for role, token in tokens.items()
        )
        for role in ROLES:
            if role != "as":
                self._write(role, sections)
            self.start(role)

    def start(self, role: str) -> None:
        """Start a server, and wait until it serves."""
        process = self._host.popen(
            [*NTMPATCH, "serve", role, "--config", self._config(role)], env=clean_environment()
        )
        process.wait_for("serving ", START_TIMEOUT)
        self.processes[role] = process

    def restart(self, role: str) -> None:
        """Kill a server without a word, and start it again."""
        process = self.processes[role]
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait(STOP_TIMEOUT)
        self.start(role)

    def node(self, host: Host, label: str) -> DomainNode:
        """A node with an account of its own."""
        fqdn = f"{label}.{DOMAIN}"
        return DomainNode(host, fqdn, self._directory, self._add(fqdn, "node"), NODE_PORT)

    def _add(self, fqdn: str, role: str) -> str:
        command = [*NTMPATCH, "account", "add", fqdn, "--role", role, "--config"]
        output = self._host.run([*command, self._config("as")], env=clean_environment())
        return output.strip()

    def _config(self, role: str) -> Path:
        return self._directory / f"{role}.toml"

    def _write(self, role: str, sections: str) -> None:
        state = f'state = "{self._directory / f"{role}.servers"}"\n'
        self._config(role).write_text(f"{self._common}{state}{sections}")
