"""Virtual TCP connections: the kernel moves the bytes, these methods find out why they stopped."""

from __future__ import annotations

import _socket
import errno
from typing import TYPE_CHECKING, Any, NoReturn

from ntmpatch.patch import node, turning, waiting
from ntmpatch.patch.addressing import format_address
from ntmpatch.patch.classes import register_mixin
from ntmpatch.patch.kinds import Kind
from ntmpatch.patch.virtual import VirtualSocket, refuse, state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ntmpatch.patch.table import State


_HOW = (_socket.SHUT_RD, _socket.SHUT_WR, _socket.SHUT_RDWR)


class StreamSocket(VirtualSocket):
    """An established connection. End of file and EPIPE may stand for an error of the stack.

    Urgent data (MSG_OOB) go in line, as RFC 6093 section 4 would have them read; the pair's own
    notion of them would take a byte out of the stream.
    """

    __slots__ = ()

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """As the kernel, with the stack's errno in place of an untimely end of file."""
        if flags and bufsize:
            self._ntm_check_flags(flags)
        try:
            data = super().recv(bufsize, flags)
        except ConnectionResetError:
            data = self._ntm_reset()
        if not data and bufsize:
            self._ntm_ended()
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As the kernel."""
        if flags and (nbytes or len(buffer)):
            self._ntm_check_flags(flags)
        try:
            size = super().recv_into(buffer, nbytes, flags)
        except ConnectionResetError:
            size = len(self._ntm_reset())
        if not size and (nbytes or len(buffer)):
            self._ntm_ended()
        return size

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """As the kernel: TCP tells no address here."""
        if flags:
            self._ntm_check_flags(flags)
        try:
            data, _ = super().recvfrom(bufsize, flags)
        except ConnectionResetError:
            data = self._ntm_reset()
        if not data and bufsize:
            self._ntm_ended()
        return data, None

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """As the kernel."""
        if flags:
            self._ntm_check_flags(flags)
        try:
            size, _ = super().recvfrom_into(buffer, nbytes, flags)
        except ConnectionResetError:
            size = len(self._ntm_reset())
        if not size and (nbytes or len(buffer)):
            self._ntm_ended()
        return size, None

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> Any:
        """As the kernel."""
        if flags:
            self._ntm_check_flags(flags)
        try:
            result = super().recvmsg(bufsize, ancbufsize, flags)
        except ConnectionResetError:
            result = self._ntm_reset(), [], 0, None
        if not result[0] and bufsize:
            self._ntm_ended()
        return (*result[:3], None)

    def recvmsg_into(self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0) -> Any:
        """As the kernel."""
        if flags:
            self._ntm_check_flags(flags)
        targets = list(buffers)
        try:
            result = super().recvmsg_into(targets, ancbufsize, flags)
        except ConnectionResetError:
            result = len(self._ntm_reset()), [], 0, None
        if not result[0] and any(map(len, targets)):
            self._ntm_ended()
        return (*result[:3], None)

    def send(self, data: Any, flags: int = 0, **timeout: Any) -> int:
        """As the kernel, with the stack's errno in place of EPIPE; gevent's takes a time-out."""
        try:
            return super().send(data, flags & ~_socket.MSG_OOB, **timeout)
        except BrokenPipeError:
            self._ntm_broken()

    def sendall(self, data: Any, flags: int = 0) -> None:
        """As the kernel."""
        try:
            return super().sendall(data, flags & ~_socket.MSG_OOB)
        except BrokenPipeError:
            self._ntm_broken()

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """As the kernel: the address of a datagram means nothing to a connection."""
        return self.send(data, flags_and_address[0] if len(flags_and_address) > 1 else 0)

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Any = (), flags: int = 0, address: Any = None
    ) -> int:
        """As the kernel: ancillary data and an address mean nothing to TCP."""
        self._ntm_judge_sendmsg(ancdata, flags, address)
        try:
            return super().sendmsg(buffers, (), flags & ~_socket.MSG_OOB)
        except BrokenPipeError:
            self._ntm_broken()

    def shutdown(self, how: int) -> None:
        """As the kernel; what has ended is connected no more."""
        state = state_of(self)
        if how in _HOW and self._ntm_is_over(state):
            refuse(errno.ENOTCONN)
        super().shutdown(how)
        state.is_shut_for_reading |= how != _socket.SHUT_WR
        state.is_shut_for_writing |= how != _socket.SHUT_RD

    def _ntm_is_over(self, state: State) -> bool:
        """Whether both directions have ended, and not by this program alone."""
        shut_by_us = state.is_shut_for_reading and state.is_shut_for_writing
        return not shut_by_us and waiting.look(state.fd)[1]

    def getpeername(self) -> Any:
        """ENOTCONN once both directions have ended, as in Linux."""
        if self._ntm_is_over(state_of(self)):
            refuse(errno.ENOTCONN)
        return super().getpeername()

    def _ntm_check_flags(self, flags: int) -> None:
        """Refuse what the pair takes for something else than TCP does."""
        state_of(self)
        if flags & _socket.MSG_ERRQUEUE:
            refuse(errno.EAGAIN)  # nothing is in it
        if flags & _socket.MSG_OOB:
            refuse(errno.EINVAL)  # all is in line

    # ---------------------------------------------------------------- why the bytes stopped

    def _ntm_pending(self, state: State) -> int:
        """The errno that ended the connection and was not told yet; the node is asked once."""
        if not state.told and waiting.look(state.fd)[1]:
            state.told = True
            state.error = turning.outcome(state)
        return state.error

    def _ntm_ended(self) -> None:
        """End of file: in order if the near end is still connected, else there may be an errno."""
        state = state_of(self)
        error = self._ntm_pending(state)
        # EPIPE: the far end had ended its stream before, so as in Linux that is what is read.
        if error and error != errno.EPIPE:
            state.error = 0
            refuse(error)

    def _ntm_reset(self) -> bytes:
        """The node closed with data unread, so the kernel says ECONNRESET: maybe it was not."""
        state = state_of(self)
        if not state.told and not self._ntm_pending(state):
            refuse(errno.ECONNRESET)
        return b""

    def _ntm_broken(self) -> NoReturn:
        """EPIPE: the first time after an error Linux tells the error."""
        state = state_of(self)
        error, state.error = self._ntm_pending(state), 0
        refuse(error or errno.EPIPE)

    def _ntm_take_error(self, state: State) -> int:
        error, state.error = self._ntm_pending(state), 0
        return error


class ConnectingSocket(StreamSocket):
    """A connection that is not known to be established yet; any use looks."""

    __slots__ = ()

    def _ntm_connect(self, address: Any) -> int:
        state = state_of(self)
        if state.failed and not state.error:
            # The failure was told: the socket is as new.
            turning.become_ordinary(self, state)
            return self.connect_ex(address)
        error = turning.poll_connect(self, state)
        if error == errno.EINPROGRESS:
            if self.gettimeout() == 0:
                return errno.EALREADY
            return turning.finish_connect(self, state, self.gettimeout())
        # As Linux: the call after a connect in the background tells once how it ended.
        state.error = 0
        return error

    def _ntm_settle(self, flags: int = 0) -> None:
        """Be established, or raise what the kernel would."""
        state = state_of(self)
        error = turning.poll_connect(self, state)
        if error == errno.EINPROGRESS:
            if self.gettimeout() == 0 or flags & _socket.MSG_DONTWAIT:
                refuse(errno.EAGAIN)
            error = turning.finish_connect(self, state, self.gettimeout())
        if error or state.failed:
            state.error = 0
            refuse(error or errno.ENOTCONN)

    def _ntm_take_error(self, state: State) -> int:
        error = turning.poll_connect(self, state)
        if error == errno.EINPROGRESS:
            return 0
        state.error = 0
        return error

    def getpeername(self) -> Any:
        """ENOTCONN until the connection is established."""
        state = state_of(self)
        if turning.poll_connect(self, state) or state.failed or state.remote is None:
            refuse(errno.ENOTCONN)
        return format_address(state.family, state.remote)

    def shutdown(self, how: int) -> None:
        """As Linux: a connection under way is not connected."""
        state = state_of(self)
        if turning.poll_connect(self, state) or state.failed:
            refuse(errno.ENOTCONN)
        super().shutdown(how)

    def bind(self, address: Any) -> None:
        """A socket whose connect() failed may be bound."""
        state = state_of(self)
        turning.poll_connect(self, state)
        if not state.failed:
            refuse(errno.EINVAL)
        turning.become_ordinary(self, state)
        self.bind(address)


def _settling(name: str) -> Callable[..., Any]:
    method = getattr(StreamSocket, name, None)

    def settled(self: ConnectingSocket, *arguments: Any, **keywords: Any) -> Any:
        flags = arguments[1] if len(arguments) > 1 and isinstance(arguments[1], int) else 0
        self._ntm_settle(flags)
        # The class is another one now.
        return getattr(self, name)(*arguments, **keywords)

    settled.__name__ = name
    settled.__doc__ = method.__doc__
    return settled


for _name in (
    "recv",
    "recv_into",
    "recvfrom",
    "recvfrom_into",
    "recvmsg",
    "recvmsg_into",
    "send",
    "sendall",
    "sendto",
    "sendmsg",
):
    setattr(ConnectingSocket, _name, _settling(_name))


class BoundSocket(VirtualSocket):
    """TCP, bound to a virtual address: it may connect or listen."""

    __slots__ = ()

    def listen(self, *backlog: int) -> None:
        """Become a listener."""
        turning.listen_bound(self, state_of(self), backlog[0] if backlog else 128)

    def _ntm_connect(self, address: Any) -> int:
        state = state_of(self)
        target = node.current.target(state.family, address)
        if target is None:
            # From a virtual address no real one is reached.
            return errno.ENETUNREACH
        state = turning.begin_connect(self, target)
        return turning.finish_connect(self, state, self.gettimeout())

    def recv(self, *_arguments: Any) -> bytes:
        """Not connected."""
        refuse(errno.ENOTCONN)

    recv_into = recvfrom = recvfrom_into = recvmsg = recvmsg_into = recv  # type: ignore[assignment]  # all refuse alike

    def send(self, *_arguments: Any) -> int:
        """Not connected."""
        refuse(errno.EPIPE)

    sendall = sendto = sendmsg = send  # type: ignore[assignment]  # all refuse alike

    def shutdown(self, how: int) -> None:  # noqa: ARG002
        """Not connected."""
        refuse(errno.ENOTCONN)

    def _ntm_take_error(self, state: State) -> int:  # noqa: ARG002
        return 0


register_mixin(Kind.STREAM, StreamSocket)
register_mixin(Kind.CONNECTING, ConnectingSocket)
register_mixin(Kind.BOUND, BoundSocket)
