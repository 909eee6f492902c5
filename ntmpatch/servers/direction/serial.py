"""The serial of the zones: it only grows, also over restarts and when the clock is set back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

RESERVED = 4096
"""Serials taken from the store at once: it is written once for so many changes."""
_MODULUS = 1 << 32


def is_later(serial: int, than: int) -> bool:
    """Whether one serial is greater than another (RFC 1982, section 3.2)."""
    return 0 < (serial - than) % _MODULUS < _MODULUS >> 1


class ZoneSerial:
    """Seconds since 1970 at the last change, or one more than before where that is later.

    ``reserve(serial)`` has to store its argument, soon; ``stored`` is what it was called with last
    before a restart. Only a serial that the clock vouches for is used beyond what is stored.
    """

    def __init__(
        self,
        wall_clock: Callable[[], float],
        *,
        stored: int | None = None,
        reserve: Callable[[int], None] | None = None,
    ) -> None:
        self._wall_clock = wall_clock
        self._reserve = reserve
        self._state: Hashable = None
        now = int(wall_clock()) % _MODULUS
        self._serial = stored if stored is not None and not is_later(now, stored) else now
        self._reserved = self._serial
        self._keep_ahead()

    def of(self, state: Hashable) -> int:
        """The serial of the contents that ``state`` stands for: another one if it has changed.

        A change that nobody asked about has no serial of its own.
        """
        if state != self._state:
            if self._state is not None:
                now = int(self._wall_clock()) % _MODULUS
                after = (self._serial + 1) % _MODULUS
                self._serial = now if is_later(now, after) else after
                self._keep_ahead()
            self._state = state
        return self._serial

    def _keep_ahead(self) -> None:
        """Have serials in hand for as many changes as come before the store has answered."""
        if is_later((self._serial + RESERVED // 2) % _MODULUS, self._reserved):
            self._reserved = (self._serial + RESERVED) % _MODULUS
            if self._reserve is not None:
                self._reserve(self._reserved)
