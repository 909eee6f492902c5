"""What a node tells programs that want to know of its paths: a numbered ring of events.

Nobody is waited for, and nothing is kept for a reader: who asks gets what came behind the number
that it has. A reader that is slower than the ring loses the oldest events, and is told how many.
"""

from __future__ import annotations

import time
from collections import deque

import gevent.event

from ntmpatch.wire import local

MAX_KEPT = 1024
"""Events that a reader may be behind."""
MAX_AT_ONCE = 48
"""Events in one answer, which has to fit one record."""
MAX_TEXT_SIZE = 256
"""Characters of a text in an event: names and paths are shorter."""


class EventFeed:
    """The events of one node. To be used in its hub."""

    def __init__(self) -> None:
        self._events: deque[local.Event] = deque(maxlen=MAX_KEPT)
        self._count = 0
        """Of all events so far: the number of the newest."""
        self._news = gevent.event.Event()

    def tell(
        self,
        kind: str,
        fqdn: str = "",
        *,
        old: str = "",
        new: str = "",
        relayed: bool = False,
        reason: str = "",
    ) -> None:
        """Add an event, and wake who waits for one."""
        texts = (text[:MAX_TEXT_SIZE] for text in (fqdn, old, new, reason))
        fqdn, old, new, reason = texts
        self._count += 1
        self._events.append(local.Event(kind, fqdn, old, new, relayed, reason, time.time()))
        self._news.set()
        self._news.clear()

    def after(self, number: int, patience: float) -> local.Events:
        """The oldest events behind ``number``; if there are none, waits ``patience`` seconds.

        A negative number is the newest: what comes from now on. Blocks the greenlet.
        """
        if number < 0:
            return local.Events(self._count)
        if number >= self._count:
            self._news.wait(patience)
        number = min(number, self._count)
        oldest = self._count - len(self._events)
        lost = max(0, oldest - number)
        begin = number + lost - oldest
        events = tuple(self._events)[begin : begin + MAX_AT_ONCE]
        return local.Events(number + lost + len(events), lost, events)
