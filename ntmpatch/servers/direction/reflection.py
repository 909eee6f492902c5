"""No flood is made larger by us: how much more than it asked for an unverified address is sent.

Anyone can send a query in another's name, and the answer goes to that other. So for each prefix of
addresses two things are kept. The *allowance* is how many bytes more than the queries had may go
out: it refills with time, and every answer is charged to it, whether sent or not, so that it stays
used up for as long as a flood lasts. What was sent beyond what came in is *owed*. Once the
allowance is used up, every other query is dropped, which pays off what is owed, and the others are
answered by no more bytes than they have, which send a real client to TCP. When nothing is owed any
more, what the dropped ones save is spent on answers: never more goes out than came in.
"""

from __future__ import annotations

import ipaddress
from enum import Enum
from typing import TYPE_CHECKING

from ntmpatch.base.prefixes import ByPrefix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.base.addresses import IPNetwork

DEFAULT_EXCESS_RATE = 8192
"""Bytes a second to a prefix: some 200 answers about nodes, or 10 with a certificate."""
BURST = 1.0
"""Seconds of the rate that may be used at once."""
DEBT = 5.0
"""Seconds of the rate by which an allowance can be overdrawn, and so be used up for longer."""


class Verdict(Enum):
    """What becomes of an answer."""

    SEND = "send"
    SHORTEN = "shorten"
    DROP = "drop"


class _Bucket:
    __slots__ = ("allowance", "filled_at", "owed", "shortened")

    def __init__(self, allowance: float, now: float) -> None:
        self.allowance = allowance
        self.filled_at = now
        self.owed = 0
        self.shortened = False


class ReflectionLimit:
    """Judges answers over UDP to addresses that no cookie vouches for.

    ``excess_rate``: bytes a second that a prefix (IPv4 /24, IPv6 /56) may be sent more than its
    queries had. Addresses in ``exempt`` are not limited.
    """

    def __init__(
        self,
        key: bytes,
        *,
        excess_rate: float = DEFAULT_EXCESS_RATE,
        exempt: Sequence[IPNetwork] = (),
    ) -> None:
        self._rate = excess_rate
        self._most = excess_rate * BURST
        self._least = -excess_rate * DEBT
        self._exempt = tuple(exempt)
        self._buckets = ByPrefix(key, lambda now: _Bucket(self._most, now))

    def judge(self, source: str, query_size: int, answer_size: int, now: float) -> Verdict:
        """What to do with an answer of that size to a query of that size."""
        bucket = self._buckets.of(source, now)
        excess = answer_size - query_size
        allowance = bucket.allowance + (now - bucket.filled_at) * self._rate
        bucket.filled_at = now
        if allowance >= self._most:
            allowance = self._most
            bucket.owed = 0  # quiet for so long: if it was a flood, it is over
        if excess <= 0:
            bucket.allowance = allowance
            self._settle(bucket, excess)
            return Verdict.SEND
        bucket.allowance = max(allowance - excess, self._least)
        if allowance >= excess or bucket.owed + excess <= 0:
            bucket.owed += excess
            return Verdict.SEND
        if self._exempt and self._is_exempt(source):
            return Verdict.SEND
        bucket.shortened = not bucket.shortened
        if bucket.shortened:
            return Verdict.SHORTEN
        self._settle(bucket, -query_size)
        return Verdict.DROP

    def _settle(self, bucket: _Bucket, amount: int) -> None:
        """Take what came in beyond what went out off the debt; little is kept for later."""
        bucket.owed = max(bucket.owed + amount, -int(self._most))

    def _is_exempt(self, source: str) -> bool:
        address = ipaddress.ip_address(source)
        return any(address in network for network in self._exempt)
