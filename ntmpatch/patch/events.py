"""Events of this process's node, for programs that want to know; all others need none of this."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import deque
from typing import TYPE_CHECKING

from ntmpatch.patch import node
from ntmpatch.wire import local

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from ntmpatch.patch.client import Connection

PATIENCE = 30.0
"""Seconds that one question waits for an event."""


class EventStream:
    """An iterator over events, begun when it is made. For one thread or greenlet at a time.

    ``lost`` counts events that were dropped because this reader was too slow: the node keeps the
    last thousand or so, whoever reads.
    """

    def __init__(self, connection: Connection, kinds: tuple[str, ...]) -> None:
        self._connection = connection
        self._kinds = frozenset(kinds or local.EVENT_KINDS)
        self._waiting: deque[local.Event] = deque()
        self._is_closed = False
        self._number = connection.call(local.Follow(-1), local.Events).number
        self.lost = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> local.Event:
        """The next event. OSError ENETDOWN if the node has gone; ends when it is closed."""
        while not self._waiting:
            try:
                told = self._connection.call(local.Follow(self._number, PATIENCE), local.Events)
            except OSError:
                if self._is_closed:
                    raise StopIteration from None
                raise
            self._number = told.number
            self.lost += told.lost
            self._waiting.extend(event for event in told.events if event.kind in self._kinds)
        if self._is_closed:
            raise StopIteration
        return self._waiting.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, also for a thread that waits for the next event."""
        self._is_closed = True
        self._connection.close()


class Subscription:
    """A callback and the thread that it is called in."""

    def __init__(self, stream: EventStream, callback: Callable[[local.Event], object]) -> None:
        self._stream = stream
        self._callback = callback
        self._thread = threading.Thread(target=self._run, name="ntmpatch events", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Events that were dropped because callbacks took too long."""
        return self._stream.lost

    @property
    def is_alive(self) -> bool:
        """Whether there may be more calls: not closed, and the node is there."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Begin no more calls. Waits for none: this may be within one."""
        self._stream.close()

    def _run(self) -> None:
        try:
            for event in self._stream:
                try:
                    self._callback(event)
                except Exception:
                    _log.exception("a callback failed for %s", event)
        except OSError as error:
            _log.warning("no more events: %s", os.strerror(error.errno or errno.EIO))


_log = logging.getLogger("ntmpatch.patch")


def events(*kinds: str) -> EventStream:
    """As ``ntmpatch.events``."""
    unknown = sorted(set(kinds) - set(local.EVENT_KINDS))
    if unknown:
        known = ", ".join(local.EVENT_KINDS)
        raise ValueError(f"no such kind of event: {', '.join(unknown)} (there are {known})")
    return EventStream(node.current.client().own_connection(), kinds)


def on_event(callback: Callable[[local.Event], object], *kinds: str) -> Subscription:
    """As ``ntmpatch.on_event``."""
    return Subscription(events(*kinds), callback)
