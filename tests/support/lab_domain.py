"""An NTM domain in a lab: servers on one host, nodes on others, all by the command line."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from lab import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lab import Host, Process

DOMAIN = "lab.example"
ACCOUNT_PORT, DIRECTION_PORT, NOTIFICATION_PORT, RELAY_PORT, DNS_PORT = 3470, 3471, 3472, 3473, 53
UDP_PORTS = (ACCOUNT_PORT, DIRECTION_PORT, NOTIFICATION_PORT, RELAY_PORT, DNS_PORT)
TCP_PORTS = (NOTIFICATION_PORT, DNS_PORT)
NODE_PORT = 4460
Word: TypeAlias = str | os.PathLike[str]
NTMPATCH = (sys.executable, "-m", "ntmpatch")

START_TIMEOUT = 30.0


def clean_environment() -> dict[str, str]:
    """What a host's programs see: nothing of a node that the tester may be using."""
    blank = {name: "" for name in os.environ if name.startswith("NTMPATCH_")}
    return {**blank, "PYTHONUNBUFFERED": "1"}


class Domain:
    """`serve all` on one host of the lab; ``dns``: further lines of its section [dns]."""

    def __init__(
        self,
        host: Host,
        directory: Path,
        name: str = DOMAIN,
        *,
        listen: Sequence[str] = (),
        dns: str = "",
        more: str = "",
        roles: Sequence[str] = ("all",),
    ) -> None:
        """``listen``: addresses of the host, one of each family; the first IPv4 one if empty.

        ``more``: further sections of the configuration."""
        self.host = host
        self.name = name
        self._directory = directory
        self._config = directory / "servers.toml"
        self._config.write_text(
            f'[serve]\ndomain = "{name}"\nstate = "{directory / "servers"}"\n'
            f"listen = {json.dumps(list(listen) or host.address())}\n"
            f"\n[dns]\nport = {DNS_PORT}\n{dns}\n{more}"
        )
        self.process = host.popen(
            [*NTMPATCH, "serve", *roles, "--config", self._config], env=clean_environment()
        )
        self.process.wait_for(f"serving {name}:", START_TIMEOUT)

    def relay_servers(self, *ports: int) -> dict[int, Process]:
        """Relay servers of their own, on the same host, by port; each has an account."""
        processes: dict[int, Process] = {}
        for port in ports:
            label = f"rs{port}"
            directory = self._directory / label
            directory.mkdir(mode=0o700)
            token, config = directory / "token", directory / "servers.toml"
            token.write_text(self.add_account(label, "rs"))
            config.write_text(
                f'[serve]\ndomain = "{self.name}"\nstate = "{directory}"\n'
                f"listen = {json.dumps(self.host.address())}\n"
                f'[rs]\nname = "{label}.{self.name}"\nport = {port}\ntoken = "file:{token}"\n'
            )
            command: list[Word] = [*NTMPATCH, "serve", "rs", "--config", config]
            processes[port] = self.host.popen(command, env=clean_environment())
        for process in processes.values():
            process.wait_for(f"serving {self.name}:", START_TIMEOUT)
        return processes

    def add_account(self, label: str, role: str = "node") -> str:
        """The enrolment token of a new node (or server) called so in the domain."""
        command: list[Word] = [
            *NTMPATCH,
            "account",
            "add",
            f"{label}.{self.name}",
            "--role",
            role,
            "--config",
            self._config,
        ]
        token = self.host.run(command, env=clean_environment()).removesuffix("\n")
        if not token.startswith("ntm1.") or "\n" in token:
            raise LabError(f"account add printed something beside a token: {token!r}")
        return token

    def command(self, *words: Word) -> str:
        """What a command on the servers' own state prints."""
        command = [*NTMPATCH, *words, "--config", self._config]
        return self.host.run(command, env=clean_environment())

    def node(self, host: Host, label: str, directory: Path, port: int = NODE_PORT) -> DomainNode:
        """A node on a host, with an account of its own and a state directory not made yet."""
        return DomainNode(host, f"{label}.{self.name}", directory, self.add_account(label), port)


class DomainNode:
    """A node's name, token and state, under which programs run."""

    def __init__(
        self,
        host: Host,
        fqdn: str,
        directory: Path,
        token: str,
        port: int,
    ) -> None:
        self.host = host
        self.fqdn = fqdn
        self.port = port
        self.state = directory / f"{host.name}.state"
        self._config = directory / f"{host.name}.toml"
        self._config.write_text(f"[node]\nport = {port}\n")
        self._options: list[Word] = [
            "--state",
            self.state,
            "--config",
            self._config,
            "--token",
            token,
        ]

    def popen(self, *target: Word, **options: Any) -> Process:
        """Start a program under `run`; target is what stands behind its options."""
        environment = {**clean_environment(), **options.pop("env", {})}
        return self.host.popen(
            [*NTMPATCH, "run", *self._options, *target], env=environment, **options
        )

    def run(self, *target: Word, timeout: float = 60.0, **options: Any) -> str:
        """Run a program under `run` to its end: its output."""
        return self.popen(*target, **options).check(timeout)

    def up(self, **options: Any) -> Process:
        """Start the node in a process of its own; it prints a line that begins with ``up: ``."""
        environment = {**clean_environment(), **options.pop("env", {})}
        return self.host.popen([*NTMPATCH, "up", *self._options], env=environment, **options)

    def trace(self, fqdn: str, *options: Word, env: Mapping[str, str]) -> str:
        """What `trace` prints of a tunnel's set-up; by the running node, or by one of its own."""
        environment = {**clean_environment(), **env}
        return self.host.run(
            [*NTMPATCH, "trace", fqdn, *options, *self._options], timeout=60.0, env=environment
        )

    def netcheck(self) -> Mapping[str, Any]:
        """What `netcheck` tells of the running node."""
        command: list[Word] = [*NTMPATCH, "netcheck", "--json", "--state", self.state]
        facts: Mapping[str, Any] = json.loads(self.host.run(command, env=clean_environment()))
        return facts

    def status(self) -> Mapping[str, Any]:
        """The facts of the node while a program runs under it."""
        command: list[Word] = [*NTMPATCH, "status", "--json", "--state", self.state]
        facts: Mapping[str, Any] = json.loads(self.host.run(command, env=clean_environment()))
        return facts

    def wait_until_registered(self, timeout: float = START_TIMEOUT) -> Mapping[str, Any]:
        """Wait until the node has its virtual addresses: its facts."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                facts = self.status()
                if facts["ipv4"] and facts["ipv6"]:
                    return facts
                problem = f"not registered: {facts}"
            except LabError as error:
                problem = str(error)
            if time.monotonic() > deadline:
                raise LabError(f"{self.fqdn} after {timeout} s: {problem}")
            time.sleep(0.1)


def resident_size(pid: int) -> int:
    """Bytes of memory a process holds, by /proc/PID/status."""
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
