"""The paper's steps, as the demo's processes report them while they send and receive."""

from __future__ import annotations

import contextlib
import json
import os
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
    another look-up, tells nothing new. ``show`` is called in the reader's own thread: the kernel
    queues few datagrams, and a late reader loses them.
    """

    def __init__(self, path: Path, show: Callable[[Step], None]) -> None:
        self._show = show
        self._seen: set[tuple[str, str, str, str]] = set()
        self._ended = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(os.fspath(path))
        self._socket.settimeout(_POLL_INTERVAL)
        self.steps: list[Step] = []
        self._thread = threading.Thread(target=self._read, name="steps", daemon=True)

    def __enter__(self) -> StepReader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def count(self, figure: str) -> int:
        """How many different steps of a figure have been seen."""
        return len({step.number for step in list(self.steps) if step.figure == figure})

    def _read(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                self._take(self._socket.recv(_LINE_SIZE))

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
