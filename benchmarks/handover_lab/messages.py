"""What all clients do alike: messages at a fixed pace, and a record of their echoes."""

from __future__ import annotations

import json
import struct
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

INTERVAL = 0.01
"""Seconds from message to message."""
SIZE = 100
"""Bytes of a message."""
DRAIN_TIMEOUT = 5.0
"""Seconds a stream has to bring the last echoes; datagrams have ``DATAGRAM_DRAIN``."""
DATAGRAM_DRAIN = 0.5
RECOVERED = "recovered"
"""What a client prints at the first echo of a message that was sent after the switch."""

_WORDS = struct.Struct(f">{SIZE // 4}I")


def message(sequence: int) -> bytes:
    """The sequence number, 25 times: a byte out of its place shows."""
    return _WORDS.pack(*[sequence] * (SIZE // 4))


@dataclass
class Book:
    """When each message was sent and when its echo came; instants of CLOCK_MONOTONIC.

    ``word`` is a file that appears when the switch has ended and holds that instant. The client
    goes on for ``tail`` seconds after the first echo of a message that was sent after it, or ends
    ``timeout`` seconds after the switch.
    """

    word: Path
    report: Path
    timeout: float
    tail: float
    is_stream: bool
    sent: list[float] = field(default_factory=list)
    echoed: dict[int, float] = field(default_factory=dict)
    wrong: int = 0
    """Echoes that are no message of ours; in a stream, bytes out of their place."""
    switched_at: float | None = None
    _recovered_at: float | None = None
    _stream: bytearray = field(default_factory=bytearray)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next_message(self) -> bytes:
        """A new message, sent now."""
        with self._lock:
            sequence = len(self.sent)
            self.sent.append(time.monotonic())
        return message(sequence)

    def is_due(self) -> bool:
        """Whether the pace asks for another message."""
        if not self.sent:
            return True
        return time.monotonic() >= self.sent[0] + len(self.sent) * INTERVAL

    def take_echo(self, data: bytes) -> None:
        """One whole message came back."""
        now = time.monotonic()
        sequence = int.from_bytes(data[:4], "big")
        with self._lock:
            if sequence >= len(self.sent) or data != message(sequence):
                self.wrong += 1
                return
            self.echoed.setdefault(sequence, now)
            if (
                self._recovered_at is None
                and self.switched_at is not None
                and self.sent[sequence] > self.switched_at
            ):
                self._recovered_at = now
                print(RECOVERED, flush=True)

    def take_bytes(self, data: bytes) -> None:
        """The stream's next bytes came back: messages must come whole and in order."""
        self._stream += data
        while len(self._stream) >= SIZE:
            record = bytes(self._stream[:SIZE])
            del self._stream[:SIZE]
            if record != message(len(self.echoed)):
                self.wrong += SIZE
                return
            self.take_echo(record)

    def is_over(self) -> bool:
        """Whether no more messages are to be sent; looks for the word."""
        now = time.monotonic()
        if self.switched_at is None:
            if not self.word.exists():
                return False
            with self._lock:
                self.switched_at = float(self.word.read_text())
        if self._recovered_at is not None:
            return now > self._recovered_at + self.tail
        return now > self.switched_at + self.timeout

    def is_drained(self) -> bool:
        """Whether every message has come back."""
        return len(self.echoed) == len(self.sent)

    @property
    def drain_timeout(self) -> float:
        """Seconds to wait for the last echoes."""
        return DRAIN_TIMEOUT if self.is_stream else DATAGRAM_DRAIN

    def write(self) -> None:
        """Leave the report; a JSON object."""
        facts = {
            "sent": self.sent,
            "echoed": sorted(self.echoed.items()),
            "wrong": self.wrong,
            "switched_at": self.switched_at,
        }
        self.report.write_text(json.dumps(facts))


def book_from_arguments(words: list[str]) -> Book:
    """``datagrams|stream WORD REPORT TIMEOUT TAIL``."""
    kind, word, report, timeout, tail = words
    return Book(Path(word), Path(report), float(timeout), float(tail), kind == "stream")
