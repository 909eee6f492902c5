"""DNS cookies: whoever shows ours receives at the address that it sends from (RFC 7873).

The layout is RFC 9018's, section 4: ``version | reserved (3) | timestamp (4) | hash (8)``. The hash
is keyed BLAKE2s, and the version one for private use: SipHash would only matter where several
servers of one address understand each other's cookies.
"""

from __future__ import annotations

import struct
from hashlib import blake2s
from hmac import compare_digest
from typing import TYPE_CHECKING

from ntmpatch.wire.dns import CLIENT_COOKIE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

COOKIE_LIFETIME = 3600
"""Seconds that a cookie is good for (RFC 9018, section 4.3)."""
SECRET_LIFETIME = 86400.0
"""Seconds until another secret is taken; the last one still counts (RFC 7873, section 7.1)."""
SECRET_SIZE = 32
SERVER_COOKIE_SIZE = 16

# version (240 to 254: private use) | reserved | timestamp
_HEAD = struct.Struct("!B3xI")
_VERSION = 240
_HASH_SIZE = 8


class ServerCookies:
    """Makes and judges server cookies; ``now`` is any clock that goes at the same pace."""

    def __init__(self, entropy: Callable[[int], bytes], now: float) -> None:
        self._entropy = entropy
        self._secrets = [entropy(SECRET_SIZE)] * 2
        self._changed_at = now

    def make(self, client_cookie: bytes, source: str, now: float) -> bytes:
        """The cookie option's data for a client at the address ``source``."""
        if now - self._changed_at > SECRET_LIFETIME:
            self._secrets = [self._entropy(SECRET_SIZE), self._secrets[0]]
            self._changed_at = now
        head = client_cookie[:CLIENT_COOKIE_SIZE] + _HEAD.pack(_VERSION, int(now) & 0xFFFFFFFF)
        return head + _hash(self._secrets[0], head, source)

    def is_ours(self, cookie: bytes, source: str, now: float) -> bool:
        """Whether the option's data hold a cookie that we made for this client and address."""
        if len(cookie) != CLIENT_COOKIE_SIZE + SERVER_COOKIE_SIZE:
            return False
        version, made_at = _HEAD.unpack_from(cookie, CLIENT_COOKIE_SIZE)
        age = (int(now) - made_at) & 0xFFFFFFFF
        if version != _VERSION or age > COOKIE_LIFETIME:
            return False
        head, mark = cookie[:-_HASH_SIZE], cookie[-_HASH_SIZE:]
        return any(compare_digest(_hash(secret, head, source), mark) for secret in self._secrets)


def _hash(secret: bytes, head: bytes, source: str) -> bytes:
    return blake2s(head + source.encode(), key=secret, digest_size=_HASH_SIZE).digest()
