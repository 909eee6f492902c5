"""The node's door: programs' sockets come in here, from this process and from others.

Each control connection has a greenlet that serves one request after the other. Nothing of the
application runs here; of the program only descriptors and records arrive.
"""

from __future__ import annotations

import _socket
import array
import contextlib
import errno
import itertools
import logging
import os
from typing import TYPE_CHECKING, Any, Protocol

import gevent
import msgspec

from ntmpatch.runtime.forking import disown, own, release
from ntmpatch.runtime.pump import READ, Hangups
from ntmpatch.runtime.sockets import VirtualSockets
from ntmpatch.wire import local

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.base.drops import DropCounter
    from ntmpatch.packet.stack import Stack

log = logging.getLogger("ntmpatch.door")

_LISTEN_BACKLOG = 128
MAX_PATIENCE = 60.0
"""Seconds that a program's question may wait for an event: so long it may be gone unnoticed."""


class NameLookupError(Exception):
    """A look-up failed; ``code`` is one of getaddrinfo's (``EAI_NONAME``, ``EAI_AGAIN``, …)."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code


class NodeService(Protocol):
    """What the door needs of the node. All but ``post`` is called in the node's thread."""

    stack: Stack
    drops: DropCounter

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        """Call ``function`` in the node's thread soon; callable from any thread."""
        ...

    def now(self) -> float:
        """Monotonic seconds, as the stack counts them."""
        ...

    def flush(self) -> None:
        """Send what the stack has queued, and arm its timer; cheap when there is nothing."""
        ...

    def welcome(self) -> local.Welcome:
        """Who the node is now; the door fills in ``control_path``."""
        ...

    def resolve(self, name: str) -> local.Resolved:
        """Find a node by its normalised name; blocks the greenlet; raises NameLookupError."""
        ...

    def resolved(self, name: str) -> None:
        """The program has its answer to a ``resolve``: Fig. 3 (19), after which (20) follows."""
        ...

    def reverse_resolve(self, address: bytes) -> str | None:
        """The name of the node with a virtual address; may block the greenlet."""
        ...

    def status(self) -> dict[str, object]:
        """For ``ntmpatch status``: anything JSON can say."""
        ...

    def trace(self, name: str) -> dict[str, Any]:
        """For ``ntmpatch trace``; blocks the greenlet; raises NameLookupError, OSError."""
        ...

    def netcheck(self) -> dict[str, object]:
        """For ``ntmpatch netcheck``; blocks the greenlet; raises OSError."""
        ...

    def follow(self, after: int, patience: float) -> local.Events:
        """What happened behind an event; blocks the greenlet for ``patience`` seconds at most."""
        ...

    def rebind(self, addresses: tuple[str, ...]) -> None:
        """Move to these local addresses of the real network; OSError if it cannot."""
        ...

    def wake(self, payload: bytes) -> None:
        """Take a notification that came by another way than a connection; OSError if it is none."""
        ...


