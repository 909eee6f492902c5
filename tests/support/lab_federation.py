"""Two domains in a lab, as operators would run them: every server a process on a host of its own.

    account (AS) · parent (zone `example`, unbound) · resolver (unbound) · mn
    a-dc a-ns a-rs   for a.example
    b-dc b-ns b-rs   for b.example · router (NAT) ── cn

All but cn are on one switch, where everything is recorded in one order. The parent delegates both
domains to their DCs, which answer at port 53; both DCs ask the resolver about other domains.
"""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

from lab_domain import DNS_PORT, NODE_PORT, NTMPATCH, START_TIMEOUT, DomainNode, clean_environment
from lab_nat import NatKind
from wire_decryptor import Decryptor

from ntmpatch.runtime.trace import TRACE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from lab import Host, Lab, Process
    from trace_files import TraceFiles

PARENT = "example"
DOMAINS = {"a": "a.example", "b": "b.example"}
ROLES = ("dc", "ns", "rs")
NODES = {"mn": "a", "cn": "b"}
"""Hosts of nodes, and the domain that each is of."""

_ADD_ACCOUNTS = """
import sys
from ntmpatch.cli.main import run_command
for account in sys.argv[2:]:
    name, _, role = account.partition("=")
    assert run_command(["account", "add", name, "--role", role, "--config", sys.argv[1]]) == 0
"""


def fqdn_of(name: str) -> str:
    """The name of the node or server on a host: ``mn``, ``a-dc``."""
    if name in NODES:
        return f"{name}.{DOMAINS[NODES[name]]}"
    label, _, role = name.partition("-")
    return f"{role}.{DOMAINS[label]}"


