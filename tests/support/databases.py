"""Real databases for tests: a SQLite file, or a PostgreSQL cluster of the test's own.

The cluster lives in a temporary directory, listens on a Unix socket only, and is as durable as a
default one (fsync is on). PostgreSQL refuses to be root, so a root's cluster is another user's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


class Database(Protocol):
    """One empty database."""

    url: str

    def crash(self) -> None:
        """Kill the server, if there is one, and start it again."""


class SqliteDatabase:
    """A file. Its only process is whoever uses it."""

    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:///{path}"

    def crash(self) -> None:
        """There is no server."""


class PostgresCluster:
    """A running cluster; each test gets a database of it."""

    def __init__(self, directory: Path) -> None:
        self._binaries = postgres_binaries()
        self._directory = directory
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            os.chown(directory, NOBODY, NOBODY)
            self._as = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        self._run("initdb", "-D", self._data, "-U", "ntmpatch", "-A", "trust", "--no-sync")
        self._count = 0
        self._postmaster = self._start()

    @property
    def _data(self) -> str:
        return str(self._directory / "data")

    def database(self) -> PostgresDatabase:
        """A fresh one."""
        self._count += 1
        name = f"test{self._count}"
        self._run("createdb", "-h", self._directory, "-U", "ntmpatch", name)
        return PostgresDatabase(self, f"postgresql:///{name}?host={self._directory}&user=ntmpatch")

    def crash(self) -> None:
        """Kill all of its processes at once, as a power cut does; start it again."""
        children = Path(f"/proc/{self._postmaster.pid}/task/{self._postmaster.pid}/children")
        backends = [int(pid) for pid in children.read_text().split()]
        self._postmaster.kill()
        for pid in backends:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._postmaster.wait()
        # The next postmaster waits for the shared memory of backends that are dying still.
        self._postmaster = self._start()

    def stop(self) -> None:
        """End it, without ceremony."""
        self._postmaster.send_signal(signal.SIGQUIT)
        self._postmaster.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [self._binaries / "postgres", "-D", self._data, "-k", self._directory]
        command += ["-c", "listen_addresses=", "-c", "fsync=on", "-c", "max_connections=60"]
        with (self._directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                **self._as,
            )
        for _ in range(600):
            if process.poll() is not None:
                return self._start_again()
            try:
                self._run("psql", "-h", self._directory, "-U", "ntmpatch", "-c", "", "postgres")
            except subprocess.CalledProcessError:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
            else:
                return process
        raise AssertionError((self._directory / "log").read_text()[-2000:])

    def _start_again(self) -> subprocess.Popen[bytes]:
        """A backend of the killed postmaster was alive still, and kept its successor out."""
        self._retries = getattr(self, "_retries", 0) + 1
        assert self._retries < 100, (self._directory / "log").read_text()[-2000:]
        return self._start()

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [str(self._binaries / program), *map(str, arguments)],
            check=True,
            capture_output=True,
            cwd=self._directory,
            timeout=60,
            **self._as,
        )


class PostgresDatabase:
    """One database of a cluster."""

    def __init__(self, cluster: PostgresCluster, url: str) -> None:
        self.url = url
        self.crash = cluster.crash


def postgres_binaries() -> Path:
    """Where the newest installed PostgreSQL's programs are; skips the test if there are none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: p.parts[-3])
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        pytest.skip("needs PostgreSQL")
    return found[-1].parent if found else Path(on_path or "").resolve().parent


@contextlib.contextmanager
def postgres_cluster() -> Iterator[PostgresCluster]:
    """A cluster, for as long as the context lasts."""
    postgres_binaries()
    # Not pytest's directory: its path is long for a socket's, and closed to other users. In memory
    # where that is possible: only processes are killed, and the kernel keeps what they wrote.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="ntmpg.", dir=memory))
    try:
        cluster = PostgresCluster(directory)
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
