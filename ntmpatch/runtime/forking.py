"""What is the node's own in this process, when the process forks and when it ends.

A forked child must let go of it. A child that kept a copy of a far end would keep a connection
looking alive after the node closed it, and a copy of a tunnel's UDP port would take datagrams away
from its owner.

Where the program of this process ends and has left daemon threads, the far ends stay open until
the process is gone: closing them would wake threads that are blocked in a socket call, and each
would print its error. Threads that wait for the kernel's sockets are never woken either.
"""

from __future__ import annotations

import contextlib
import os
from typing import Protocol


class Closable(Protocol):
    """A socket, epoll object or the like."""

    def close(self) -> object: ...


class FarEnd(Closable, Protocol):
    """A socket whose other end is a program's."""

    def detach(self) -> int: ...


_owned: set[Closable] = set()


def own(resource: Closable) -> None:
    """Close ``resource`` in every child that this process forks, until ``disown``."""
    _owned.add(resource)


def disown(resource: Closable) -> None:
    """``resource`` is closed, or may be inherited after all."""
    _owned.discard(resource)


_keeps_far_ends = False


def keep_far_ends() -> None:
    """This process is about to end: what is released from now on stays open until it has."""
    global _keeps_far_ends  # noqa: PLW0603  # a process ends once
    _keeps_far_ends = True


def release(far: FarEnd) -> None:
    """Close a far end."""
    disown(far)
    if _keeps_far_ends:
        far.detach()
    else:
        far.close()


def _close_in_child() -> None:
    for resource in list(_owned):
        with contextlib.suppress(OSError):
            resource.close()
    _owned.clear()


os.register_at_fork(after_in_child=_close_in_child)
