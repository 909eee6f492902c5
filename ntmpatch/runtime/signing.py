"""The AS's signing keys in the state directory: rotated by a command while the AS reads them.

``as-signing.keys`` holds them all (servers/account/signing.py); before the first rotation there is
``as-signing.key``, 32 bytes.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from ntmpatch.base.errors import UnavailableError
from ntmpatch.servers.account.signing import Keyring

if TYPE_CHECKING:
    from ntmpatch.runtime.state import StateDirectory

SIGNING_KEY = "as-signing.key"
SIGNING_KEYS = "as-signing.keys"
_LOCK = "as-signing.lock"
_LOCK_TIMEOUT = 10.0


class SigningKeyFile:
    """A ``SigningKeys``; what another process writes is used from then on. Thread-safe."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._read: tuple[object, Keyring] | None = None
        self.signing(time.time())  # a damaged file is told at the start

    def signing(self, now: float) -> bytes:
        """The Ed25519 private key (32 bytes) to sign with."""
        return self._keyring().signing(now)

    def announced(self, now: float) -> tuple[bytes, ...]:
        """The public keys by which to judge certificates, the one that signs first."""
        return self._keyring().announced(now)

    def rotate(self, now: float, overlap: float, *, distrust: bool = False) -> float:
        """Announce a fresh key, which signs after ``overlap`` seconds; when that is.

        ``distrust``: it signs at once, and what others signed counts no more. RefusedError if a
        key is announced already.
        """
        lock = self._state.lock(_LOCK, timeout=_LOCK_TIMEOUT)
        if lock is None:
            raise UnavailableError("another process is rotating the signing key")
        with contextlib.closing(lock):
            fresh = os.urandom(32)
            if distrust:
                keyring = Keyring.of(fresh)
            else:
                keyring = self._keyring().rotated(fresh, now, overlap)
            self._state.write(SIGNING_KEYS, keyring.encode())
            # Whoever looks for the one key of before must not sign with it unawares.
            with contextlib.suppress(FileNotFoundError):
                (self._state.path / SIGNING_KEY).unlink()
        return max(keyring.keys[-1].signs_from, now)

    def _keyring(self) -> Keyring:
        version = self._version()
        read = self._read
        if read is None or read[0] != version:
            stored = self._state.read(SIGNING_KEYS)
            if stored is None:
                keyring = Keyring.of(self._state.random_key(SIGNING_KEY))
            else:
                keyring = Keyring.decode(stored)
            self._read = read = (version, keyring)
        return read[1]

    def _version(self) -> object:
        """Differs whenever the file is another one: it is replaced, never changed."""
        try:
            status = (self._state.path / SIGNING_KEYS).stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns
