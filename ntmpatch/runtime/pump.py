"""What the pumps of virtual sockets share: their host, and how the program's hang-up is seen."""

from __future__ import annotations

import logging
import select
from typing import TYPE_CHECKING, Any, Protocol

from gevent import monkey

from ntmpatch.runtime.forking import disown, own

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

# The node's thread waits by its own hub; these two are only ever asked, never waited on.
_epoll: Any = monkey.get_original("select", "epoll")
_poll: Any = monkey.get_original("select", "poll")

log = logging.getLogger("ntmpatch.door")

READ = 1
"""Event of a hub ``io`` watcher (libev's EV_READ)."""
WRITE = 2
"""Event of a hub ``io`` watcher (libev's EV_WRITE)."""


class PumpHost(Protocol):
    """The door, as a pump sees it. Everything is called in the node's thread."""

    @property
    def loop(self) -> Any:
        """The hub's event loop."""
        ...

    @property
    def hangups(self) -> Hangups:
        """Who is told when a program closes both directions."""
        ...

    @property
    def scratch(self) -> memoryview:
        """At least 64 KB that any pump may use within one callback."""
        ...

    def now(self) -> float:
        """Monotonic seconds, as the stack counts them."""
        ...

    def flush(self) -> None:
        """Send what the stack has to send; after every call into it."""
        ...

    def failed(self, id_: int, error: int) -> None:
        """Keep ``error``, an errno, until the program asks for the socket's outcome."""
        ...

    def ended(self, id_: int) -> None:
        """The far end of a socket is closed."""
        ...


class Hangups:
    """Sees near ends closed whose far ends are no longer read, because they were half-closed.

    Such a far end stays readable (end of file) for ever, so a read watcher would spin; an epoll
    set that asks for no event at all reports just the hang-up.
    """

    def __init__(self, loop: Any) -> None:
        self._epoll = _epoll()
        own(self._epoll)
        self._waiting: dict[int, Callable[[], None]] = {}
        self._watcher = loop.io(self._epoll.fileno(), READ)
        self._watcher.start(self._ready)

    def watch(self, far: _socket.socket, hung_up: Callable[[], None]) -> None:
        """Call ``hung_up`` once when the near end of ``far`` is closed."""
        self._waiting[far.fileno()] = hung_up
        self._epoll.register(far.fileno(), 0)

    def forget(self, far: _socket.socket) -> None:
        """Watch ``far`` no more; harmless if it is not watched, required before it is closed."""
        if self._waiting.pop(far.fileno(), None) is not None:
            self._epoll.unregister(far.fileno())

    def close(self) -> None:
        """Watch nothing any more."""
        self._watcher.stop()
        self._watcher.close()
        disown(self._epoll)
        self._epoll.close()
        self._waiting.clear()

    def _ready(self) -> None:
        for fd, _ in self._epoll.poll(0):
            hung_up = self._waiting.pop(fd, None)
            if hung_up is not None:
                self._epoll.unregister(fd)
                try:
                    hung_up()
                except Exception:  # one socket's failure must not deafen the others
                    log.exception("a socket did not end cleanly")


def is_readable(far: _socket.socket) -> bool:
    """Whether the program has written something, or closed."""
    poll = _poll()
    poll.register(far.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def is_hung_up(far: _socket.socket) -> bool:
    """Whether the near end is closed in both directions, not merely shut down for writing."""
    poll = _poll()
    poll.register(far.fileno(), 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))
