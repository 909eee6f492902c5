"""The log: events with fields on standard error, as text for people or as JSON for programs.

An event is what a party noted (`signalling.effects.Noted`); any other record of `logging` is
written in the same form. What strangers can cause as often as they like is limited, and the excess
counted, so that no flood fills a disk.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ntmpatch.base.errors import ConfigError
from ntmpatch.base.rates import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ntmpatch.base.config import LogFormat
    from ntmpatch.signalling.party import Party

LOG_VARIABLE = "NTMPATCH_LOG"
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
LIMITED_RATE = 5.0
"""Records a second of one kind that others can cause."""
LIMITED_BURST = 50.0
LIMITED_EVENTS = frozenset({"refused", "failed", "message"})
MAX_VALUE_SIZE = 300
"""Characters of one field: names and texts come from outside."""

_PLAIN = re.compile(r"[\w.:/@+\[\]-]+")


def configure_log(log_format: LogFormat = "text", level: str = "warning") -> None:
    """Log to stderr from ``level`` on, or from the one that NTMPATCH_LOG names.

    Given again, it changes the format and the level. A program that has arranged its logging
    otherwise keeps that. ConfigError if NTMPATCH_LOG names no level.
    """
    name = os.environ.get(LOG_VARIABLE) or level
    if name.lower() not in LEVELS:
        raise ConfigError(
            f"{LOG_VARIABLE}: {name!r} is no level: expected one of {', '.join(LEVELS)}"
        )
    root = logging.getLogger()
    handler = next((each for each in root.handlers if isinstance(each, LogHandler)), None)
    if handler is None:
        if root.handlers:
            return
        handler = LogHandler()
        root.addHandler(handler)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    root.setLevel(LEVELS[name.lower()])


@dataclass(slots=True, frozen=True)
class LoggedEvent:
    """The message of a record that is an event; in a log of somebody else's it is one line."""

    event: str
    fields: Mapping[str, object]

    def __str__(self) -> str:
        facts = (
            f"{name}={_quoted(_value(value))}"
            for name, value in self.fields.items()
            if value is not None
        )
        return " ".join([self.event, *facts])


def log_event(
    logger: logging.Logger,
    level: str,
    event: str,
    fields: Mapping[str, object],
    *,
    party: Party | None = None,
) -> None:
    """Write one event, of ``party`` if it is one's; fields that are None are left out."""
    number = LEVELS[level]
    if logger.isEnabledFor(number):
        if party is not None:
            fields = {"party": party.title, **fields}
        logger.log(number, LoggedEvent(event, fields))


class LogHandler(logging.StreamHandler[Any]):
    """Writes to stderr what the limits let through, and counts the rest by event."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._buckets: dict[str, TokenBucket] = {}
        self._suppressed: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless too many of its kind came."""
        event = record.msg.event if isinstance(record.msg, LoggedEvent) else "message"
        if event in LIMITED_EVENTS and not self._passes(event):
            self._suppressed[event] += 1
            return
        super().emit(record)

    def take_suppressed(self) -> dict[str, int]:
        """How many records of which event were not written since this was asked last."""
        suppressed, self._suppressed = self._suppressed, Counter()
        return dict(suppressed)

    def _passes(self, event: str) -> bool:
        now = time.monotonic()
        bucket = self._buckets.get(event)
        if bucket is None:
            bucket = self._buckets[event] = TokenBucket(LIMITED_RATE, LIMITED_BURST, now)
        return bucket.take(now)


class _TextFormatter(logging.Formatter):
    """``TIME LEVEL event name=value name="other value"``."""

    def format(self, record: logging.LogRecord) -> str:
        facts = _facts(record)
        event, fields = facts.pop("event"), facts
        head = f"{fields.pop('at')} {fields.pop('level').upper()} {event}"
        return " ".join([head, *(f"{name}={_quoted(value)}" for name, value in fields.items())])


class _JsonFormatter(logging.Formatter):
    """One object a record: ``at``, ``level``, ``event``, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_facts(record))


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    facts: dict[str, Any] = {
        "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
    }
    if isinstance(record.msg, LoggedEvent):
        facts["event"] = record.msg.event
        fields = record.msg.fields
        facts |= {name: _value(value) for name, value in fields.items() if value is not None}
    else:
        facts |= {
            "event": "message",
            "logger": record.name,
            "text": record.getMessage()[:MAX_VALUE_SIZE],
        }
    if record.exc_info:
        facts["traceback"] = logging.Formatter().formatException(record.exc_info)
    return facts


def _value(value: object) -> object:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({len(value)} bytes)"  # it may be a key
    return str(value)[:MAX_VALUE_SIZE]


def _quoted(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
