"""Where the programs of ``tests/programs`` run: two nodes of one domain, each kept by a process.

Programs attach to the node of the process that keeps it, as forked children do to their parent's,
so none of them needs the second that a start of a node takes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab_domain import Domain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab import Lab, Process
    from lab_domain import DomainNode, Word

APPS = Path(__file__).parents[1] / "programs" / "apps"
FIRST_PORT = 8000
START_TIMEOUT = 30.0
CLIENT_TIMEOUT = 60.0

_KEEPER = """
import socket, sys, threading
socket.getaddrinfo(sys.argv[1], 1)
print("kept", flush=True)
threading.Event().wait()
"""


SCRIPTS = Path(sys.executable).parent
"""Console scripts of the environment that runs the tests."""


def checks_of(output: str) -> list[str]:
    """What a client under ``apps`` says that it has checked: its last line."""
    checks: list[str] = json.loads(output.splitlines()[-1])
    return checks


class Residence:
    """A node, and the programs that use it."""

    def __init__(self, node: DomainNode, ports: Iterator[int]) -> None:
        self.node = node
        self.name = node.fqdn
        self.ipv4 = self.ipv6 = ""
        self._ports = ports

    def keep(self) -> None:
        """Start the process that keeps the node, and wait until the node is registered."""
        keeper = self.node.popen("-c", _KEEPER, self.name)
        keeper.wait_for("kept", START_TIMEOUT)
        facts = self.node.wait_until_registered()
        self.ipv4, self.ipv6 = str(facts["ipv4"]), str(facts["ipv6"])

    def port(self) -> int:
        """A port that no program of these tests has used."""
        return next(self._ports)

    def run(self, *words: Word, timeout: float = CLIENT_TIMEOUT) -> str:
        """Run a program to its end: what it printed. LabError unless it exits with 0."""
        return self.begin(*words).check(timeout)

    def begin(self, *words: Word) -> Process:
        """Start a program; what it writes to a home directory goes beside the node's state."""
        return self.node.popen(*words, cwd=APPS, env={"HOME": str(self.node.state.parent)})

    def start(self, ready: str, *words: Word) -> Process:
        """Start a program, and wait until it prints ``ready``."""
        process = self.begin(*words)
        process.wait_for(ready, START_TIMEOUT)
        return process

    @contextlib.contextmanager
    def serving(self, ready: str, *words: Word) -> Iterator[Process]:
        """A program that runs meanwhile; it is killed with its children."""
        process = self.start(ready, *words)
        try:
            yield process
        finally:
            process.kill()


@dataclass
class Pair:
    """Both nodes, and the directory for their files."""

    lab: Lab
    domain: Domain
    residences: dict[str, Residence]
    directory: Path
    ports: Iterator[int]

    def __getitem__(self, label: str) -> Residence:
        return self.residences[label]

    def other(self, label: str) -> Residence:
        """The node beside ``label``."""
        return next(each for name, each in self.residences.items() if name != label)

    def another(self, label: str, name: str, port: int) -> Residence:
        """A further node on the host of ``label``, kept by whichever program runs under it first.

        ``port`` is the UDP port of its tunnels."""
        directory = self.directory / name
        directory.mkdir()
        host = self.residences[label].node.host
        return Residence(self.domain.node(host, name, directory, port), self.ports)

    def processes(self) -> list[tuple[str, Process]]:
        """Hosts' names and what was started on them."""
        return [
            (host.name, process) for host in self.lab.hosts.values() for process in host.started
        ]

    def forget_ended(self) -> None:
        """Before a test: what has ended by now is of no interest when it fails."""
        for host in self.lab.hosts.values():
            host.started = [each for each in host.started if each.returncode is None]


def make_pair(lab: Lab, directory: Path) -> Pair:
    """Switch, servers and both nodes, registered."""
    switch = lab.switch()
    servers, *hosts = (lab.host(name) for name in ("servers", "a", "b"))
    for host in (servers, *hosts):
        switch.join(host)
    domain = Domain(servers, directory)
    ports = itertools.count(FIRST_PORT)
    residences = {
        host.name: Residence(domain.node(host, host.name, directory), ports) for host in hosts
    }
    for residence in residences.values():
        residence.keep()
    return Pair(lab, domain, residences, directory, ports)
