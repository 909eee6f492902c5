"""Processes: generators that read like the paper's figures and yield what they wait for.

A process says ``response = yield from ask(peer, message, Expected, "3.6")`` and goes on when the
answer is there; it runs inside a Party, in no thread and with no clock of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from ntmpatch.signalling.effects import Work
from ntmpatch.signalling.engine import DEFAULT_TIMEOUT
from ntmpatch.signalling.errors import Refused
from ntmpatch.wire.control_messages import Message, RefusalCode

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(slots=True, frozen=True)
class Ask:
    """Wait for the answer to a request. Raises Refused or Silent in the process."""

    peer: bytes
    message: Message
    step: str = ""
    timeout: float = DEFAULT_TIMEOUT
    answerers: tuple[bytes, ...] = ()


@dataclass(slots=True, frozen=True)
class Sleep:
    """Wait for ``interval`` seconds."""

    interval: float


class Event:
    """Something that processes wait for together; set once, with a value or an error."""

    __slots__ = ("is_set", "value", "waiting")

    def __init__(self) -> None:
        self.is_set = False
        self.value: Any = None
        self.waiting: list[Callable[[Event], None]] = []

    def set(self, value: Any = None) -> None:
        """Let every waiting process go on with ``value``; an exception is raised in each."""
        if self.is_set:
            return
        self.is_set = True
        self.value = value
        waiting, self.waiting = self.waiting, []
        for resume in waiting:
            resume(self)


@dataclass(slots=True, frozen=True)
class Wait:
    """Wait until ``event`` is set; Silent is raised if that takes more than ``timeout``."""

    event: Event
    timeout: float


Waits: TypeAlias = Ask | Work | Sleep | Wait
Process: TypeAlias = Generator[Waits, Any, T]


def ask(
    peer: bytes,
    message: Message,
    expected: type[M],
    step: str = "",
    *,
    timeout: float = DEFAULT_TIMEOUT,
    answerers: tuple[bytes, ...] = (),
) -> Process[M]:
    """The answer to ``message``, which is an ``expected``; Refused or Silent otherwise."""
    answer = yield Ask(peer, message, step, timeout, answerers)
    if not isinstance(answer, expected):
        raise Refused(RefusalCode.UNSUPPORTED, f"answered by {type(answer).__name__}")
    return answer


def work(run: Callable[[], T], name: str = "", *, stored: bool = False) -> Process[T]:
    """The result of a blocking job, which the runtime runs elsewhere.

    ``stored``: it is about the party's store only; what it wrote is durable when it has ended.
    """
    result: T = yield Work(run, name, stored)
    return result


def sleep(interval: float) -> Process[None]:
    """Go on after ``interval`` seconds."""
    yield Sleep(interval)


def wait(event: Event, timeout: float) -> Process[Any]:
    """The event's value, when it is set; Silent after ``timeout`` seconds."""
    return (yield Wait(event, timeout))
