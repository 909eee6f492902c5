"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s as WireGuard uses it: one initiation, one response.

The paper's *tunnel request* and *tunnel response* (Fig. 3 (17), (18)) are these two. The names
follow the WireGuard paper, sections 5.4.2 and 5.4.3: C is the chaining key, H the hash.
"""

from __future__ import annotations

from typing import NamedTuple

from ntmpatch.crypto.primitives import (
    X25519PrivateKey,
    agree,
    derive,
    hash_,
    open_,
    public_of,
    seal,
)

CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"

_INITIAL_CHAIN = hash_(CONSTRUCTION)


class StaticKey:
    """A party's long-term X25519 key; ``repr`` does not show it."""

    def __init__(self, private_key: bytes, *, identifier: bytes = IDENTIFIER) -> None:
        self.private = X25519PrivateKey.from_private_bytes(private_key)
        self.public = public_of(self.private)
        self.identifier = identifier


class SessionKeys(NamedTuple):
    """The two keys of a session, from the point of view of whoever derived them."""

    sending: bytes
    receiving: bytes


def _initial_hash(identifier: bytes, responder: bytes) -> bytes:
    return hash_(hash_(_INITIAL_CHAIN, identifier), responder)


class Initiator:
    """The side that calls. ``message_parts`` are what the initiation carries."""

    def __init__(
        self, static: StaticKey, responder: bytes, ephemeral: bytes, timestamp: bytes
    ) -> None:
        self._static = static
        self._ephemeral = X25519PrivateKey.from_private_bytes(ephemeral)
        public = public_of(self._ephemeral)
        (chain,) = derive(_INITIAL_CHAIN, public, 1)
        digest = hash_(_initial_hash(static.identifier, responder), public)
        chain, key = derive(chain, agree(self._ephemeral, responder), 2)
        sealed_static = seal(key, static.public, digest)
        digest = hash_(digest, sealed_static)
        chain, key = derive(chain, agree(static.private, responder), 2)
        sealed_timestamp = seal(key, timestamp, digest)
        self._chain = chain
        self._hash = hash_(digest, sealed_timestamp)
        self.message_parts = (public, sealed_static, sealed_timestamp)

    def finish(self, ephemeral: bytes, sealed_empty: bytes, preshared_key: bytes) -> SessionKeys:
        """Read the response. InvalidTag or ValueError if it is not one to this initiation."""
        (chain,) = derive(self._chain, ephemeral, 1)
        digest = hash_(self._hash, ephemeral)
        (chain,) = derive(chain, agree(self._ephemeral, ephemeral), 1)
        (chain,) = derive(chain, agree(self._static.private, ephemeral), 1)
        chain, temporary, key = derive(chain, preshared_key, 3)
        open_(key, sealed_empty, hash_(digest, temporary))
        sending, receiving = derive(chain, b"", 2)
        return SessionKeys(sending, receiving)


class Responder:
    """The side that is called. Reading the initiation tells who calls, and when it was made."""

    def __init__(
        self, static: StaticKey, ephemeral: bytes, sealed_static: bytes, sealed_timestamp: bytes
    ) -> None:
        """InvalidTag or ValueError if this is no initiation to ``static``."""
        (chain,) = derive(_INITIAL_CHAIN, ephemeral, 1)
        digest = hash_(_initial_hash(static.identifier, static.public), ephemeral)
        chain, key = derive(chain, agree(static.private, ephemeral), 2)
        self.initiator = open_(key, sealed_static, digest)
        digest = hash_(digest, sealed_static)
        chain, key = derive(chain, agree(static.private, self.initiator), 2)
        self.timestamp = open_(key, sealed_timestamp, digest)
        self._chain = chain
        self._hash = hash_(digest, sealed_timestamp)
        self._remote_ephemeral = ephemeral

    def respond(self, ephemeral: bytes, preshared_key: bytes) -> tuple[bytes, bytes, SessionKeys]:
        """The response's ephemeral key and sealed empty payload, and the session's keys."""
        private = X25519PrivateKey.from_private_bytes(ephemeral)
        public = public_of(private)
        (chain,) = derive(self._chain, public, 1)
        digest = hash_(self._hash, public)
        (chain,) = derive(chain, agree(private, self._remote_ephemeral), 1)
        (chain,) = derive(chain, agree(private, self.initiator), 1)
        chain, temporary, key = derive(chain, preshared_key, 3)
        sealed_empty = seal(key, b"", hash_(digest, temporary))
        receiving, sending = derive(chain, b"", 2)
        return public, sealed_empty, SessionKeys(sending, receiving)
