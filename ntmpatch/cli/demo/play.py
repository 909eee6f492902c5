"""The demo itself, scene by scene."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import selectors
import shutil
import time
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any, Final

from ntmpatch.base.errors import UnavailableError
from ntmpatch.cli.control import NodeControl
from ntmpatch.cli.demo.configuration import (
    CLIENT_NAME,
    DOMAIN,
    SERVER_NAME,
    Addresses,
    free_ports,
    write_configuration,
)
from ntmpatch.cli.demo.processes import Crew, DemoError
from ntmpatch.cli.demo.steps import StepReader
from ntmpatch.wire import local

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ntmpatch.cli.console import Console
    from ntmpatch.cli.demo.steps import Step

_START_TIMEOUT: Final = 15.0
"""Seconds for the servers, or a node, to be ready."""
_SILENCE_TIMEOUT: Final = 20.0
"""Seconds that the download may say nothing."""
_WARM_UP_SIZE: Final = 8 << 20
"""Bytes of the first, small file, whose speed decides the size of the real one."""
_TRANSFER_TIME: Final = 5.0
"""Seconds that the real transfer should take, where that needs no more than the largest file."""
_LEAST_SIZE: Final = 32 << 20
_LARGEST_SIZE: Final = 256 << 20
_POLL_INTERVAL: Final = 0.05
_BLOCK_SIZE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Result:
    """What the demo found. Sizes in bytes, times in seconds."""

    received_size: int
    sha256: str
    seconds: float
    throughput: float
    """Bytes a second."""
    longest_gap: float
    moved_from: str
    moved_to: str
    moved_at_size: int
    steps: list[dict[str, Any]]


class Demo:
    """Plays the demo in ``directory``, which is its owner's alone and is removed afterwards."""

    def __init__(self, directory: Path, console: Console) -> None:
        self._directory = directory
        self._console = console
        self._addresses = Addresses()
        self._crew = Crew(
            directory,
            {
                # The user's own node has no part in this.
                **{k: v for k, v in os.environ.items() if not k.startswith("NTMPATCH_")},
                "NTMPATCH_TRACE": str(directory / "trace"),
                "PYTHONUNBUFFERED": "1",
            },
        )

    def play(self) -> Result:
        """All scenes; raises DemoError (or whatever was raised) after everything is stopped."""
        with contextlib.ExitStack() as stack:
            steps = stack.enter_context(StepReader(self._directory / "trace", self._show_step))
            stack.callback(self._console.end_progress)
            stack.callback(self._crew.stop)
            self._start_servers()
            url = self._start_server_node()
            download = self._start_client_node()
            warm_up = self._warm_up(download, url)
            return self._transfer(download, url, warm_up, steps)

    # ------------------------------------------------------------------------------- the scenes

    def _start_servers(self) -> None:
        write_configuration(self._directory, self._addresses)
        self._scene("Starting AS, DC, NS and RS in one process (serve all)")
        config = str(self._directory / "servers.toml")
        self._crew.start("servers", ["serve", "all", "--config", config])
        for name in (SERVER_NAME, CLIENT_NAME):
            self._add_account(name, config)
        # Nodes need not wait: they try again. But one that registers before the NS does is not
        # woken by it, and Fig. 3 would lack steps (9) to (11).
        self._wait_until("servers", lambda: "serving" in self._crew.said("servers"))

    def _add_account(self, name: str, config: str) -> None:
        self._scene(f"Adding an account for {name} (account add)")
        account = self._crew.start(
            f"account of {name}", ["account", "add", name, "--config", config], interactive=True
        )
        token, _ = account.communicate(timeout=_START_TIMEOUT)
        if account.returncode != 0:
            raise self._crew.failure(f"account of {name}", "could not be added")
        self._crew.release(f"account of {name}")
        with open(self._token_path(name), "w", opener=_open_private) as file:
            file.write(token)

    def _start_server_node(self) -> str:
        """Start the unmodified web server; the URL of its directory."""
        site = self._directory / "site"
        site.mkdir()
        self._make_file("warm-up", _WARM_UP_SIZE)
        (port,) = free_ports("0.0.0.0", 1)
        self._scene(f"Starting an unmodified 'python -m http.server' as {SERVER_NAME}")
        self._crew.start(
            "web server",
            ["run", "-m", "http.server", str(port), "--directory", str(site)],
            environment=self._node_environment(SERVER_NAME),
        )
        self._wait_for_node("web server", SERVER_NAME)
        self._wait_until("web server", lambda: "Serving HTTP" in self._crew.said("web server"))
        return f"http://{SERVER_NAME}:{port}/"

    def _start_client_node(self) -> Download:
        # A copy: beside the original, its directory would offer our modules to its imports.
        script = self._directory / "download.py"
        script.write_text(_download_source())
        self._scene(f"Starting an unmodified urllib download as {CLIENT_NAME}")
        process = self._crew.start(
            "download",
            ["run", str(script)],
            environment=self._node_environment(CLIENT_NAME),
            interactive=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        return Download(process.stdin, process.stdout, self._crew)

    def _warm_up(self, download: Download, url: str) -> float:
        """Fetch the small file by name, which creates the tunnel; bytes a second."""
        download.fetch(url + "warm-up")
        while not (progress := download.next_report()).get("done"):
            pass
        return float(progress["received_size"] / max(progress["seconds"], 1e-3))

    def _transfer(self, download: Download, url: str, speed: float, steps: StepReader) -> Result:
        size = transfer_size(speed, shutil.disk_usage(self._directory).free)
        self._scene(f"Downloading {size >> 20} MiB of random bytes from {url}")
        sha256 = self._make_file("random", size)
        download.fetch(url + "random")
        moved_at_size = 0
        while not (progress := download.next_report()).get("done"):
            self._console.show_progress(progress["received_size"], size)
            if not moved_at_size and progress["received_size"] >= size // 3:
                moved_at_size = progress["received_size"]
                self._move_client(moved_at_size)
        self._console.end_progress()
        if progress["received_size"] != size or progress["sha256"] != sha256:
            raise DemoError("the file that arrived is not the one that was sent")
        if not moved_at_size:
            raise DemoError("the transfer ended before the client could move")
        if not steps.count("3"):
            raise DemoError("no step of Fig. 3 was reported")
        self._crew.check()
        self._check_move()
        return Result(
            received_size=size,
            sha256=sha256,
            seconds=progress["seconds"],
            throughput=size / progress["seconds"],
            longest_gap=progress["longest_gap"],
            moved_from=self._addresses.client,
            moved_to=self._addresses.client_moved,
            moved_at_size=moved_at_size,
            steps=[asdict(step) for step in steps.steps],
        )

    def _move_client(self, received_size: int) -> None:
        old, new = self._addresses.client, self._addresses.client_moved
        self._scene(f"Moving {CLIENT_NAME} from {old} to {new}, {received_size >> 20} MiB received")
        with NodeControl(self._control_path(CLIENT_NAME)) as node:
            node.ask(local.Rebind((new,)), local.Done)

    def _check_move(self) -> None:
        """The web server's node must see the client at its new address."""
        with NodeControl(self._control_path(SERVER_NAME)) as node:
            facts = json.loads(node.ask(local.Status(), local.Report).json)
        seen = [peer["endpoint"] for peer in facts["peers"] if peer["name"] == CLIENT_NAME]
        if not any((end or "").startswith(f"{self._addresses.client_moved}:") for end in seen):
            raise DemoError(f"the client did not move: it is seen at {seen}")

    # ------------------------------------------------------------------------------ small things

    def _scene(self, line: str) -> None:
        self._console.say(line, style="bold")

    def _show_step(self, step: Step) -> None:
        self._console.say(
            f"  {step.describe(DOMAIN)}", style="cyan" if step.figure == "3" else "magenta"
        )

    def _make_file(self, name: str, size: int) -> str:
        """Random bytes on the web server's site; their SHA-256."""
        digest = hashlib.sha256()
        with open(self._directory / "site" / name, "wb") as file:
            for _ in range(size // _BLOCK_SIZE):
                block = os.urandom(_BLOCK_SIZE)
                digest.update(block)
                file.write(block)
        return digest.hexdigest()

    def _node_environment(self, name: str) -> dict[str, str]:
        return {
            "NTMPATCH_CONFIG": str(self._directory / f"{name}.toml"),
            "NTMPATCH_STATE": str(self._directory / name),
            "NTMPATCH_TOKEN": f"file:{self._token_path(name)}",
        }

    def _token_path(self, name: str) -> Path:
        return self._directory / f"{name}.token"

    def _control_path(self, name: str) -> str:
        return str(self._directory / name / "control.sock")

    def _wait_for_node(self, process: str, name: str) -> None:
        """Until the node has its virtual address, which its registration gives it."""

        def is_registered() -> bool:
            try:
                with NodeControl(self._control_path(name)) as node:
                    return node.welcome.ipv4 is not None
            except (UnavailableError, OSError):
                return False

        self._wait_until(process, is_registered)

    def _wait_until(self, process: str, is_ready: Callable[[], bool]) -> None:
        deadline_at = time.monotonic() + _START_TIMEOUT
        while not is_ready():
            self._crew.check()
            if time.monotonic() > deadline_at:
                raise self._crew.failure(process, f"was not ready in {_START_TIMEOUT:.0f} s")
            time.sleep(_POLL_INTERVAL)


class Download:
    """The download program's two pipes: URLs go in, reports come out."""

    def __init__(self, urls: IO[str], reports: IO[str], crew: Crew) -> None:
        self._urls = urls
        self._reports = reports
        self._crew = crew
        # Not line by line through the file: a buffered line would hide from select().
        self._buffer = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(reports.fileno(), selectors.EVENT_READ)

    def fetch(self, url: str) -> None:
        """Ask for one more URL."""
        try:
            self._urls.write(url + "\n")
            self._urls.flush()
        except BrokenPipeError:
            raise self._crew.failure("download", "ended") from None

    def next_report(self) -> dict[str, Any]:
        """What the program reports next; DemoError if it ends or falls silent."""
        while b"\n" not in self._buffer:
            if not self._selector.select(_SILENCE_TIMEOUT):
                raise self._crew.failure("download", f"stood still for {_SILENCE_TIMEOUT:.0f} s")
            chunk = os.read(self._reports.fileno(), 1 << 16)
            if not chunk:
                raise self._crew.failure("download", "ended early")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        report = json.loads(line)
        assert isinstance(report, dict)
        return report


def transfer_size(speed: float, free_size: int) -> int:
    """How much to transfer, in bytes (a multiple of 1 MiB), at ``speed`` bytes a second.

    The file may take half of the ``free_size`` bytes that the disk has, but is never less
    than the least size: where even that has no room, writing it fails and says so.
    """
    wanted = min(int(speed * _TRANSFER_TIME), _LARGEST_SIZE, free_size // 2)
    return max(wanted, _LEAST_SIZE) // _BLOCK_SIZE * _BLOCK_SIZE


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _download_source() -> str:
    from importlib.resources import files  # noqa: PLC0415 (once)

    return files("ntmpatch.cli.demo").joinpath("download.py").read_text()
