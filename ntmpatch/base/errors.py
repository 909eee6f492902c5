"""The library's exceptions: one root, few leaves.

At the socket surface only what Linux raises appears (``OSError`` with its errno,
``socket.gaierror``); these are for the command line, the servers and the API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ntmpatch.base.drops import Drop


class NtmpatchError(Exception):
    """Root of what ntmpatch raises on purpose; ``str()`` is one line fit for a user."""


class ConfigError(NtmpatchError):
    """A configuration, token or state file is not what was expected.

    The message names the file, the line where it is known, and what was expected.
    """


class UnavailableError(NtmpatchError):
    """A server did not answer within a bounded time (``EX_UNAVAILABLE`` for commands)."""


class RefusedError(NtmpatchError):
    """A server answered, and said no: wrong or used token, revoked account, unknown name."""


class UntrustedError(NtmpatchError):
    """Bytes from outside are not what they claim to be; ``drop`` names why.

    Raised only behind functions whose name ends in ``_untrusted`` and turned into a counted drop
    by their caller: it never reaches a user.
    """

    def __init__(self, drop: Drop) -> None:
        super().__init__(drop.value)
        self.drop = drop
