"""Virtual listeners: accepted connections arrive as passed descriptors."""

from __future__ import annotations

import _socket
import array
import errno
import os
from typing import TYPE_CHECKING, Any

from ntmpatch.patch import classes, node, options, table, turning, waiting
from ntmpatch.patch.addressing import format_address
from ntmpatch.patch.classes import register_mixin
from ntmpatch.patch.kinds import Kind
from ntmpatch.patch.stream import BoundSocket
from ntmpatch.patch.virtual import refuse, state_of
from ntmpatch.wire import local

if TYPE_CHECKING:
    from ntmpatch.patch.table import State

_RIGHTS_SIZE = _socket.CMSG_SPACE(array.array("i").itemsize)


class ListeningSocket(BoundSocket):
    """A listener on a virtual address, or on the wildcard of both networks."""

    __slots__ = ()

    def accept(self) -> tuple[Any, Any]:
        """The next connection, of either network."""
        deadline = waiting.Deadline(self.gettimeout())
        while True:
            try:
                fd, address = self._accept()
                break
            except BlockingIOError:
                self._ntm_wait(waiting.READ, 0, deadline)
        state = state_of(self)
        patched = classes.patched_class_of(type(self))
        connection = patched(state.family, state.type, state.proto, fileno=fd)
        # As socket.accept(): a listener's time-out is not the connection's.
        if _socket.getdefaulttimeout() is None and self.gettimeout():
            connection.setblocking(True)
        return connection, address

    def _accept(self) -> tuple[int, Any]:
        """As the C method: descriptor and address; may raise BlockingIOError."""
        state = state_of(self)
        if state.near is None:
            return self._ntm_take(turning.raw(self), state)
        assert state.real is not None
        try:
            # Whoever was served last comes second, so that neither network starves the other.
            if state.prefers_real:
                state.prefers_real = False
                return _accept_real(state.real)
            state.prefers_real = True
            return self._ntm_take(state.near, state)
        except BlockingIOError:
            if state.prefers_real:
                return _accept_real(state.real)
            return self._ntm_take(state.near, state)

    def _ntm_take(self, near: _socket.socket, state: State) -> tuple[int, Any]:
        if state.told:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        record, ancillary, _, _ = _socket.socket.recvmsg(
            near, local.ACCEPTED_SIZE, _RIGHTS_SIZE, _socket.MSG_CMSG_CLOEXEC
        )
        if not record:
            # The node is gone. A listener of both networks says so once, and serves the real one.
            if state.near is not None:
                state.told = True
                _watch_no_more(state.fd, state.near)
            refuse(errno.ENETDOWN)
        id_, remote, own = local.unpack_accepted(record)
        if not ancillary:
            refuse(errno.ECONNABORTED)
        fds = array.array("i")
        fds.frombytes(ancillary[0][2])
        fd = fds[0]
        table.put_accepted(state, fd, id_, own, remote)
        _inherit(fd, state)
        return fd, format_address(state.family, remote)

    def listen(self, *backlog: int) -> None:
        """Once more, with another backlog."""
        state = state_of(self)
        if backlog:
            turning.check_backlog(backlog[0])
        size = max(0, backlog[0]) if backlog else 128
        if state.real is not None:
            state.real.listen(size)
        node.current.call(local.SetBacklog(state.id, size), local.Done)

    def shutdown(self, how: int) -> None:
        """As Linux: a listener that is shut down for reading listens no more."""
        state = state_of(self)
        if how in (_socket.SHUT_RD, _socket.SHUT_RDWR):
            for beside in (state.real, state.near):
                if beside is not None:
                    beside.shutdown(how)
            if state.near is None:
                turning.raw(self).shutdown(how)

    def _ntm_connect(self, address: Any) -> int:  # noqa: ARG002
        return errno.EISCONN


def _inherit(fd: int, listener: State) -> None:
    """Options of a listener are those of what it accepts."""
    if listener.options:
        near = _socket.socket(fileno=fd)
        options.apply_to_pair(near, listener.options)
        near.detach()


def _watch_no_more(epoll_fd: int, near: _socket.socket) -> None:
    """Take the near end out of the epoll set, which would be readable for ever."""
    epoll_class: Any = waiting.epoll
    # The object closes its descriptor; a copy stands for the same set.
    epoll = epoll_class.fromfd(os.dup(epoll_fd))
    epoll.unregister(near.fileno())
    epoll.close()


def _accept_real(real: _socket.socket) -> tuple[int, Any]:
    accepted: tuple[int, Any] = real._accept()  # type: ignore[attr-defined]  # of the C socket
    return accepted


register_mixin(Kind.LISTENER, ListeningSocket)
