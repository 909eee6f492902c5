"""Waiting for a descriptor: with the kernel's poll, or cooperatively where gevent is patched in."""

from __future__ import annotations

import os
import select
import sys
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

READ: Final = 1
WRITE: Final = 2

_HANGUP: Final = select.POLLHUP | select.POLLERR


def _native(name: str) -> Any:
    """An attribute of ``select`` as it was before gevent, which removes what it cannot replace."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original("select", name)
    return getattr(select, name)


_poll: Callable[[], Any] = _native("poll")
epoll: Callable[[], Any] = _native("epoll")


def epoll_at(fd: int) -> Any:
    """The epoll set at a descriptor, which stays its owner's: the object closes a copy."""
    return _native("epoll").fromfd(os.dup(fd))


def gevent_is_patched_in() -> bool:
    """Whether the application's sockets are gevent's, so that waiting must be cooperative."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("socket"))


def look(fd: int) -> tuple[bool, bool]:
    """Whether ``fd`` is writable, and whether its other end is gone; returns at once."""
    poll = _poll()
    poll.register(fd, select.POLLOUT)
    ready = poll.poll(0)
    events = ready[0][1] if ready else 0
    return bool(events & select.POLLOUT), bool(events & _HANGUP)


def is_readable(fd: int) -> bool:
    """Whether there is something to read, or the end; returns at once.

    MSG_DONTWAIT does not: with a time-out set, Python waits before it asks the kernel.
    """
    poll = _poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def wait_natively(fd: int, events: int, timeout: float | None) -> bool:
    """Wait for READ or WRITE on ``fd``; False after ``timeout`` seconds."""
    poll = _poll()
    mask = (select.POLLIN if events & READ else 0) | (select.POLLOUT if events & WRITE else 0)
    poll.register(fd, mask)
    return bool(poll.poll(None if timeout is None else max(0.0, timeout) * 1000.0))


def wait_cooperatively(fd: int, events: int, timeout: float | None) -> bool:
    """The same, letting other greenlets run."""
    import gevent  # noqa: PLC0415  # only where the application uses it

    hub: Any = gevent.get_hub()
    if gevent.getcurrent() is hub:
        return wait_natively(fd, events, timeout)
    watcher = hub.loop.io(fd, events)
    try:
        with gevent.Timeout(timeout) as timer:
            hub.wait(watcher)
        return True
    except gevent.Timeout as expired:
        if expired is not timer:
            raise
        return False
    finally:
        watcher.close()


def wait(fd: int, events: int, timeout: float | None) -> bool:
    """Wait as the application's other sockets do."""
    if gevent_is_patched_in():
        return wait_cooperatively(fd, events, timeout)
    return wait_natively(fd, events, timeout)


class Deadline:
    """What remains of a socket's time-out over several waits."""

    def __init__(self, timeout: float | None) -> None:
        self._due_at = None if timeout is None else time.monotonic() + timeout

    def wait(self, fd: int, events: int) -> None:
        """Wait for ``fd``; TimeoutError as sockets raise it."""
        remaining = None if self._due_at is None else self._due_at - time.monotonic()
        if (remaining is not None and remaining <= 0) or not wait(fd, events, remaining):
            raise TimeoutError("timed out")
