"""The steps that processes of a lab tell of themselves: one trace a process, merged by one clock.

Each process has a socket of its own, so that whose trace a step is in cannot be claimed by another.
What is told waits in the kernel until it is read: a few hundred steps a process.
"""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

RECORD_SIZE = 4096
STEP_TIMEOUT = 20.0
"""Seconds that a test waits for a step."""


class TracedStep(NamedTuple):
    """One step; ``at`` is CLOCK_MONOTONIC, which the hosts of a lab share."""

    at: float
    step: str
    """``5.3`` for Fig. 5 (3)."""
    teller: str
    """The process that told it."""
    sender: str
    receiver: str
    message: str


class TraceFiles:
    """Sockets in ``directory`` (a short path: they are AF_UNIX), by the names of processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._listeners: dict[str, socket.socket] = {}
        self._connections: dict[str, list[socket.socket]] = {}
        self._told: dict[str, list[TracedStep]] = {}

    def __enter__(self) -> TraceFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for opened in (self._listeners.values(), *self._connections.values()):
            for each in opened:
                each.close()

    def open(self, name: str) -> str:
        """The path that this process writes to; the same for each that is called so."""
        path = str(self._directory / f"{name}.trace")
        if name not in self._listeners:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(path)
            listener.listen()
            self._listeners[name] = listener
            self._connections[name] = []
            self._told[name] = []
        return path

    def wait_for(self, name: str, step: str) -> None:
        """Until this process has told the step; TimeoutError if it does not."""
        self._accept(name)
        (connection,) = self._connections[name]
        connection.settimeout(STEP_TIMEOUT)
        while self._take(name, connection) != step:
            pass

    def merged(self) -> list[TracedStep]:
        """All that has been told by now, by time; what was at one instant as it was told."""
        for name in self._listeners:
            self._accept(name)
            for connection in self._connections[name]:
                connection.setblocking(False)
                with suppress(BlockingIOError, EOFError):
                    while True:
                        self._take(name, connection)
        told = [step for steps in self._told.values() for step in steps]
        return sorted(told, key=lambda step: step.at)

    def _accept(self, name: str) -> None:
        listener = self._listeners[name]
        listener.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._connections[name].append(listener.accept()[0])

    def _take(self, name: str, connection: socket.socket) -> str:
        record = connection.recv(RECORD_SIZE)
        if not record:
            raise EOFError(f"{name} tells nothing any more")
        told = json.loads(record)
        step = TracedStep(
            told["monotonic"],
            f"{told['figure']}.{told['step']}",
            name,
            told["sender"],
            told["receiver"],
            told["message"],
        )
        self._told[name].append(step)
        return step.step
