"""The servers themselves on a PostgreSQL that is killed under them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ntmpatch.cli.demo.configuration import free_ports

if TYPE_CHECKING:
    from pathlib import Path

    from databases import PostgresCluster

pytestmark = pytest.mark.once

_OWN_ADDRESS = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"


def test_servers_go_on_after_their_database_was_killed(
    cluster: PostgresCluster, tmp_path: Path
) -> None:
    database = cluster.database()
    config = tmp_path / "servers.toml"
    lines = [f'[serve]\nstate = "{tmp_path / "servers"}"\ndatabase = "{database.url}"']
    roles = ("as", "dc", "ns", "rs", "dns")
    lines += [f"[{r}]\nport = {p}" for r, p in zip(roles, free_ports("127.0.0.1", 5), strict=True)]
    config.write_text("\n".join(lines))
    environment = {name: value for name, value in os.environ.items() if "NTMPATCH" not in name}

    def ntmpatch(*arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "ntmpatch", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (ended.stderr, ended.returncode) == ("", 0)
        return ended.stdout.strip()

    def address_of_a_new_node(label: str) -> str:
        fqdn = f"{label}.home.example"
        token = ntmpatch("account", "add", fqdn, "--config", str(config))
        enrolled = ("run", "--token", token, "--state", label, "-c", _OWN_ADDRESS, fqdn)
        return ntmpatch(*enrolled)

    command = [sys.executable, "-m", "ntmpatch", "serve", "all", "--config", str(config), "--json"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it tells that the database went away, as it should
        text=True,
    ) as servers:
        try:
            assert servers.stdout is not None
            assert json.loads(servers.stdout.readline())["ready"] is True
            first = address_of_a_new_node("a")
            database.crash()
            second = address_of_a_new_node("b")
            assert {first, second} == {"198.18.0.2", "198.18.0.3"}
            assert ntmpatch("run", "--state", "a", "-c", _OWN_ADDRESS, "a.home.example") == first
            assert servers.poll() is None
        finally:
            servers.kill()
