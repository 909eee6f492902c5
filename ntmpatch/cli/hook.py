"""Where the hook lies that ``run`` puts in front of a program, and how it is put there."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

HOOK_DIRECTORY: Final = Path(__file__).parents[1] / "patch" / "site"
"""Holds the sitecustomize that patches the program's process."""


def interpreter_identity() -> str:
    """This interpreter as the hook compares it: its version and its environment's prefix."""
    return f"{sys.implementation.cache_tag}:{os.path.realpath(sys.prefix)}"


def add_hook(environment: dict[str, str], *, gevent: bool) -> None:
    """Put the hook in front of PYTHONPATH, once, and say for which interpreter it is."""
    hook = str(HOOK_DIRECTORY)
    value = environment.get("PYTHONPATH")
    # An empty entry beside others means the working directory; an empty variable means nothing.
    paths = value.split(os.pathsep) if value else []
    others = [path for path in paths if not path or os.path.abspath(path) != hook]
    environment["PYTHONPATH"] = os.pathsep.join([hook, *others])
    environment["NTMPATCH_RUN"] = interpreter_identity()
    environment["NTMPATCH_GEVENT"] = "1" if gevent else "0"
