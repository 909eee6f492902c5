"""Keys that coordinators share (Fig. 3 (4), (5)), and the tunnels' keys derived from them."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2s
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

SHARED_KEY_LIFETIME = 3600.0
SALT_SIZE = 32
_MAX_ACCEPTED_PER_COORDINATOR = 4
_MARGIN = 30.0
"""Seconds before its end at which a key is offered no more: the direction must finish with it."""


class SharedKey(NamedTuple):
    """A key between two coordinators; ``expires_at`` by this party's clock."""

    key_id: bytes
    key: bytes
    expires_at: float

    def preshared_key(self, salt: bytes, calling: bytes, called: bytes) -> bytes:
        """The pre-shared key of the tunnel between two public keys: fresh by its ``salt``."""
        return blake2s(salt + calling + called, key=self.key, person=b"ntm psk").digest()


class SharedKeys:
    """What this coordinator offered to others and accepted from them."""

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._offered: dict[bytes, SharedKey] = {}
        self._accepted: dict[bytes, OrderedDict[bytes, SharedKey]] = {}

    def offered_to(self, coordinator: bytes, now: float) -> SharedKey | None:
        """The key that ``coordinator`` took from us, if it is still good."""
        shared = self._offered.get(coordinator)
        return shared if shared is not None and shared.expires_at - _MARGIN > now else None

    def make(self, now: float) -> SharedKey:
        """A new key to offer."""
        return SharedKey(self._entropy(8), self._entropy(32), now + SHARED_KEY_LIFETIME)

    def taken(self, coordinator: bytes, shared: SharedKey) -> None:
        """``coordinator`` acknowledged the key."""
        self._offered[coordinator] = shared

    def drop_offered(self, coordinator: bytes) -> None:
        """``coordinator`` has lost our key."""
        self._offered.pop(coordinator, None)

    def accept(self, coordinator: bytes, shared: SharedKey) -> None:
        """Keep a key that ``coordinator`` offered, and its last few for directions under way."""
        keys = self._accepted.setdefault(coordinator, OrderedDict())
        keys[shared.key_id] = shared
        while len(keys) > _MAX_ACCEPTED_PER_COORDINATOR:
            keys.popitem(last=False)

    def drop_accepted(self, coordinator: bytes) -> None:
        """``coordinator`` has gone."""
        self._accepted.pop(coordinator, None)

    def accepted_from(self, coordinator: bytes, key_id: bytes, now: float) -> SharedKey | None:
        """The key of that id, if ``coordinator`` offered it and it is still good."""
        keys = self._accepted.get(coordinator)
        shared = keys.get(key_id) if keys is not None else None
        return shared if shared is not None and shared.expires_at > now else None
