"""Queries to the DC's DNS over UDP, so many at once."""

from __future__ import annotations

import itertools
import socket
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from load.loop import Loop
    from ntmpatch.base.addresses import Endpoint

_HEADER = struct.Struct("!HHHHHH")
_TYPES = (1, 28)
"""A and AAAA."""
LOST_AFTER = 2.0


def question(name: str, kind: int) -> bytes:
    """A query's question section (RFC 1035, section 4.1.2)."""
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    return labels + b"\0" + struct.pack("!HH", kind, 1)


class DnsLoad:
    """One socket with ``window`` queries under way; an answer makes room for the next."""

    def __init__(self, loop: Loop, server: Endpoint, names: Sequence[str], window: int) -> None:
        self._loop = loop
        self._window = window
        self._questions = itertools.cycle(question(name, kind) for name in names for kind in _TYPES)
        self._identity = itertools.cycle(range(65536))
        self._asked_at: dict[int, float] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(server)
        self._latencies: list[float] = []

    def run(self, seconds: float) -> tuple[float, int, int, list[float]]:
        """Ask for so long: seconds passed, answers, queries without one, and their latencies."""
        begun = time.monotonic()
        self._loop.watch(self._socket.fileno(), self._readable)
        for _ in range(self._window):
            self._ask()
        self._loop.run(lambda: False, seconds)
        passed = time.monotonic() - begun
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        lost = sum(1 for at in self._asked_at.values() if begun + passed - at > LOST_AFTER)
        return passed, len(self._latencies), lost, self._latencies

    def _ask(self) -> None:
        identity = next(self._identity)
        self._asked_at[identity] = time.monotonic()
        # Recursion is not desired, as a resolver's queries to an authority.
        self._socket.send(_HEADER.pack(identity, 0, 1, 0, 0, 0) + next(self._questions))

    def _readable(self, _: int) -> None:
        try:
            while True:
                answer = self._socket.recv(4096)
                asked_at = self._asked_at.pop(int.from_bytes(answer[:2]), None)
                is_whole = not answer[2] & 0x02  # else TC: it would have to be asked by TCP
                if asked_at is not None and is_whole and answer[3] & 0x0F in (0, 3):
                    self._latencies.append(time.monotonic() - asked_at)  # no error, NXDOMAIN
                    self._ask()
        except BlockingIOError:
            return
