"""What a forked child must let go of: the node's sockets belong to the parent's thread.

A child that kept a copy of a far end would keep a connection looking alive after the node closed
it, and a copy of a tunnel's UDP port would take datagrams away from its owner.
"""

from __future__ import annotations

import contextlib
import os
from typing import Protocol


class Closable(Protocol):
    """A socket, epoll object or the like."""

    def close(self) -> object: ...


_owned: set[Closable] = set()


def own(resource: Closable) -> None:
    """Close ``resource`` in every child that this process forks, until ``disown``."""
    _owned.add(resource)


def disown(resource: Closable) -> None:
    """``resource`` is closed, or may be inherited after all."""
    _owned.discard(resource)


def _close_in_child() -> None:
    for resource in list(_owned):
        with contextlib.suppress(OSError):
            resource.close()
    _owned.clear()


os.register_at_fork(after_in_child=_close_in_child)
