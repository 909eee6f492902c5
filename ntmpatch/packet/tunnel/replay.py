"""The replay window: each counter once, and none that is too old (RFC 6479's aim)."""

from __future__ import annotations

WINDOW = 8128
"""How far behind the newest a counter may be, as WireGuard has it."""

_SWEEP_SIZE = 64


class ReplayWindow:
    """Told of a counter only after its packet was authenticated.

    Packets come in order nearly always, so what is kept is not which came but which are missing:
    nothing at all while none is. ``newest + 1 == counter`` may be settled by the caller, who sets
    ``newest``; every other counter is for ``accept``.
    """

    __slots__ = ("_missing", "_sweep_at_size", "newest")

    def __init__(self) -> None:
        self.newest = -1
        self._missing: set[int] = set()
        self._sweep_at_size = _SWEEP_SIZE

    def accept(self, counter: int) -> bool:
        """Whether ``counter`` is new; it is not the next time."""
        newest = self.newest
        if counter > newest:
            self.newest = counter
            if counter > newest + 1:
                self._note_missing(max(newest + 1, counter - WINDOW), counter)
            return True
        if counter + WINDOW < newest or counter not in self._missing:
            return False
        self._missing.remove(counter)
        return True

    def _note_missing(self, first: int, counter: int) -> None:
        missing = self._missing
        missing.update(range(first, counter))
        if len(missing) > self._sweep_at_size:
            oldest = counter - WINDOW
            missing = {number for number in missing if number >= oldest}
            self._missing = missing
            # Sweeping costs what it leaves, so it waits until that has doubled.
            self._sweep_at_size = max(_SWEEP_SIZE, 2 * len(missing))
