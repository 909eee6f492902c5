"""XChaCha20-Poly1305, for cookie replies only: a random 24-byte nonce is safe with it.

Source: draft-irtf-cfrg-xchacha-03. HChaCha20 is built on the ChaCha20 block that ``cryptography``
offers: it is that block without the final addition, so the input words are subtracted again.
"""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

NONCE_SIZE = 24

_CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")
_words = struct.Struct("<16I")


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """A 32-byte subkey from a 32-byte key and 16 bytes of nonce (section 2.2)."""
    block = Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(64))
    words = _words.unpack(block)
    inputs = struct.unpack("<4I", nonce)
    first = [(word - base) & 0xFFFFFFFF for word, base in zip(words[:4], _CONSTANTS, strict=True)]
    last = [(word - base) & 0xFFFFFFFF for word, base in zip(words[12:], inputs, strict=True)]
    return struct.pack("<8I", *first, *last)


def xseal(key: bytes, nonce: bytes, plaintext: bytes, authenticated: bytes) -> bytes:
    """Encrypt with a 24-byte nonce (section 2.3)."""
    aead = ChaCha20Poly1305(hchacha20(key, nonce[:16]))
    return aead.encrypt(bytes(4) + nonce[16:], plaintext, authenticated)


def xopen(key: bytes, nonce: bytes, ciphertext: bytes, authenticated: bytes) -> bytes:
    """The inverse; ``cryptography.exceptions.InvalidTag`` if it was not made with these."""
    aead = ChaCha20Poly1305(hchacha20(key, nonce[:16]))
    return aead.decrypt(bytes(4) + nonce[16:], ciphertext, authenticated)
