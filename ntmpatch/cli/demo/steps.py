"""The paper's steps, as the demo's processes report them while they send and receive."""

from __future__ import annotations

import json
import os
import selectors
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ntmpatch.signalling.figures import TITLES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LINE_SIZE: Final = 4096
_POLL_INTERVAL: Final = 0.2
"""Seconds until a reader that was told to end sees it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a figure, as one process saw it; ``at`` is seconds since the epoch."""

    at: float
    figure: str
    number: str
    sender: str
    receiver: str
    message: str

    def describe(self, domain: str) -> str:
        """A line: the place in the paper, who to whom without their ``domain``, what, how."""
        place = f"Fig. {self.figure} ({self.number})"
        ends = [end.removesuffix(f".{domain}") for end in (self.sender, self.receiver)]
        who = ends[0] if ends[0] == ends[1] else " → ".join(ends)
        title = TITLES.get(f"{self.figure}.{self.number}", "")
        how = "" if self.message == title else self.message
        return f"{place:<12} {who:<27} {title:<38} {how}".rstrip()


def parse_step(line: bytes) -> Step | None:
    """A line of trace, or None if it is none."""
    try:
        event = json.loads(line)
        return Step(
            at=float(event["at"]),
            figure=str(event["figure"]),
            number=str(event["step"]),
            sender=str(event["sender"]),
            receiver=str(event["receiver"]),
            message=str(event["message"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


class StepReader:
    """Listens at ``path`` and calls ``show`` with each step the first time that it happens.

    The same message between the same two is shown once: a retransmission, or the same step of
    another look-up, tells nothing new. ``show`` is called in the reader's own thread.
    """

    def __init__(self, path: Path, show: Callable[[Step], None]) -> None:
        self._show = show
        self._seen: set[tuple[str, str, str, str]] = set()
        self._ended = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(os.fspath(path))
        self._listener.listen()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self.steps: list[Step] = []
        self._thread = threading.Thread(target=self._read, name="steps", daemon=True)

    def __enter__(self) -> StepReader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            self._hang_up(key.fileobj)
        self._selector.close()

    def count(self, figure: str) -> int:
        """How many different steps of a figure have been seen."""
        return len({step.number for step in list(self.steps) if step.figure == figure})

    def _read(self) -> None:
        while not self._ended.is_set():
            for key, _ in self._selector.select(_POLL_INTERVAL):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if connection is self._listener:
                    self._selector.register(self._listener.accept()[0], selectors.EVENT_READ)
                elif line := connection.recv(_LINE_SIZE):
                    self._take(line)
                else:
                    self._hang_up(connection)

    def _hang_up(self, connection: object) -> None:
        assert isinstance(connection, socket.socket)
        self._selector.unregister(connection)
        connection.close()

    def _take(self, line: bytes) -> None:
        step = parse_step(line)
        if step is None:
            return
        key = (step.figure, step.number, step.sender, step.receiver)
        if key in self._seen:
            return
        self._seen.add(key)
        self.steps.append(step)
        self._show(step)
