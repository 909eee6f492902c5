"""Ports that the kernel chooses for sockets that will serve both networks: free on both.

The kernel knows nothing of the node's ports, among which are those of virtual connections, up to a
minute after their end.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any

from ntmpatch.patch import node, options, turning

if TYPE_CHECKING:
    from ntmpatch.patch.options import OptionKey, OptionValue

_MAX_CHOICES = 64
"""How often the kernel may choose a port that the node has in use."""


def settle_tcp(socket: Any) -> None:
    """After bind() to port 0 of the wildcard: let the port be one that listen() can have.

    listen() itself is too late to take another, since the program may have asked for the port. A
    node that is not running yet has no port in use.
    """
    if not node.current.is_met:
        return
    c_socket = turning.raw(socket)
    kept = options.snapshot(c_socket, c_socket.family, c_socket.type, c_socket.proto)
    for _ in range(_MAX_CHOICES):
        if _is_free(c_socket.family, turning.bound_port(c_socket), kept):
            return
        _bind_anew(c_socket, kept)


def bind_udp_wildcard(socket: Any) -> None:
    """``turning.bind_udp_wildcard``, with other ports while the node has the kernel's in use."""
    c_socket = turning.raw(socket)
    for _ in range(_MAX_CHOICES):
        try:
            turning.bind_udp_wildcard(socket)
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        kept = options.snapshot(c_socket, c_socket.family, c_socket.type, c_socket.proto)
        _bind_anew(c_socket, kept)
    raise turning.os_error(errno.EADDRINUSE)


def _is_free(family: int, port: int, kept: dict[OptionKey, OptionValue]) -> bool:
    """Whether a program could listen at a port of the virtual network: reserved, and given up."""
    from ntmpatch.wire.local import BindTcp, Bound  # noqa: PLC0415  # heavy; first use only

    near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    request = BindTcp(
        turning.families_of(family, None, kept),
        None,
        port,
        bool(kept.get(options.REUSE_ADDRESS)),
        bool(kept.get(options.REUSE_PORT)),
    )
    with contextlib.closing(near), contextlib.closing(far):
        try:
            node.current.call(request, Bound, (far.fileno(),))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def _bind_anew(c_socket: _socket.socket, kept: dict[OptionKey, OptionValue]) -> None:
    """Let the kernel choose while it still has the last choice in use: it makes another."""
    fresh = _socket.socket(c_socket.family, c_socket.type, c_socket.proto)
    options.restore(fresh, kept)
    fresh.bind(("", 0))
    turning.swap(c_socket.fileno(), os.dup(fresh.fileno()))
    fresh.close()
