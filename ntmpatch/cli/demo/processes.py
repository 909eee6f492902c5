"""The demo's processes: started apart from the terminal, and always stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from ntmpatch.cli.exits import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_STOP_TIMEOUT: Final = 3.0
"""Seconds from SIGTERM to SIGKILL."""
_TAIL_SIZE: Final = 2000
"""Bytes of a process's output that are looked through for its last line."""


class DemoError(CommandError):
    """A part of the demo failed; the message says which, and what it said."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=1)


class Crew:
    """Child processes by name, each with its output in a file of ``directory``.

    Each is in a session to itself, so that Ctrl-C reaches the demo alone, which then stops all.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = dict(environment)
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        interactive: bool = False,
    ) -> subprocess.Popen[str]:
        """Start ``python -m ntmpatch arguments``.

        If ``interactive``, its stdin and stdout are pipes; all else that it says goes to its file.
        """
        with open(self._output_path(name), "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "ntmpatch", *arguments],
                env={**self._environment, **(environment or {})},
                stdin=subprocess.PIPE if interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE if interactive else output,
                stderr=output,
                text=True,
                start_new_session=True,
            )
        self._processes[name] = process
        return process

    def release(self, name: str) -> None:
        """Forget a process that has ended as it should."""
        del self._processes[name]

    def said(self, name: str) -> str:
        """What a process has said so far."""
        return self._output_path(name).read_text(errors="replace")

    def check(self) -> None:
        """DemoError if any of them has ended: none is to end before it is stopped."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise self.failure(name, f"ended with status {process.returncode}")

    def failure(self, name: str, what: str) -> DemoError:
        """The error that tells what became of a process, with its last line."""
        lines = self.said(name)[-_TAIL_SIZE:].strip().splitlines()
        return DemoError(f"{name} {what}" + (f": {lines[-1]}" if lines else ""))

    def stop(self) -> None:
        """End them all, the last first; returns when every one is gone."""
        running = list(reversed(self._processes.values()))
        for process in running:
            _signal(process, signal.SIGTERM)
        stop_at = time.monotonic() + _STOP_TIMEOUT
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, stop_at - time.monotonic()))
            _signal(process, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _output_path(self, name: str) -> Path:
        return self._directory / f"{name.replace(' ', '-')}.log"


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Signal the whole session of a process that still runs (its number is then its own)."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
