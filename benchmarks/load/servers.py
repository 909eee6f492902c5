"""The servers under load: `ntmpatch serve` as an operator runs it, one process a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import insert

from load.world import DOMAIN, SERVERS_HOST, World, node_certificate, node_key, node_name
from ntmpatch.base.addresses import VIRTUAL_IPV4_SPACE, Endpoint
from ntmpatch.base.config import parse_serve_config
from ntmpatch.cli.demo.configuration import free_ports
from ntmpatch.crypto.certificate import signing_public_key
from ntmpatch.crypto.noise import StaticKey
from ntmpatch.crypto.token import Token, parse_token
from ntmpatch.runtime import schema
from ntmpatch.runtime.accounts import Accounts, serve_state, server_database
from ntmpatch.signalling.enrolled import EnrolmentState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Engine

NTMPATCH = (sys.executable, "-m", "ntmpatch")
NO_LIMIT = 1e6
ROLES = ("as", "dc", "ns", "rs")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ServerProcess:
    """One `ntmpatch serve ROLE`, and what the kernel says that it uses."""

    def __init__(self, role: str, config: Path, log: Path) -> None:
        begun = time.monotonic()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*NTMPATCH, "serve", role, "--config", str(config), "--json"],
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "NTMPATCH_LOG": os.environ.get("NTMPATCH_LOG", "error")},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {role} did not start: {log.read_text().strip()}")
        self.facts: dict[str, Any] = json.loads(line)
        self.starting_time = time.monotonic() - begun
        self.pid = self._process.pid

    def cpu_time(self) -> float:
        """Seconds of processor time so far, of all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE

    def stop(self) -> None:
        """End it at once: what it has acknowledged is durable, and nobody waits for a drain."""
        self._process.kill()
        self._process.wait()


class Servers:
    """A domain's servers in ``directory``; accounts are made straight in their database."""

    def __init__(self, directory: Path, *, database: str = "") -> None:
        self._directory = directory
        self._path = directory / "servers.toml"
        ports = free_ports(SERVERS_HOST, 5)
        self._ports = dict(zip((*ROLES, "dns"), ports, strict=True))
        self._database = database
        self.processes: dict[str, ServerProcess] = {}
        self._write({})
        config = parse_serve_config(self._path.read_text(), str(self._path))
        self._config = config
        self._state = serve_state(config)
        self._accounts = Accounts(config)
        self._signing_key = self._accounts.signing_keys.signing(time.time())
        self._engine = server_database(config, self._state, "account")
        with self._engine.begin() as connection:
            # One domain has more nodes here than an AS leases addresses for by default.
            connection.execute(
                insert(schema.leases).values(
                    domain=DOMAIN,
                    ipv4_prefix=str(VIRTUAL_IPV4_SPACE),
                    ipv6_prefix="fd00:10ad::/48",
                    leased_at=time.time(),
                )
            )
        self._write({role: self._accounts.add(f"{role}.{DOMAIN}", role) for role in ROLES[1:]})

    def __enter__(self) -> Self:
        try:
            for role in ROLES:
                self.start(role)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes.values()):
            process.stop()

    def start(self, role: str) -> ServerProcess:
        """Start a server, and wait until it serves."""
        process = ServerProcess(role, self._path, self._directory / f"{role}.log")
        self.processes[role] = process
        return process

    def direction_database(self) -> Engine:
        """Where the DC keeps its nodes."""
        return server_database(self._config, self._state, "direction")

    def world(self) -> World:
        """What the load has to know."""
        stored = self._state.read("dc.enrolment")
        assert stored is not None
        return World(
            account_server=StaticKey(self._accounts.private_key).public,
            account_server_endpoint=Endpoint(SERVERS_HOST, self._ports["as"]),
            signing_key=self._signing_key,
            signing_public_key=signing_public_key(self._signing_key),
            coordinator=StaticKey(self._state.private_key("dc.key")).public,
            coordinator_certificate=EnrolmentState.decode(stored).certificate,
            coordinator_endpoint=Endpoint(SERVERS_HOST, self._ports["dc"]),
            dns=Endpoint(SERVERS_HOST, self._ports["dns"]),
        )

    def add_enrolled(self, numbers: Iterable[int]) -> None:
        """Accounts of nodes that have enrolled."""
        now = time.time()
        rows = [
            {
                "fqdn": node_name(number),
                "role": "node",
                "public_key": StaticKey(node_key(number)).public,
                "certificate": node_certificate(number, self._signing_key),
                "created_at": now,
            }
            for number in numbers
        ]
        with self._engine.begin() as connection:
            connection.execute(insert(schema.accounts), rows)

    def add_invited(self, numbers: Iterable[int]) -> dict[int, Token]:
        """Accounts of nodes that have yet to enrol, and their tokens."""
        return {number: parse_token(self._accounts.add(node_name(number))) for number in numbers}

    def _write(self, tokens: dict[str, str]) -> None:
        lines = [
            "[serve]",
            f'domain = "{DOMAIN}"',
            f'state = "{self._directory / "state"}"',
            f'listen = "{SERVERS_HOST}"',
            f'database = "{self._database}"',
            "[limits]",  # here a few nodes stand for many
            *(f"{key} = {NO_LIMIT}" for key in ("registrations_per_node", "directions_per_node")),
        ]
        for section, port in self._ports.items():
            lines += [f"[{section}]", f"port = {port}"]
            if section == "dns":
                lines.append('exempt = ["127.0.0.0/8"]')  # one address asks for all resolvers
            if section in tokens:
                lines.append(f'token = "{tokens[section]}"')
        self._path.write_text("\n".join(lines) + "\n")
