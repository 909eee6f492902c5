"""What ``run`` is to run: from the words of the command line to what is executed."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ntmpatch.cli.exits import EX_NOT_EXECUTABLE, EX_NOT_FOUND, EX_USAGE, CommandError
from ntmpatch.cli.hook import interpreter_identity

if TYPE_CHECKING:
    from collections.abc import Sequence

_PYTHON_SUFFIXES: Final = (".py", ".pyw", ".pyc", ".pyz", ".zip")
_PYTHONS: Final = ("python", "pypy")
"""How the names of interpreters begin."""
_SHEBANG_SIZE: Final = 512
"""Bytes that are read of a script to learn its interpreter; Linux itself reads 256."""
_QUESTION_TIMEOUT: Final = 10.0
_QUESTION: Final = "import sys; print(sys.implementation.cache_tag); print(sys.prefix)"


@dataclass(frozen=True, slots=True)
class Target:
    """A program to be executed in our place."""

    executable: str
    arguments: tuple[str, ...]
    """Its whole argv, beginning with its own name."""
    remark: str = ""
    """Why it will not be patched, for the user; empty if nothing is known against it."""
    interpreter: str = ""
    """The Python that runs it; empty if it is no Python program."""


def resolve_target(words: Sequence[str]) -> Target:
    """The target that ``words`` (``app.py args…``, ``-m mod args…``, ``program args…``) mean.

    A bare name is looked for on PATH first, as a shell does, then in the working directory; a name
    with a slash or a suffix of Python is a path. CommandError if there is no such program.
    """
    if not words:
        raise CommandError(
            "nothing to run: expected SCRIPT, -m MODULE, -c CODE or PROGRAM", EX_USAGE
        )
    first, rest = words[0], words[1:]
    if first in ("-m", "-c") and not rest:
        what = "a module" if first == "-m" else "code"
        raise CommandError(f"{first} expects {what} after it", EX_USAGE)
    if first == "-" or first.startswith(("-m", "-c")):
        return _python(words)
    if first.startswith("-"):
        raise CommandError(f"{first} is no option of run (see 'ntmpatch run --help')", EX_USAGE)
    is_path = "/" in first or first.endswith(_PYTHON_SUFFIXES)
    found = None if is_path else shutil.which(first)
    if found is not None:
        return _program(found, first, rest)
    if not os.path.exists(first):
        where = "" if is_path else " on PATH or in this directory"
        raise CommandError(f"{first}: not found{where}", EX_NOT_FOUND)
    if os.path.isdir(first):
        if not os.path.isfile(os.path.join(first, "__main__.py")):
            raise CommandError(f"{first}: a directory without __main__.py", EX_NOT_EXECUTABLE)
        return _python(words)
    if first.endswith(_PYTHON_SUFFIXES) or not os.access(first, os.X_OK):
        return _python(words)
    if zipfile.is_zipfile(first) and not _opening_of(first).startswith(b"#!"):
        return _python(words)
    return _program(first, first, rest)


def _python(words: Sequence[str]) -> Target:
    return Target(sys.executable, (sys.executable, *words), interpreter=sys.executable)


def _program(path: str, name: str, rest: Sequence[str]) -> Target:
    """A program of its own: the kernel runs it, by its own interpreter if it is a script."""
    opening = _opening_of(path)
    words: list[str] = []
    if opening.startswith(b"#!"):
        words = _interpreter_of(opening)
    elif not opening.startswith(b"\x7fELF") and b"\0" not in opening:
        # No line that names an interpreter: execve refuses it, and a shell would run it itself.
        return Target("/bin/sh", ("/bin/sh", path, *rest))
    if not words and os.path.basename(path).startswith(_PYTHONS):
        # An interpreter itself, or what stands for one (pyenv's are scripts of a shell).
        words = [os.path.abspath(path), *itertools.takewhile(_is_flag, rest)]
    remark = _remark_on(path, words) if words else ""
    return Target(path, (name, *rest), remark, interpreter=words[0] if words else "")


def _is_flag(word: str) -> bool:
    return word[:1] == "-" and word[:2] not in ("-", "-c", "-m")


def _opening_of(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_SHEBANG_SIZE)
    except PermissionError:
        # It may still be executable; what it is remains its own affair.
        return b"\x7fELF" if os.access(path, os.X_OK) else b""


def _interpreter_of(opening: bytes) -> list[str]:
    """The command that runs a script, by its first line; empty if that is no Python."""
    lines = opening[2:].split(b"\n")
    words = lines[0].decode("utf-8", "replace").split()
    if not words:
        return []
    if os.path.basename(words[0]) == "sh" and len(lines) > 1 and lines[1].startswith(b"'''exec'"):
        # What pip writes where the interpreter's path is too long for a first line, or has spaces:
        #     '''exec' "/path/with spaces/python" "$0" "$@"
        try:
            words = shlex.split(lines[1].decode("utf-8", "replace")[len("'''exec'") :])
        except ValueError:
            return []
        words = [word for word in words if not word.startswith("$")]
    elif os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if word != "-S" and "=" not in word]
    if not words or not os.path.basename(words[0]).startswith(_PYTHONS):
        return []
    return words


def _is_ours_by_another_name(interpreter: str) -> bool:
    """Whether it is the python3 beside our python, or the like: the same file, the same prefix."""
    return os.path.dirname(interpreter) == os.path.dirname(sys.executable) and (
        os.path.realpath(interpreter) == os.path.realpath(sys.executable)
    )


def _remark_on(path: str, words: Sequence[str]) -> str:
    """Why a script's interpreter will not be patched; empty if it is ours."""
    name = os.path.basename(path)
    # -W and -X take the rest of their word as a value; what is before is a row of flags.
    flags = {flag for word in words[1:] if word[:1] == "-" for flag in re.split("[WX]", word)[0]}
    if flags & set("IES"):
        return f"{name} runs as '{' '.join(words)}', which ignores PYTHONPATH: it is left alone"
    if words[0] == sys.executable or _is_ours_by_another_name(words[0]):
        return ""
    interpreter = shutil.which(words[0])
    if interpreter is None:
        return f"{name} wants the interpreter {words[0]}, which is not there"
    try:
        answer = subprocess.run(
            [interpreter, "-I", "-c", _QUESTION],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_QUESTION_TIMEOUT,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        answer = []
    if len(answer) == 2 and f"{answer[0]}:{os.path.realpath(answer[1])}" == interpreter_identity():
        return ""
    return f"{name} runs with {interpreter}, not with {sys.executable}: it is left alone"
