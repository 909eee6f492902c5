"""The replay window: each counter once, and none that is too old (RFC 6479)."""

from __future__ import annotations

_WORD_BITS = 64
_WORDS = 128
WINDOW = (_WORDS - 1) * _WORD_BITS
"""8128 counters, as WireGuard has it."""


class ReplayWindow:
    """Told of a counter only after its packet was authenticated."""

    __slots__ = ("_words", "highest")

    def __init__(self) -> None:
        self.highest = -1
        self._words = [0] * _WORDS

    def accept(self, counter: int) -> bool:
        """Whether ``counter`` is new; it is not the next time."""
        highest = self.highest
        block = counter >> 6
        words = self._words
        if counter > highest:
            top = highest >> 6 if highest >= 0 else -1
            if block != top:
                for index in range(max(top + 1, block - _WORDS + 1), block + 1):
                    words[index & 127] = 0
            self.highest = counter
        elif counter + WINDOW < highest:
            return False
        bit = 1 << (counter & 63)
        index = block & 127
        word = words[index]
        if word & bit:
            return False
        words[index] = word | bit
        return True
