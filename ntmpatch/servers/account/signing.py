"""The AS's signing keys: announced, then used, then only believed, then gone.

A new key is announced in every EnrolmentResponse while the old one still signs. Everybody renews
within half a certificate's lifetime; after that the new key signs. The old one is believed until
what it signed last has run out. Time alone moves a key on: a rotation is one change, and needs no
second command.
"""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from ntmpatch.base.errors import ConfigError, RefusedError
from ntmpatch.crypto.certificate import signing_public_key
from ntmpatch.servers.account.store import CLOCK_TOLERANCE, MAX_CERTIFICATE_LIFETIME

OVERLAP = MAX_CERTIFICATE_LIFETIME / 2 + 86400.0
"""Seconds for which a key is announced: all have renewed by then, with a day to spare."""
MAX_KEYS = 4


class SigningKeys(Protocol):
    """What the account server signs with, and has others believe. Methods may read a file."""

    def signing(self, now: float) -> bytes:
        """The Ed25519 private key (32 bytes) to sign with."""

    def announced(self, now: float) -> tuple[bytes, ...]:
        """The public keys by which to judge certificates, the one that signs first."""


class SigningKey(msgspec.Struct, frozen=True, array_like=True):
    """One key, and from when on it signs."""

    private_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    signs_from: float
    """Seconds since 1970."""

    def __repr__(self) -> str:
        return f"SigningKey(signs_from={self.signs_from})"


class Keyring(msgspec.Struct, frozen=True, array_like=True):
    """`SigningKeys` as a value: the keys in the order in which they sign."""

    keys: Annotated[tuple[SigningKey, ...], Meta(min_length=1)]
    certificate_lifetime: float = MAX_CERTIFICATE_LIFETIME

    @classmethod
    def of(cls, private_key: bytes) -> Keyring:
        """The only key there is.

        In place of others it makes void all that they signed: they may be in wrong hands.
        Everybody then asks the AS, and does so by itself.
        """
        return cls((SigningKey(private_key, 0.0),))

    def signing(self, now: float) -> bytes:
        """The key whose time it is."""
        return self._signing(now).private_key

    def announced(self, now: float) -> tuple[bytes, ...]:
        """That key, the one that follows it, and those whose certificates have not run out."""
        current = self._signing(now)
        rest = [key for key in self._living(now) if key is not current]
        return tuple(signing_public_key(key.private_key) for key in (current, *reversed(rest)))

    def rotated(self, private_key: bytes, now: float, overlap: float) -> Keyring:
        """With another key, which signs after ``overlap`` seconds; without those that are gone.

        RefusedError if a key is announced already, or too many are still believed.
        """
        if self.keys[-1].signs_from > now:
            raise RefusedError("a signing key is announced already, and does not sign yet")
        living = self._living(now)
        if len(living) >= MAX_KEYS:
            raise RefusedError("too many signing keys are in use: certificates must run out first")
        return msgspec.structs.replace(self, keys=(*living, SigningKey(private_key, now + overlap)))

    def encode(self) -> bytes:
        """The keys as they are stored."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, stored: bytes) -> Keyring:
        """Read what `encode` made; ConfigError if it is something else."""
        try:
            return msgspec.msgpack.decode(stored, type=cls)
        except msgspec.DecodeError as error:
            raise ConfigError(f"stored signing keys are damaged: {error}") from None

    def _signing(self, now: float) -> SigningKey:
        due = [key for key in self.keys if key.signs_from <= now]
        return due[-1] if due else self.keys[0]

    def _living(self, now: float) -> list[SigningKey]:
        """All but those that signed nothing for longer than a certificate lives."""
        oldest = now - self.certificate_lifetime - CLOCK_TOLERANCE
        followers = [*(key.signs_from for key in self.keys[1:]), float("inf")]
        return [key for key, until in zip(self.keys, followers, strict=True) if until > oldest]
