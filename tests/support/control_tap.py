"""What a program and its node say to each other: records of the local protocol, with their times.

The node's control socket is given another place, where the tap listens and hands everything on,
descriptors included. So Fig. 3 (1) and (19), which never leave the host, are seen at the boundary
between the program and the node, by the same clock as what is recorded of the network.
"""

from __future__ import annotations

import array
import selectors
import shutil
import socket
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple

from ntmpatch.runtime.state import CONTROL_SOCKET, ENROLMENT, NAMES, PRIVATE_KEY
from ntmpatch.wire import local

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


SO_TIMESTAMPNS = 35
"""Linux stamps records of AF_UNIX as they are sent; the stamp comes as ancillary data."""
_TIMESPEC = struct.Struct("@qq")
_ANCILLARY_SIZE = socket.CMSG_SPACE(_TIMESPEC.size) + socket.CMSG_SPACE(4 * local.MAX_PASSED_FDS)


class Spoken(NamedTuple):
    """One record; ``at`` is when it was sent, by the kernel, in seconds since 1970."""

    at: float
    record: local.Record


class ControlTap:
    """A state directory ``path`` whose control socket leads to the node of ``node_state``."""

    def __init__(self, node_state: Path, path: Path) -> None:
        self.path = path
        self.spoken: list[Spoken] = []
        self._node_socket = str(node_state / CONTROL_SOCKET)
        path.mkdir(mode=0o700)
        for name in (ENROLMENT, NAMES, PRIVATE_KEY):
            shutil.copy2(node_state / name, path / name)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path / CONTROL_SOCKET))
        self._listener.listen()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._far: dict[socket.socket, socket.socket] = {}
        self._from_program: set[socket.socket] = set()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ControlTap:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()
        for connection in [self._listener, *self._far]:
            connection.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            for key, _ in self._selector.select(0.1):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if connection is self._listener:
                    self._accept()
                elif connection in self._far:
                    self._hand_on(connection)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        far.connect(self._node_socket)
        self._far |= {near: far, far: near}
        self._from_program.add(near)
        for connection in (near, far):
            connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self._selector.register(connection, selectors.EVENT_READ)

    def _hand_on(self, connection: socket.socket) -> None:
        far = self._far[connection]
        try:
            record, ancillary, _, _ = connection.recvmsg(local.MAX_RECORD_SIZE, _ANCILLARY_SIZE)
        except ConnectionResetError:
            record, ancillary = b"", []
        fds = array.array("i")
        at = 0.0
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data)
            elif (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                seconds, nanoseconds = _TIMESPEC.unpack(data)
                at = seconds + nanoseconds / 1e9
        if not record:
            for each in (connection, far):
                self._selector.unregister(each)
                del self._far[each]
                each.close()
            return
        decode = local.decode_request if connection in self._from_program else local.decode_reply
        self.spoken.append(Spoken(at, decode(record)))
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        far.sendmsg([record], passed)
        for fd in fds:
            socket.close(fd)