class Federation:
    """The hosts, with DNS and all servers running; nodes are started by the test.

    ``traces``: who gets the steps that each party tells (see trace_files.py), if anybody.
    """

    def __init__(self, lab: Lab, directory: Path, traces: TraceFiles | None = None) -> None:
        self.directory = directory
        self.lab = lab
        self._traces = traces
        self.switch = switch = lab.switch()
        names = ["account", "parent", "resolver", "mn", "router"]
        names += [f"{label}-{role}" for label in DOMAINS for role in ROLES]
        self.hosts: dict[str, Host] = {name: lab.host(name) for name in names}
        for host in self.hosts.values():
            switch.join(host)
        self._put_behind_nat(lab.host("cn"))
        self._start_dns()
        self.servers: dict[str, Process] = {}
        self._tokens = self._make_accounts()
        self._start_servers()

    def address(self, name: str) -> str:
        """The address of a host on the switch; of cn, its NAT's."""
        return self.hosts["router" if name == "cn" else name].address()

    def names_by_address(self) -> dict[str, str]:
        """The hosts by address; ``cn`` for its NAT's."""
        names = {host.address(): name for name, host in self.hosts.items() if name != "cn"}
        return {**names, self.address("cn"): "cn"}

    def node(self, name: str) -> DomainNode:
        """The node of this host, ``mn`` or ``cn``, whose programs write a key log."""
        fqdn = fqdn_of(name)
        token = self._tokens[fqdn]
        return DomainNode(self.hosts[name], fqdn, self.directory, token, NODE_PORT)

    def environment(self, name: str) -> dict[str, str]:
        """What programs of a host see; their handshakes can be opened."""
        environment = {**clean_environment(), "NTMPATCH_KEYLOG": str(self._key_log(name))}
        if self._traces is not None:
            environment[TRACE_VARIABLE] = self._traces.open(name)
        return environment

    def decryptor(self) -> Decryptor:
        """Opens what was recorded, by the keys of everybody."""
        identities = {"account": self._state("account") / "as.key"}
        for label in DOMAINS:
            for role in ROLES:
                name = f"{label}-{role}"
                identities[name] = self._state(name) / f"{role}.key"
        identities |= {name: self.directory / f"{name}.state" / "private.key" for name in NODES}
        logs: Iterable[Path] = filter(lambda path: path.exists(), map(self._key_log, identities))
        return Decryptor({name: path.read_bytes() for name, path in identities.items()}, logs)

    # --- building --------------------------------------------------------------------------

    def _put_behind_nat(self, cn: Host) -> None:
        router = self.hosts["router"]
        inside, _ = self.lab.link(router, cn)
        cn.route("default", via=inside.address())
        router.nat(NatKind.PORT_RESTRICTED, router.interfaces[0])
        self.hosts["cn"] = cn

    def _start_dns(self) -> None:
        zone = self.directory / "parent.zone"
        zone.write_text(
            f"{PARENT}. 60 IN SOA parent.{PARENT}. hostmaster.{PARENT}. 1 3600 600 86400 60\n"
            f"{PARENT}. 60 IN NS parent.{PARENT}.\n"
            f"parent.{PARENT}. 60 IN A {self.address('parent')}\n"
            + "".join(
                f"{domain}. 60 IN NS dc.{domain}.\n"
                f"dc.{domain}. 60 IN A {self.address(f'{label}-dc')}\n"
                for label, domain in DOMAINS.items()
            )
        )
        self._unbound(
            "parent",
            f"""
            auth-zone:
                name: "{PARENT}."
                zonefile: "{zone}"
                for-downstream: yes
                for-upstream: no
            """,
        )
        self._unbound(
            "resolver",
            f"""
            stub-zone:
                name: "{PARENT}."
                stub-addr: {self.address("parent")}
            """,
        )

    def _unbound(self, name: str, zones: str) -> None:
        config = self.directory / f"{name}.conf"
        config.write_text(
            textwrap.dedent(f"""
            server:
                interface: {self.address(name)}
                access-control: 0.0.0.0/0 allow
                username: ""
                chroot: ""
                directory: "{self.directory}"
                pidfile: ""
                use-syslog: no
                logfile: ""
                num-threads: 1
                do-ip6: no
                module-config: "iterator"
            remote-control:
                control-enable: no
            """)
            + textwrap.dedent(zones)
        )
        process = self.hosts[name].popen(["unbound", "-d", "-c", config], env=clean_environment())
        process.wait_for("start of service", START_TIMEOUT)

    def _make_accounts(self) -> dict[str, str]:
        """Enrolment tokens by name, from the AS."""
        config = self._config("account", "as")
        config.write_text(
            f'[serve]\ndomain = "{DOMAINS["a"]}"\nstate = "{self._state("account")}"\n'
            f'listen = "{self.address("account")}"\n'
            f"[as]\ndomains = {json.dumps(list(DOMAINS.values()))}\n"
        )
        accounts = {f"{role}.{domain}": role for domain in DOMAINS.values() for role in ROLES}
        accounts |= {fqdn_of(name): "node" for name in NODES}
        words = [f"{name}={role}" for name, role in accounts.items()]
        output = self.hosts["account"].python(
            "-c", _ADD_ACCOUNTS, config, *words, env=clean_environment()
        )
        return dict(zip(accounts, output.split(), strict=True))

    def _start_servers(self) -> None:
        self._serve("account", "as")
        for label in DOMAINS:
            for role in ROLES:
                self._configure(label, role)
                self._serve(f"{label}-{role}", role)
        for process in self.servers.values():
            process.wait_for("serving ", START_TIMEOUT)

    def _configure(self, label: str, role: str) -> None:
        name = f"{label}-{role}"
        sections = "".join(
            f'[{each}]\nlisten = "{self.address(f"{label}-{each}")}"\n'
            f'token = "{self._tokens[fqdn_of(f"{label}-{each}")]}"\n'
            for each in ROLES
        )
        self._config(name, role).write_text(
            f'[serve]\ndomain = "{DOMAINS[label]}"\nstate = "{self._state(name)}"\n'
            f'listen = "{self.address(name)}"\n{sections}'
            f'[dns]\nport = {DNS_PORT}\nresolver = ["{self.address("resolver")}"]\n'
        )

    def _serve(self, name: str, role: str) -> None:
        self.servers[name] = self.hosts[name].popen(
            [*NTMPATCH, "serve", role, "--config", self._config(name, role)],
            env=self.environment(name),
        )

    def _config(self, name: str, role: str) -> Path:
        return self.directory / f"{name}.{role}.toml"

    def _state(self, name: str) -> Path:
        return self.directory / f"{name}.servers"

    def _key_log(self, name: str) -> Path:
        return self.directory / f"{name}.keys"
