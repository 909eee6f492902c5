"""How fast one peer may ask for each kind of thing, so that no node crowds out the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ntmpatch.base.rates import TokenBucket
from ntmpatch.signalling.errors import Refused
from ntmpatch.wire.control_messages import (
    DirectionRequest,
    InformationRequest,
    RefusalCode,
    SharedKeyOffer,
)
from ntmpatch.wire.control_registration import RegistrationRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ntmpatch.wire.control_messages import Message

MAX_BUCKETS = 65536
"""Peers and kinds that are counted at once; those that asked for nothing lately make room."""


class Limit(NamedTuple):
    """``rate`` requests a second on average, ``burst`` at once."""

    rate: float
    burst: float


DEFAULT_LIMITS: Mapping[type[Message], Limit] = {
    RegistrationRequest: Limit(2.0, 20.0),
    DirectionRequest: Limit(20.0, 200.0),
    SharedKeyOffer: Limit(1.0, 20.0),
    # By another coordinator, for all of its nodes: two a tunnel, this and the route direction.
    InformationRequest: Limit(2000.0, 4000.0),
}


def limits_of(
    *, registrations: float, directions: float, lookups: float
) -> dict[type[Message], Limit]:
    """The limits with other rates (a second); ten seconds' worth may come at once."""
    return {
        **DEFAULT_LIMITS,
        RegistrationRequest: Limit(registrations, 10.0 * registrations),
        DirectionRequest: Limit(directions, 10.0 * directions),
        InformationRequest: Limit(lookups, 2.0 * lookups),
    }


class RequestLimits:
    """The buckets of all peers."""

    def __init__(self, limits: Mapping[type[Message], Limit]) -> None:
        self._limits = dict(limits)
        self._buckets: dict[tuple[bytes, type[Message]], TokenBucket] = {}

    def check(self, peer: bytes, message: Message, now: float) -> None:
        """Count a request; Refused TOO_FAST if there are too many of its kind by ``peer``."""
        kind = type(message)
        limit = self._limits.get(kind)
        if limit is None:
            return
        bucket = self._buckets.get((peer, kind))
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                self._make_room(now)
            bucket = self._buckets[peer, kind] = TokenBucket(limit.rate, limit.burst, now)
        if not bucket.take(now):
            raise Refused(RefusalCode.TOO_FAST, f"more than {limit.rate:g} requests a second")

    def forget(self, peer: bytes) -> None:
        """``peer`` has gone."""
        for kind in self._limits:
            self._buckets.pop((peer, kind), None)

    def _make_room(self, now: float) -> None:
        for key in [key for key, bucket in self._buckets.items() if bucket.is_full(now)]:
            del self._buckets[key]
        if len(self._buckets) >= MAX_BUCKETS:
            # All are busy: whoever was counted first starts anew, which is no gain to many.
            del self._buckets[next(iter(self._buckets))]
