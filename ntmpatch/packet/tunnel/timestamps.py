"""Timestamps of initiations: a responder takes only ones later than all before (section 5.1)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# TAI64N: seconds since 1970 TAI + 2^62, u64 | nanoseconds u32; big-endian, so bytes compare as time
_LAYOUT = struct.Struct("!QI")

_BASE = (1 << 62) + 10
"""Ten seconds are the difference of 1970; leap seconds since do not matter, only order does."""

_NANOSECONDS = 1_000_000_000
_GRAIN = 1 << 24
"""Nanoseconds that are blanked: the exact clock is nobody's business (as in wireguard-go)."""


class TimestampSource:
    """Makes TAI64N timestamps that grow strictly, whatever the clock does."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._last = 0

    def next(self) -> bytes:
        """Twelve bytes, greater than all before."""
        nanoseconds = int(self._wall_clock() * _NANOSECONDS)
        self._last = max(nanoseconds - nanoseconds % _GRAIN, self._last + 1)
        seconds, fraction = divmod(self._last, _NANOSECONDS)
        return _LAYOUT.pack(_BASE + seconds, fraction)
