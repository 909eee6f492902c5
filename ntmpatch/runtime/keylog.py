"""The key log: what opens this process's handshakes in a recording, for Wireshark and for tests.

``NTMPATCH_KEYLOG`` names a file; without it nothing is written and nothing is called. The form is
that of Wireshark's ``wg.keylog_file``, as ``extract-handshakes.sh`` of WireGuard writes it, but for
``LOCAL_STATIC_PRIVATE_KEY``: that key is an identity, which a log must not give away. Who wants to
decrypt has to have it from the state directory; docs/debugging.md tells how.
"""

from __future__ import annotations

import base64
import functools
import logging
import os
import stat
from typing import TYPE_CHECKING, Final

from ntmpatch.base.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.packet.tunnel.events import HandshakeKeys

log = logging.getLogger("ntmpatch.keylog")

KEYLOG_VARIABLE: Final = "NTMPATCH_KEYLOG"


class KeyLog:
    """Appends three lines a handshake to ``path``, in one write: processes may share a file.

    ConfigError if it cannot be written, or is not private to its owner.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._fd = os.open(path, flags, 0o600)
            status = os.fstat(self._fd)
        except OSError as error:
            raise ConfigError(f"{KEYLOG_VARIABLE}: cannot write {path}: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
            os.close(self._fd)
            raise ConfigError(
                f"{KEYLOG_VARIABLE}: {path} must be a file that only its owner can read (0600)"
            )

    def __call__(self, keys: HandshakeKeys) -> None:
        """Log one handshake, before its message is on the wire. A full disk only loses it."""
        lines = (
            f"REMOTE_STATIC_PUBLIC_KEY = {_base64(keys.remote_static)}\n"
            f"LOCAL_EPHEMERAL_PRIVATE_KEY = {_base64(keys.ephemeral)}\n"
            f"PRESHARED_KEY = {_base64(keys.preshared)}\n"
        )
        try:
            os.write(self._fd, lines.encode())
        except OSError as error:
            log.error("%s: a handshake is missing: %s", self._path, error.strerror)


def key_log() -> Callable[[HandshakeKeys], None] | None:
    """What every tunnel of this process tells of its handshakes; None unless it is asked for."""
    path = os.environ.get(KEYLOG_VARIABLE)
    return _opened(os.path.abspath(path)) if path else None


@functools.cache
def _opened(path: str) -> KeyLog:
    opened = KeyLog(path)
    log.warning(
        "%s is set: the keys of all traffic are written to %s; whoever has that file and one of the"
        " two identities can read what this process sends and receives",
        KEYLOG_VARIABLE,
        path,
    )
    return opened


def _base64(key: bytes) -> str:
    return base64.b64encode(key).decode()
