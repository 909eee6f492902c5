"""What the AS said of keys, for as long as it said that it may be relied on."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ntmpatch.signalling.errors import Refused

MAX_REFUSED = 8192
"""Keys that are remembered as refused; beyond, the oldest is asked about again."""


class Verdicts:
    """Good keys are those of nodes and servers that are here, and go with them; bad ones stay."""

    def __init__(self) -> None:
        self._good_until: dict[bytes, float] = {}
        self._refused: OrderedDict[bytes, tuple[Refused, float]] = OrderedDict()

    def is_good(self, key: bytes, now: float) -> bool:
        """Whether the key counts; False: ask the AS. Refused again if it said no a while ago."""
        refused = self._refused.get(key)
        if refused is not None:
            refusal, until = refused
            if now < until:
                raise refusal
            del self._refused[key]
        return self._good_until.get(key, 0.0) > now

    def accept(self, key: bytes, until: float) -> None:
        """The key counts, until then."""
        self._good_until[key] = until

    def refuse(self, key: bytes, refusal: Refused, until: float) -> None:
        """The key does not count, until then."""
        self._good_until.pop(key, None)
        self._refused.pop(key, None)
        self._refused[key] = refusal, until
        if len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)

    def part(self, key: bytes) -> None:
        """Whose key it is has left."""
        self._good_until.pop(key, None)

    def forget(self, key: bytes) -> None:
        """Whatever was said, ask again."""
        self._good_until.pop(key, None)
        self._refused.pop(key, None)
