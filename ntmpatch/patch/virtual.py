"""What all virtual sockets share: names, options, copies and closing."""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any, NoReturn

from ntmpatch.patch import classes, node, options, table, turning, waiting
from ntmpatch.patch.addressing import format_address
from ntmpatch.patch.kinds import Kind

if TYPE_CHECKING:
    from socket import socket as _Base  # noqa: N812  # stands for a class

    from ntmpatch.patch.table import State
else:
    _Base = object  # the class it is put above is known only when it is patched

_SOL_SOCKET = _socket.SOL_SOCKET
_LISTENING = (_SOL_SOCKET, _socket.SO_ACCEPTCONN)
_ERROR = (_SOL_SOCKET, _socket.SO_ERROR)
_IDENTITY = {
    (_SOL_SOCKET, _socket.SO_TYPE): "type",
    (_SOL_SOCKET, _socket.SO_DOMAIN): "family",
}


def state_of(socket: Any) -> State:
    """The state of a virtual socket; OSError(EBADF) if it is closed."""
    state = table.get(socket.fileno())
    if state is None:
        raise turning.os_error(errno.EBADF)
    return state


def refuse(error: int) -> NoReturn:
    """Raise an errno."""
    raise turning.os_error(error)


class VirtualSocket(_Base):
    """Above the patched class in the order of methods, below the application's own classes."""

    __slots__ = ()

    # ---------------------------------------------------------------------------------- names

    def getsockname(self) -> Any:
        """The local address, virtual where it is one."""
        state = state_of(self)
        if state.real is not None:
            return state.real.getsockname()
        return format_address(state.family, state.local)

    def getpeername(self) -> Any:
        """The other side's virtual address."""
        state = state_of(self)
        if state.remote is None or state.kind is Kind.CONNECTING:
            refuse(errno.ENOTCONN)
        return format_address(state.family, state.remote)

    # -------------------------------------------------------------------------------- options

    def getsockopt(self, level: int, optname: int, *buflen: int) -> Any:
        """As the kernel answers for a socket of this family and type."""
        state = state_of(self)
        key = (level, optname)
        size = buflen[0] if buflen else None
        if key == _ERROR:
            return options.as_asked(self._ntm_take_error(state), size)
        if key == options.INFO and state.kind in (Kind.STREAM, Kind.CONNECTING):
            return options.as_asked(self._ntm_info(state), size)
        is_of_family = level != _socket.IPPROTO_IPV6 or state.family == _socket.AF_INET6
        if key in options.OF_THE_PATH and state.kind is Kind.STREAM and is_of_family:
            at = options.OF_THE_PATH[key]
            return options.as_asked(self._ntm_info(state)[at : at + 4], size)
        if key == _LISTENING:
            return options.as_asked(int(state.kind is Kind.LISTENER), size)
        if key in _IDENTITY:
            return options.as_asked(int(getattr(state, _IDENTITY[key])), size)
        if key in state.options and key not in options.KEPT_BY_THE_PAIR:
            return options.as_asked(state.options[key], size)
        if key in options.KEPT_BY_THE_PAIR:
            return super().getsockopt(level, optname, *buflen)
        judge = state.real or options.scratch(state.family, state.type, state.proto)
        return judge.getsockopt(level, optname, *buflen)

    def setsockopt(self, level: int, optname: int, value: Any, *optlen: int) -> None:
        """As the kernel accepts it; what the stack heeds is told to the node."""
        from ntmpatch.wire.local import Done, SetOption  # noqa: PLC0415  # is loaded by now

        state = state_of(self)
        key = (level, optname)
        if key == options.V6ONLY and state.family == _socket.AF_INET6:
            refuse(errno.EINVAL)  # it is bound
        kept = options.check(state.family, state.type, state.proto, key, value, *optlen)
        if state.real is not None:
            state.real.setsockopt(level, optname, value, *optlen)
        if key in options.KEPT_BY_THE_PAIR or key == options.SEND_BUFFER:
            super().setsockopt(level, optname, value)
        state.options[key] = kept
        if options.is_for_the_node(key):
            try:
                node.current.call(SetOption(state.id, level, optname, kept), Done)
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    raise

    def _ntm_info(self, state: State) -> bytes:
        """TCP_INFO, which only the stack knows."""
        from ntmpatch.wire.local import Info, Inform  # noqa: PLC0415  # is loaded by now

        return node.current.call(Inform(state.id), Info).data

    def _ntm_take_error(self, state: State) -> int:
        """SO_ERROR: the pending error, which is pending no more."""
        return turning.outcome(state)

    # --------------------------------------------------------------------- entry points anew

    def bind(self, address: Any) -> None:  # noqa: ARG002  # of the socket's interface
        """A virtual socket is bound."""
        state_of(self)
        refuse(errno.EINVAL)

    def listen(self, *backlog: int) -> None:  # noqa: ARG002
        """Only bound and listening sockets of TCP listen."""
        is_stream = state_of(self).type == _socket.SOCK_STREAM
        refuse(errno.EINVAL if is_stream else errno.EOPNOTSUPP)

    def connect(self, address: Any) -> None:
        """By ``connect_ex``'s rules of the kind."""
        error = self._ntm_connect(address)
        if error:
            refuse(error)

    def connect_ex(self, address: Any) -> int:
        """The errno in place of the exception, except for names and types."""
        try:
            return self._ntm_connect(address)
        except TimeoutError:
            return errno.EAGAIN
        except _socket.gaierror:
            raise
        except OSError as error:
            return error.errno or errno.EIO

    def _ntm_connect(self, address: Any) -> int:  # noqa: ARG002
        state_of(self)
        return errno.EISCONN

    # ------------------------------------------------------------------------ copies and ends

    def dup(self) -> Any:
        """A second object and descriptor for the same socket."""
        state = state_of(self)
        fd = _socket.dup(state.fd)
        copy = type(self)(state.family, state.type, state.proto, fileno=fd)
        copy.settimeout(self.gettimeout())
        return copy

    def set_inheritable(self, inheritable: bool) -> None:
        """Of all that the socket consists of: a program executed in our place needs it."""
        super().set_inheritable(inheritable)
        state = state_of(self)
        for beside in (state.real, state.near):
            if beside is not None:
                os.set_inheritable(beside.fileno(), inheritable)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        """As multiprocessing sends sockets to other processes."""
        from ntmpatch.patch.passing import reduce_socket  # noqa: PLC0415  # rarely needed

        return reduce_socket(self, state_of(self))

    def detach(self) -> int:
        """The descriptor stays virtual: whoever makes a socket of it gets a virtual one."""
        state = table.get(self.fileno())
        if state is not None and state.owner is not None and state.owner() is turning.raw(self):
            state.owner = None
        return super().detach()

    def _real_close(self, *arguments: Any) -> None:
        state = table.get(self.fileno())
        if state is not None and (state.owner is None or state.owner() is turning.raw(self)):
            table.remove(state.fd)
        else:
            state = None
        super()._real_close(*arguments)  # type: ignore[misc]  # socket.socket's own hook
        if state is not None:
            state.release()

    def _ntm_judge(self, method: str, *arguments: Any) -> None:
        """Let the C method say what is wrong with arguments: on a socket that goes nowhere.

        TypeError, ValueError, OverflowError; whether the call would succeed does not matter.
        """
        state = state_of(self)
        judge = options.scratch(state.family, state.type, state.proto)
        with contextlib.suppress(OSError):
            getattr(judge, method)(*arguments)

    def _ntm_judge_sendmsg(self, ancdata: Any, flags: Any, address: Any) -> None:
        """As Linux, what cannot be sent here is ignored; what is no message at all is an error."""
        if ancdata or not isinstance(flags, int):
            self._ntm_judge("sendmsg", [], ancdata, flags)
        if address is not None and type(address) is not tuple:
            self._ntm_judge("sendmsg", [], (), 0, address)

    def _ntm_wait(self, events: int, flags: int, deadline: waiting.Deadline) -> None:
        """After EAGAIN on what lies behind an epoll set: wait, or raise it."""
        if self.gettimeout() == 0 or flags & _socket.MSG_DONTWAIT:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        deadline.wait(self.fileno(), events)


class InnerSocket(_Base):
    """The C socket inside gevent's, which gevent's servers use and close by itself."""

    __slots__ = ()

    def close(self) -> None:
        """What gevent's ``_real_close`` does not see."""
        state = table.get(self.fileno())
        if state is not None and (state.owner is None or state.owner() is self):
            table.remove(state.fd)
            super().close()
            state.release()
        else:
            super().close()


classes.register_inner_mixin(InnerSocket)
