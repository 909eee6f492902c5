"""What the WireGuard handshake is made of: BLAKE2s, its HMAC and key derivation, X25519, AEAD.

Source: the WireGuard paper (J. A. Donenfeld, 2020-06-01 revision), section 5.4; RFC 7693, RFC 2104.
"""

from __future__ import annotations

import hmac
from hashlib import blake2s

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

KEY_SIZE = 32
TAG_SIZE = 16
ZERO_NONCE = bytes(12)

__all__ = ["InvalidTag", "X25519PrivateKey", "X25519PublicKey"]


def hash_(*parts: bytes) -> bytes:
    """BLAKE2s-256 of the concatenated parts: the paper's Hash."""
    return blake2s(b"".join(parts)).digest()


def keyed_mac(key: bytes, data: bytes | memoryview) -> bytes:
    """Keyed BLAKE2s with 16 bytes of output: the paper's Mac."""
    return blake2s(data, key=key, digest_size=16).digest()


def hmac_blake2s(key: bytes, data: bytes) -> bytes:
    """HMAC over BLAKE2s-256: the paper's Hmac."""
    return hmac.digest(key, data, "blake2s")


def derive(key: bytes, data: bytes, count: int) -> tuple[bytes, ...]:
    """The paper's Kdf_n: ``count`` keys of 32 bytes (HKDF with HMAC-BLAKE2s, empty info)."""
    secret = hmac_blake2s(key, data)
    keys: list[bytes] = []
    last = b""
    for number in range(1, count + 1):
        last = hmac_blake2s(secret, last + bytes((number,)))
        keys.append(last)
    return tuple(keys)


def agree(private_key: X25519PrivateKey, public_key: bytes) -> bytes:
    """X25519; ValueError where the result is all zero (a public key of small order)."""
    return private_key.exchange(X25519PublicKey.from_public_bytes(public_key))


def public_of(private_key: X25519PrivateKey) -> bytes:
    """The 32 bytes of the public key."""
    return private_key.public_key().public_bytes_raw()


def seal(key: bytes, plaintext: bytes, authenticated: bytes) -> bytes:
    """ChaCha20-Poly1305 with counter zero: for keys that are used once."""
    return ChaCha20Poly1305(key).encrypt(ZERO_NONCE, plaintext, authenticated)


def open_(key: bytes, ciphertext: bytes, authenticated: bytes) -> bytes:
    """The inverse of ``seal``; InvalidTag if it was not made with these."""
    return ChaCha20Poly1305(key).decrypt(ZERO_NONCE, ciphertext, authenticated)
