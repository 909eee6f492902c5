"""Keys that count no more, as those who were told of them keep them: bounded, and for a while."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from ntmpatch.signalling.errors import Refused
from ntmpatch.wire.control import fits
from ntmpatch.wire.control_messages import (
    MAX_REVOCATIONS_A_MESSAGE,
    RefusalCode,
    RevocationReason,
    Revocations,
    RevokedKey,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

LIFETIME = 8 * 86400.0
"""Seconds; by then every certificate that the AS signed for the key has run out."""
MAX_KEYS = 65536

REFUSALS = {
    RevocationReason.REVOKED: RefusalCode.REVOKED,
    RevocationReason.EXPIRED: RefusalCode.ACCOUNT_EXPIRED,
    RevocationReason.REPLACED: RefusalCode.KEY_REPLACED,
    RevocationReason.REMOVED: RefusalCode.NOT_ENROLLED,
}
"""The name by which a key is refused, by what became of it."""


class _Kept(NamedTuple):
    revoked: RevokedKey
    until: float


class RevokedKeys:
    """What the AS has said, in its order; the oldest go first when there are too many."""

    def __init__(self, most: int = MAX_KEYS) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self.serial = 0
        """Number of the last word that was heard."""

    def __len__(self) -> int:
        return len(self._kept)

    def hear(self, revoked: RevokedKey, now: float) -> bool:
        """Take one word of the AS; whether it is news, and the key counts no more."""
        if revoked.serial <= self.serial:
            return False
        self.serial = revoked.serial
        if not revoked.public_key:
            return False
        self.keep(revoked, now)
        return revoked.reason != RevocationReason.REINSTATED

    def keep(self, revoked: RevokedKey, now: float) -> None:
        """Remember what was said of one key, whatever else has been heard."""
        self._kept.pop(revoked.public_key, None)
        self._kept[revoked.public_key] = _Kept(revoked, now + LIFETIME)
        while len(self._kept) > self._most or next(iter(self._kept.values())).until < now:
            self._kept.popitem(last=False)

    def knows(self, public_key: bytes) -> bool:
        """Whether something was said of this key."""
        return public_key in self._kept

    def check(self, public_key: bytes, now: float) -> None:
        """Refused, by the name of the reason, if the key counts no more."""
        kept = self._kept.get(public_key)
        if kept is None or kept.until < now:
            return
        code = REFUSALS.get(RevocationReason(kept.revoked.reason))
        if code is not None:
            raise Refused(code, f"the key of {kept.revoked.fqdn} counts no more")

    def since(self, serial: int) -> Revocations:
        """The next words after that one, as many as one message takes."""
        newer: list[RevokedKey] = []
        for kept in reversed(self._kept.values()):
            if kept.revoked.serial <= serial:
                break
            newer.append(kept.revoked)
        newer.reverse()
        return revocations_that_fit(newer)


def revocations_that_fit(revoked: Sequence[RevokedKey]) -> Revocations:
    """As many of these, from the first on, as one datagram holds."""
    page = tuple(revoked[:MAX_REVOCATIONS_A_MESSAGE])
    while not fits(message := Revocations(page)):
        page = page[:-1]
    return message
