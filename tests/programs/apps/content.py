"""What all of these programs share: content that both ends can make, and a list of checks."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

PLAIN_SIZE = 2_000_000


def blob(size: int) -> bytes:
    """The same random bytes in every program."""
    return random.Random(size).randbytes(size)


def digest(data: bytes) -> str:
    """SHA-256, as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


class Checks:
    """Ends the program at the first check that fails; at the end, prints the names of all."""

    def __init__(self) -> None:
        self._done: list[str] = []

    def equal(self, what: str, actual: Any, expected: Any) -> None:
        """``what`` is a phrase of the documentation's table."""
        if actual != expected:
            raise SystemExit(f"{what}: {actual!r:.300} is not {expected!r:.300}")
        self._done.append(what)

    def report(self) -> None:
        """The last line of the program's output."""
        print(json.dumps(self._done), flush=True)
