"""Virtual TCP connections: the kernel moves the bytes, these methods find out why they stopped."""

from __future__ import annotations

import _socket
import errno
from typing import TYPE_CHECKING, Any, NoReturn

from ntmpatch.patch import node, polled, turning, waiting
from ntmpatch.patch.addressing import format_address
from ntmpatch.patch.classes import register_mixin
from ntmpatch.patch.kinds import Kind
from ntmpatch.patch.virtual import VirtualSocket, refuse, state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ntmpatch.patch.table import State


class StreamSocket(VirtualSocket):
    """An established connection. End of file and EPIPE may stand for an error of the stack.

    Urgent data (MSG_OOB) go in line, as RFC 6093 section 4 would have them read; the pair's own
    notion of them would take a byte out of the stream.
    """

    __slots__ = ()

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """As the kernel, with the stack's errno in place of an untimely end of file."""
        try:
            data = super().recv(bufsize, flags)
        except ConnectionResetError:
            self._ntm_reset()
        if not data and bufsize:
            self._ntm_ended()
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As the kernel."""
        try:
            size = super().recv_into(buffer, nbytes, flags)
        except ConnectionResetError:
            self._ntm_reset()
        if not size and (nbytes or len(buffer)):
            self._ntm_ended()
        return size

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """As the kernel: TCP tells no address here."""
        return self.recv(bufsize, flags), None

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """As the kernel."""
        return self.recv_into(buffer, nbytes, flags), None

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> Any:
        """As the kernel."""
        try:
            result = super().recvmsg(bufsize, ancbufsize, flags)
        except ConnectionResetError:
            self._ntm_reset()
        if not result[0] and bufsize:
            self._ntm_ended()
        return (*result[:3], None)

    def recvmsg_into(self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0) -> Any:
        """As the kernel."""
        targets = list(buffers)
        try:
            result = super().recvmsg_into(targets, ancbufsize, flags)
        except ConnectionResetError:
            self._ntm_reset()
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

    # ---------------------------------------------------------------- why the bytes stopped

    def _ntm_ended(self) -> None:
        """End of file: in order if the near end is still connected, else ask for an errno."""
        state = state_of(self)
        if state.told or not waiting.look(state.fd)[1]:
            return
        state.told = True
        error = turning.outcome(state)
        if error:
            refuse(error)

    def _ntm_reset(self) -> NoReturn:
        """The node closed with data unread, so the kernel says ECONNRESET: maybe it was not."""
        state = state_of(self)
        error = 0 if state.told else turning.outcome(state)
        state.told = True
        refuse(error or errno.ECONNRESET)

    def _ntm_broken(self) -> NoReturn:
        """EPIPE: the first time after an error Linux tells the error."""
        state = state_of(self)
        error = 0
        if not state.told and waiting.look(state.fd)[1]:
            state.told = True
            error = turning.outcome(state)
        refuse(error or errno.EPIPE)

    def _ntm_take_error(self, state: State) -> int:
        if state.told or not waiting.look(state.fd)[1]:
            return 0
        state.told = True
        return turning.outcome(state)


class ConnectingSocket(StreamSocket):
    """A connection that is not known to be established yet; any use looks."""

    __slots__ = ()

    def _ntm_connect(self, address: Any) -> int:
        state = state_of(self)
        if state.failed and not state.error:
            # The failure was told: the socket is as new.
            with polled.kept(state.fd):
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
        with polled.kept(state.fd):
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
