"""From an exception to one line on stderr and an exit status (names and numbers of sysexits.h)."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Final

import click

from ntmpatch.base.errors import ConfigError, NtmpatchError, RefusedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

EX_USAGE: Final = os.EX_USAGE
"""64: the command was used wrongly."""
EX_DATAERR: Final = os.EX_DATAERR
"""65: what was given is not what it should be."""
EX_UNAVAILABLE: Final = os.EX_UNAVAILABLE
"""69: a server or a node did not answer in time."""
EX_CANTCREAT: Final = os.EX_CANTCREAT
"""73: a file, socket or port cannot be made."""
EX_NOPERM: Final = os.EX_NOPERM
"""77: the system or a server refuses."""
EX_CONFIG: Final = os.EX_CONFIG
"""78: configuration or state is broken or missing."""
EX_NOT_EXECUTABLE: Final = 126
"""As the shell says it: found, but cannot be run."""
EX_NOT_FOUND: Final = 127
"""As the shell says it: no such program."""
EX_INTERRUPTED: Final = 130
"""As the shell says it: ended by SIGINT."""

_STATUS_OF_ERRNO: Final = {
    errno.EACCES: EX_NOPERM,
    errno.EPERM: EX_NOPERM,
    errno.ECONNREFUSED: EX_UNAVAILABLE,
    errno.ETIMEDOUT: EX_UNAVAILABLE,
    errno.ENOENT: EX_CONFIG,
}


class CommandError(NtmpatchError):
    """A command failed; ``str()`` is the line for the user, ``status`` the exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def complain(message: str) -> None:
    """One line on stderr, in the form that every command uses."""
    if sys.stderr is None:  # it was closed before us
        return
    line = " ".join(message.split()) or "failed"
    sys.stderr.write(f"ntmpatch: {line}\n")
    sys.stderr.flush()


def guarded(command: Callable[[], object]) -> int:
    """Run ``command``; the exit status, after a line on stderr if it failed.

    A mistake of the user's, or of the world, is one line. Anything else is a mistake of ours and
    keeps its traceback.
    """
    try:
        result = command()
    except click.exceptions.Exit as request:
        return request.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EX_INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show(sys.stderr)
        return EX_USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "ntmpatch"
        complain(f"{error.format_message()} (see '{path} --help')")
        return EX_USAGE
    except click.ClickException as error:
        complain(error.format_message())
        return EX_DATAERR
    except NtmpatchError as error:
        complain(str(error))
        return _status_of(error)
    except BrokenPipeError:
        # Whoever read our output has gone: nothing is left to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except OSError as error:
        complain(line_of(error))
        return _STATUS_OF_ERRNO.get(error.errno or 0, EX_CANTCREAT)
    return result if isinstance(result, int) else 0


def _status_of(error: NtmpatchError) -> int:
    if isinstance(error, CommandError):
        return error.status
    if isinstance(error, ConfigError):
        return EX_CONFIG
    if isinstance(error, UnavailableError):
        return EX_UNAVAILABLE
    if isinstance(error, RefusedError):
        return EX_NOPERM
    return EX_DATAERR


def line_of(error: Exception) -> str:
    """What an error says, without the numbers of the system's."""
    if not isinstance(error, OSError):
        return str(error)
    what = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {what}" if error.filename else what
