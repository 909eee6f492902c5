"""Cookies: under load, a handshake must come from where it says it does.

The WireGuard paper, sections 5.3 and 5.4.7. Nothing is allocated for a source before it has shown
that it can receive there.
"""

from __future__ import annotations

from hmac import compare_digest
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ntmpatch.base.rates import TokenBucket
from ntmpatch.crypto.primitives import InvalidTag, hash_, keyed_mac
from ntmpatch.crypto.xchacha import NONCE_SIZE, xopen, xseal
from ntmpatch.packet.tunnel.constants import (
    LOAD_RATE,
    MAX_CALLS,
    MAX_SOURCES,
    SOURCE_BURST,
    SOURCE_RATE,
)
from ntmpatch.wire.wireguard import COOKIE_REPLY, COOKIE_REPLY_LAYOUT, MAC_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

_LABEL_MAC1 = b"mac1----"
_LABEL_COOKIE = b"cookie--"


def network_of(source: object) -> Hashable:
    """What shares one rate: an address whatever the port, and an IPv6 site's whole /64.

    An endpoint without a ``host`` (a relay's session, a TCP connection) stands for itself.
    """
    host = getattr(source, "host", None)
    if not isinstance(host, str):
        return str(source)
    address = ip_address(host.partition("%")[0])
    return host if address.version == 4 else address.packed[:8]


class CookieChecker:
    """What a receiver of handshakes asks of them."""

    def __init__(
        self, public_key: bytes, *, lifetime: float, now: float, entropy: Callable[[int], bytes]
    ) -> None:
        self._mac1_key = hash_(_LABEL_MAC1, public_key)
        self._cookie_key = hash_(_LABEL_COOKIE, public_key)
        self._lifetime = lifetime
        self._entropy = entropy
        self._secret = entropy(32)
        self._secret_at = now
        self._load = TokenBucket(LOAD_RATE, LOAD_RATE, now)
        self._sources: dict[Hashable, TokenBucket] = {}

    def has_mac1(self, message: memoryview) -> bool:
        """Whether whoever made this handshake message knew our public key."""
        body = message[: -2 * MAC_SIZE]
        return compare_digest(keyed_mac(self._mac1_key, body), message[-2 * MAC_SIZE : -MAC_SIZE])

    def is_under_load(self, now: float) -> bool:
        """Count one handshake message; whether there are too many to answer all."""
        return not self._load.take(now)

    def has_mac2(self, message: memoryview, source: bytes, now: float) -> bool:
        """Whether it carries the cookie of its source."""
        return compare_digest(
            keyed_mac(self._cookie(source, now), message[:-MAC_SIZE]), message[-MAC_SIZE:]
        )

    def allows(self, network: Hashable, now: float) -> bool:
        """Whether a source that has shown its cookie is within the rate of its network."""
        bucket = self._sources.get(network)
        if bucket is None:
            if len(self._sources) >= MAX_SOURCES:
                self._sources.clear()
            bucket = self._sources[network] = TokenBucket(SOURCE_RATE, SOURCE_BURST, now)
        return bucket.take(now)

    def reply(self, message: memoryview, sender: int, source: bytes, now: float) -> bytes:
        """The cookie reply to a handshake message whose sender index is ``sender``."""
        nonce = self._entropy(NONCE_SIZE)
        mac1 = bytes(message[-2 * MAC_SIZE : -MAC_SIZE])
        sealed = xseal(self._cookie_key, nonce, self._cookie(source, now), mac1)
        return COOKIE_REPLY_LAYOUT.pack(COOKIE_REPLY, sender, nonce, sealed)

    def _cookie(self, source: bytes, now: float) -> bytes:
        if now - self._secret_at >= self._lifetime:
            self._secret = self._entropy(32)
            self._secret_at = now
        return keyed_mac(self._secret, source)


class CookieHolder:
    """What a sender of handshakes adds to them: mac1 always, mac2 while it has a cookie."""

    __slots__ = ("_cookie", "_cookie_at", "_cookie_key", "_lifetime", "_mac1_key", "_recent_mac1s")

    def __init__(self, remote_public_key: bytes, *, lifetime: float) -> None:
        self._mac1_key = hash_(_LABEL_MAC1, remote_public_key)
        self._cookie_key = hash_(_LABEL_COOKIE, remote_public_key)
        self._lifetime = lifetime
        self._cookie: bytes | None = None
        self._cookie_at = 0.0
        self._recent_mac1s: list[bytes] = []

    def stamp(self, message: bytes, now: float) -> bytes:
        """A handshake message with both MACs at its end filled in."""
        body = message[: -2 * MAC_SIZE]
        mac1 = keyed_mac(self._mac1_key, body)
        self._recent_mac1s.append(mac1)
        del self._recent_mac1s[:-MAX_CALLS]
        if self._cookie is None or now - self._cookie_at >= self._lifetime:
            return body + mac1 + bytes(MAC_SIZE)
        return body + mac1 + keyed_mac(self._cookie, body + mac1)

    def accept(self, nonce: bytes, sealed: bytes, now: float) -> bool:
        """Take a cookie reply; False if it does not answer a recent handshake message of ours."""
        for mac1 in reversed(self._recent_mac1s):
            try:
                self._cookie = xopen(self._cookie_key, nonce, sealed, mac1)
            except InvalidTag:
                continue
            self._cookie_at = now
            return True
        return False
