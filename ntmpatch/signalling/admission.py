"""Strangers at a server's door: few at a time, and not for long.

A stranger whose handshake is well formed gets a provisional place in the tunnel's table. What it
then shows (a token, a certificate) makes it known; otherwise it is forgotten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntmpatch.base.timers import TimerQueue

if TYPE_CHECKING:
    from collections.abc import Callable

PROVISIONAL_TIMEOUT = 10.0
"""Seconds a stranger has to show who it is."""


class Admission:
    """Who is let in provisionally; at most ``limit`` at once, so that floods cost nothing."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._due: TimerQueue[bytes] = TimerQueue()
        self._provisional: set[bytes] = set()
        self._known: set[bytes] = set()

    def __contains__(self, peer: bytes) -> bool:
        """Whether ``peer`` has shown who it is."""
        return peer in self._known

    def has_place(self, peer: bytes) -> bool:
        """Whether the tunnel has a place for this key because of us."""
        return peer in self._known or peer in self._provisional

    def admits(self, peer: bytes) -> bool:
        """Whether the tunnel may make a place for this key."""
        return self.has_place(peer) or len(self._provisional) < self._limit

    def admitted(self, peer: bytes, now: float) -> None:
        """The tunnel made a place for this key: its time runs, unless it is known."""
        if peer not in self._known:
            self._provisional.add(peer)
            self._due.arm(peer, now + PROVISIONAL_TIMEOUT)

    def confirm(self, peer: bytes, *, expires_at: float | None = None) -> None:
        """This key has shown who it is; known for good, or until ``expires_at``."""
        self._provisional.discard(peer)
        self._known.add(peer)
        if expires_at is None:
            self._due.cancel(peer)
        else:
            self._due.arm(peer, expires_at)

    def remove(self, peer: bytes) -> None:
        """Forget the key."""
        self._provisional.discard(peer)
        self._known.discard(peer)
        self._due.cancel(peer)

    def poll_timeout(self) -> float | None:
        """When somebody's time is over."""
        return self._due.earliest()

    def expire(self, now: float, forget: Callable[[bytes], None]) -> None:
        """Call ``forget`` for all whose time is over."""
        for peer in self._due.pop_due(now):
            self.remove(peer)
            forget(peer)