class Door:
    """Serves control connections; made, opened and closed in the node's thread."""

    def __init__(self, service: NodeService, *, control_path: str = "") -> None:
        self._service = service
        self._path = control_path
        self._hub: Any = gevent.get_hub()
        self._loop: Any = self._hub.loop
        self._listener: _socket.socket | None = None
        self._accepting: Any = None
        self._connections: dict[_socket.socket, Any] = {}
        self._arriving: set[_socket.socket] = set()
        self._closed = False
        self._hangups = Hangups(self._loop)
        self._ids = itertools.count(1)
        self.sockets = VirtualSockets(service, self._loop, self._hangups)
        self._handlers: dict[type[local.Record], Callable[[Any, list[int]], local.Record]] = {
            local.Hello: self._hello,
            local.Resolve: self._resolve,
            local.ReverseResolve: self._reverse_resolve,
            local.Connect: self.sockets.connect,
            local.Outcome: self.sockets.outcome,
            local.BindTcp: self.sockets.bind_tcp,
            local.Listen: self.sockets.listen,
            local.BindUdp: self.sockets.bind_udp,
            local.SendTo: self.sockets.send_to,
            local.SetOption: self.sockets.set_option,
            local.SetBacklog: self.sockets.set_backlog,
            local.Abort: self.sockets.abort,
            local.Describe: self.sockets.describe,
            local.Inform: self.sockets.inform,
            local.Status: self._status,
            local.Trace: self._trace,
            local.Netcheck: self._netcheck,
            local.Follow: self._follow,
            local.Rebind: self._rebind,
            local.Wake: self._wake,
        }

    # ------------------------------------------------------------------------- opening, closing

    def open(self) -> None:
        """Listen at ``control_path``, if there is one; the socket is its owner's alone."""
        if not self._path:
            return
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        listener.setblocking(False)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        # Linux takes the mode from the socket; the umask belongs to the application's threads too.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(self._path)
        listener.listen(_LISTEN_BACKLOG)
        own(listener)
        self._listener = listener
        self._accepting = self._loop.io(listener.fileno(), READ)
        self._accepting.start(self._accept)

    def attach(self) -> int:
        """Connect from this process, from any thread: the program's end of a control connection."""
        near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        own(far)
        self._arriving.add(far)
        self._service.post(self._adopt, far, True)
        if self._closed:
            # Nobody may be left to adopt it; whoever asks then sees it closed.
            self._turn_away()
        return near.detach()

    def _turn_away(self) -> None:
        while self._arriving:
            release(self._arriving.pop())

    def finish(self) -> None:
        """Admit nobody new, and take what the programs have written, before the end.

        The sockets of this process's program end as the kernel ends those of a process; programs
        elsewhere go on, and are to notice that they lost theirs.
        """
        self._stop_accepting()
        self.sockets.finish()

    def _stop_accepting(self) -> None:
        if self._listener is not None:
            self._accepting.stop()
            self._accepting.close()
            disown(self._listener)
            self._listener.close()
            self._listener = None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    def close(self) -> None:
        """Close every control connection and every virtual socket; in a greenlet, as it waits."""
        self._stop_accepting()
        self._closed = True
        self._turn_away()
        gevent.killall(list(self._connections.values()), timeout=1.0)
        self.sockets.close()
        self._hangups.close()

    # ----------------------------------------------------------------------- control connections

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                fd, _ = self._listener._accept()  # type: ignore[attr-defined]  # raw accept of _socket
                connection = _socket.socket(fileno=fd)
                own(connection)
                self._adopt(connection, False)

    def _adopt(self, connection: _socket.socket, is_ours: bool) -> None:
        self._arriving.discard(connection)
        if self._closed or connection.fileno() < 0:
            release(connection)
            return
        connection.setblocking(False)
        self._connections[connection] = gevent.spawn(self._serve, connection, is_ours)

    def _serve(self, connection: _socket.socket, is_ours: bool) -> None:
        readable = self._loop.io(connection.fileno(), READ)
        space = _socket.CMSG_SPACE(local.MAX_PASSED_FDS * array.array("i").itemsize)
        try:
            while True:
                try:
                    record, ancillary, _, _ = connection.recvmsg(
                        local.MAX_RECORD_SIZE, space, _socket.MSG_CMSG_CLOEXEC
                    )
                except BlockingIOError:
                    self._hub.wait(readable)
                    continue
                if not record:
                    return
                self.sockets.opens_for_us = is_ours
                answer = self._answer(record, _passed(ancillary))
                connection.send(local.encode(answer))
                if isinstance(answer, local.Resolved):
                    self._service.resolved(answer.canonical_name)
        except OSError as error:
            log.debug("a control connection ended: %s", error)
        finally:
            readable.stop()
            readable.close()
            release(connection)
            self._connections.pop(connection, None)

    def _answer(self, record: bytes, fds: list[int]) -> local.Record:
        """Handle one record; whatever descriptors are left in ``fds`` are closed."""
        try:
            request = local.decode_request(record)
            return self._handlers[type(request)](request, fds)
        except msgspec.DecodeError as error:
            return local.Failed(errno.EPROTO, f"not a request of this protocol: {error}")
        except NameLookupError as error:
            return local.NameFailed(error.code, str(error))
        except OSError as error:
            return local.Failed(error.errno or errno.EIO, str(error))
        except Exception:
            log.exception("a request failed")
            return local.Failed(errno.EIO, "the node failed; its log says why")
        finally:
            for fd in fds:
                _socket.close(fd)

    # ---------------------------------------------------------------- requests about the node

    def _hello(self, request: local.Hello, _fds: list[int]) -> local.Record:
        if request.version != local.VERSION:
            return local.Failed(
                errno.EPROTONOSUPPORT,
                f"the node speaks version {local.VERSION} of the local protocol, "
                f"the program version {request.version}",
            )
        return msgspec.structs.replace(self._service.welcome(), control_path=self._path)

    def _resolve(self, request: local.Resolve, _fds: list[int]) -> local.Record:
        return self._service.resolve(request.name)

    def _reverse_resolve(self, request: local.ReverseResolve, _fds: list[int]) -> local.Record:
        return local.Named(self._service.reverse_resolve(request.address))

    def _status(self, _request: local.Status, _fds: list[int]) -> local.Record:
        return local.Report(msgspec.json.encode(self._service.status()))

    def _trace(self, request: local.Trace, _fds: list[int]) -> local.Record:
        return local.Report(msgspec.json.encode(self._service.trace(request.name)))

    def _netcheck(self, _request: local.Netcheck, _fds: list[int]) -> local.Record:
        return local.Report(msgspec.json.encode(self._service.netcheck()))

    def _follow(self, request: local.Follow, _fds: list[int]) -> local.Record:
        patience = min(max(request.patience, 0.0), MAX_PATIENCE)
        return self._service.follow(request.after, patience)

    def _rebind(self, request: local.Rebind, _fds: list[int]) -> local.Record:
        self._service.rebind(request.addresses)
        return local.Done()

    def _wake(self, request: local.Wake, _fds: list[int]) -> local.Record:
        self._service.wake(request.payload)
        return local.Done()


def _passed(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)
