"""Virtual sockets between processes, as multiprocessing sends ordinary ones.

A socket of both networks is three descriptors; its epoll set is made anew where it arrives.
"""

from __future__ import annotations

import _socket
import sys
from typing import TYPE_CHECKING, Any

from ntmpatch.patch import classes, node, table, turning
from ntmpatch.patch.kinds import Kind

if TYPE_CHECKING:
    from ntmpatch.patch.table import State


def reduce_socket(socket: Any, state: State) -> tuple[Any, ...]:
    """For ``__reduce_ex__``; TypeError, as of an ordinary socket, outside multiprocessing."""
    reduction = sys.modules.get("multiprocessing.reduction")
    if reduction is None:
        raise TypeError(f"cannot pickle {socket.__class__.__name__!r} object")
    if state.real is None or state.near is None:
        reduced: tuple[Any, ...] = reduction._reduce_socket(socket)
        return reduced
    return _rebuild, (
        reduction.DupFd(state.real.fileno()),
        reduction.DupFd(state.near.fileno()),
        (state.kind.value, state.id, state.inode, state.local, state.options),
    )


def _rebuild(real_handle: Any, near_handle: Any, facts: tuple[Any, ...]) -> Any:
    import socket  # noqa: PLC0415  # in there is the class to make, at this moment

    real = socket.socket(fileno=real_handle.detach())
    near_fd = near_handle.detach()
    if not node.current.is_enabled:
        _socket.close(near_fd)
        return real  # without a node it serves the real network
    node.load()
    kind, id_, inode, local, kept = facts
    turning.combine(real, Kind(kind), id_=id_, near=near_fd, local=local, kept=kept)
    state = table.get(real.fileno())
    assert state is not None
    state.inode = inode
    classes.become(real, state.kind)
    return real
