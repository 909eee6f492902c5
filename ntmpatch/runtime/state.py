"""The state directory: private keys and what an enrolment left, readable by nobody else.

Written atomically and durably: a crash leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ntmpatch.base.errors import ConfigError
from ntmpatch.runtime.locking import FileLock, acquire, signature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PRIVATE_KEY = "private.key"
ENROLMENT = "enrolment"
ROTATION = "rotation"
"""A key that is to follow the node's own; there only while that is under way."""
NAMES = "names.json"
LOCK = "node.lock"
"""Held by the one process that runs the node."""
STARTING_LOCK = "starting.lock"
"""Held while it is decided who that is."""
ENROLLING_LOCK = "enrolling.lock"
"""Held while a token becomes an identity."""
CONTROL_SOCKET = "control.sock"

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
MAX_FILE_SIZE = 1 << 20


def default_state_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """``NTMPATCH_STATE``, or ``ntmpatch`` in the XDG state directory."""
    chosen = environment.get("NTMPATCH_STATE")
    if chosen:
        return Path(chosen)
    base = environment.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "ntmpatch"


class StateDirectory:
    """One directory of private files. ConfigError if others can read it or what it holds.

    Unless it is to be made, it may be missing: then it holds nothing.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        self.path = Path(path)
        if create:
            try:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"{self.path}: cannot be made: {error.strerror}") from None
        elif not self.path.exists():
            return
        self._check(self.path, "directory", stat.S_ISDIR)

    def read(self, name: str) -> bytes | None:
        """The contents of a private file; None if there is none."""
        path = self.path / name
        if not path.exists():
            return None
        self._check(path, "file", stat.S_ISREG)
        try:
            with path.open("rb") as file:
                return file.read(MAX_FILE_SIZE)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None

    def write(self, name: str, content: bytes) -> None:
        """Replace a private file, atomically; it is on the disk when this returns."""
        self._put(name, content, os.replace)

    def remove(self, name: str) -> None:
        """Remove a private file; that is on the disk when this returns."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / name).unlink()
        self._sync()

    def create(self, name: str, content: bytes) -> bool:
        """Write a private file unless there is one; whether it was ours that came first."""
        try:
            self._put(name, content, os.link)
        except FileExistsError:
            return False
        return True

    def _put(
        self, name: str, content: bytes, move: Callable[[str, os.PathLike[str]], None]
    ) -> None:
        try:
            fd, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=self.path)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                move(temporary, self.path / name)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
            self._sync()
        except FileExistsError:
            raise
        except OSError as error:
            raise ConfigError(f"{self.path / name}: cannot be written: {error.strerror}") from None

    def _sync(self) -> None:
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def private_key(self, name: str = PRIVATE_KEY) -> bytes:
        """The X25519 private key of that file, made at the first call."""
        return self._key(name, lambda: X25519PrivateKey.generate().private_bytes_raw())

    def _key(self, name: str, make: Callable[[], bytes]) -> bytes:
        stored = self.read(name)
        if stored is None:
            fresh = make()
            if self.create(name, fresh):
                return fresh
            # Another process (a server that is starting, an account command) made it meanwhile.
            stored = self.read(name) or b""
        if len(stored) != 32:
            raise ConfigError(f"{self.path / name}: expected 32 bytes of key, got {len(stored)}")
        return stored

    def random_key(self, name: str) -> bytes:
        """32 random bytes of that file, made at the first call (an Ed25519 private key is that)."""
        return self._key(name, lambda: os.urandom(32))

    def write_names(self, domains: tuple[str, ...], prefixes: tuple[str, ...]) -> None:
        """What a program's process reads to tell NTM names and addresses from others."""
        content = {"domains": list(domains), "prefixes": list(prefixes)}
        self.write(NAMES, json.dumps(content).encode())

    def lock(self, name: str = LOCK, *, timeout: float = 0.0) -> FileLock | None:
        """Take one of the locks; None if another process has it for ``timeout`` seconds."""
        try:
            return acquire(self.path / name, timeout)
        except OSError as error:
            raise ConfigError(f"{self.path / name}: cannot be locked: {error.strerror}") from None

    def owner(self) -> int | None:
        """The process that owned the identity last; None if none did."""
        return signature(self.path / LOCK)

    def _check(self, path: Path, what: str, is_kind: Callable[[int], bool]) -> None:
        try:
            status = path.stat()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be opened: {error.strerror}") from None
        if not is_kind(status.st_mode):
            raise ConfigError(f"{path}: expected a {what}")
        if status.st_uid not in (os.geteuid(), 0):
            raise ConfigError(f"{path}: belongs to another user; it holds private keys")
        if status.st_mode & _OTHERS:
            mode = stat.S_IMODE(status.st_mode)
            wanted = "0700" if stat.S_ISDIR(status.st_mode) else "0600"
            raise ConfigError(
                f"{path}: others can read this {what} (mode {mode:04o}), and it holds private"
                f" keys: chmod {wanted} it"
            )
