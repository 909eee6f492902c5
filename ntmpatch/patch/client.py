"""The program's side of the local control protocol: one call, one answer.

Where the node lives makes no difference here: ``attach`` gives a connected AF_UNIX descriptor,
made by the node of this process or by connecting to another process's control socket.
"""

from __future__ import annotations

import _socket
import array
import errno
import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from ntmpatch.patch import waiting
from ntmpatch.wire import local

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

R = TypeVar("R", bound=local.Record)

_MAX_IDLE_CONNECTIONS = 8


class NodeGoneError(OSError):
    """The node does not answer any more; ENETDOWN to whoever uses a socket."""

    def __init__(self) -> None:
        super().__init__(errno.ENETDOWN, os.strerror(errno.ENETDOWN))


class NodeClient:
    """Calls one node, from any thread or greenlet.

    Each call has a control connection to itself; idle ones are kept, last used first. A forked
    child makes a new client: a connection belongs to the process that opened it.
    """

    def __init__(self, attach: Callable[[], int]) -> None:
        self._attach = attach
        self._idle: deque[_socket.socket] = deque()
        self.welcome = self._open_first()

    def _open_first(self) -> local.Welcome:
        connection, welcome = self._open()
        self._idle.append(connection)
        return welcome

    def _open(self) -> tuple[_socket.socket, local.Welcome]:
        try:
            connection = _socket.socket(fileno=self._attach())
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NodeGoneError from error
        connection.setblocking(False)
        hello = local.Hello(local.VERSION, os.getpid())
        return connection, _expect(_exchange(connection, hello, ()), local.Welcome)

    def own_connection(self) -> Connection:
        """A control connection for somebody who asks long questions, and may give them up."""
        return Connection(self._open()[0])

    def refresh(self) -> local.Welcome:
        """Ask again who the node is: addresses come with its registration."""
        self.welcome = self.call(local.Hello(local.VERSION, os.getpid()), local.Welcome)
        return self.welcome

    def call(self, request: local.Record, kind: type[R], fds: Sequence[int] = ()) -> R:
        """Send ``request`` with ``fds`` and return the answer, which must be a ``kind``.

        OSError with the errno the node answered; ``socket.gaierror`` for a look-up;
        NodeGoneError if there is no node any more.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection, _ = self._open()
        try:
            answer = _exchange(connection, request, fds)
        except BaseException:
            # Interrupted between question and answer, the next caller must not read ours; and
            # where an idle connection has ended, so has its node, whoever may listen there now.
            connection.close()
            raise
        if len(self._idle) < _MAX_IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()
        return _expect(answer, kind)

    def close(self) -> None:
        """Drop the idle connections."""
        while self._idle:
            self._idle.pop().close()


class Connection:
    """One control connection, of one caller at a time; ``close`` also ends a call under way."""

    def __init__(self, connection: _socket.socket) -> None:
        self._socket = connection

    def call(self, request: local.Record, kind: type[R]) -> R:
        """As NodeClient's; NodeGoneError if it is closed meanwhile."""
        return _expect(_exchange(self._socket, request, ()), kind)

    def close(self) -> None:
        """Hang up. The descriptor is closed with the object: a thread may be waiting for it."""
        with suppress(OSError):
            self._socket.shutdown(_socket.SHUT_RDWR)


def _exchange(
    connection: _socket.socket, request: local.Record, fds: Sequence[int]
) -> local.AnyReply:
    record = local.encode(request)
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    fd = connection.fileno()
    while True:
        try:
            connection.sendmsg([record], ancillary)
            break
        except BlockingIOError:
            waiting.wait(fd, waiting.WRITE, None)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise NodeGoneError from error
    while True:
        # Waiting first: in every case the node must run before there is an answer.
        waiting.wait(fd, waiting.READ, None)
        try:
            answer = connection.recv(local.MAX_RECORD_SIZE)
            break
        except BlockingIOError:
            continue
        except ConnectionResetError as error:
            raise NodeGoneError from error
    if not answer:
        raise NodeGoneError
    reply: local.AnyReply = local.decode_reply(answer)
    return reply


def _expect(answer: local.AnyReply, kind: type[R]) -> R:
    if isinstance(answer, kind):
        return answer
    if isinstance(answer, local.Failed):
        raise OSError(answer.error, os.strerror(answer.error))
    if isinstance(answer, local.NameFailed):
        raise gaierror(answer.code)
    raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))


_GAI_MESSAGES = {
    # As gai_strerror() of glibc words them.
    _socket.EAI_AGAIN: "Temporary failure in name resolution",
    _socket.EAI_FAIL: "Non-recoverable failure in name resolution",
    _socket.EAI_NODATA: "No address associated with hostname",
    _socket.EAI_NONAME: "Name or service not known",
    _socket.EAI_ADDRFAMILY: "Address family for hostname not supported",
}


def gaierror(code: int) -> OSError:
    """``socket.gaierror`` with the system's words."""
    return _socket.gaierror(code, _GAI_MESSAGES.get(code, "Name or service not known"))


def connect_to(path: str) -> int:
    """Connect to a node's control socket; the descriptor. OSError if nobody listens there."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection.detach()
