"""One TCP connection's pump: bytes between the far end of a pair and the stack, without copies.

Flow control is the kernel's: what the program does not read stays in the pair, then in the stack's
receive buffer, and shrinks the window; what the stack cannot send yet stays unread in the pair.
"""

from __future__ import annotations

import _socket
import errno
from typing import TYPE_CHECKING, Any

from ntmpatch.runtime.forking import own, release
from ntmpatch.runtime.options import KEEPALIVE_DEFAULTS
from ntmpatch.runtime.pump import READ, WRITE, PumpHost, is_hung_up, is_readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.packet.stack import TcpConnection

_READS_A_WAKE_UP = 4
"""Bounds how long one sender holds the hub; the watcher is level-triggered, so nothing is lost."""

_MAX_VIEWS = 1024
"""UIO_MAXIOV of Linux: buffers in one sendmsg()."""


class TcpPump:
    """The stack's handler of one connection, and the owner of the far end ``far``."""

    def __init__(
        self, host: PumpHost, id_: int, far: _socket.socket, *, filler_size: int = 0
    ) -> None:
        far.setblocking(False)
        own(far)
        self.id = id_
        self.connection: TcpConnection | None = None
        self.resets_on_close = False
        """SO_LINGER with a time-out of zero: closing sends RST."""
        self.keepalive = KEEPALIVE_DEFAULTS
        """Idleness, interval and count to probe with, once SO_KEEPALIVE is on."""
        self._host = host
        self._far: _socket.socket | None = far
        self._filler_size = filler_size
        self._established = False
        self._finished_reading = False
        self._is_finishing = False
        self._read: Any = host.loop.io(far.fileno(), READ)
        self._write: Any = host.loop.io(far.fileno(), WRITE)

    def now(self) -> float:
        """Monotonic seconds, as the stack counts them."""
        return self._host.now()

    def confine(self, connection: TcpConnection, size: int) -> None:
        """SO_RCVBUF: no more than that is to wait for the program, here and in the stack."""
        if size < connection.receive_space.size:
            connection.receive_space.confine(size)
        if self._far is not None:
            self._far.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, size)

    def attach(self, connection: TcpConnection) -> None:
        """Set the connection; ``connect_tcp`` may have called back before it returned it."""
        self.connection = connection
        if self._far is None:
            return
        if self._established:
            self._read.start(self._readable)
        else:
            # The filler must stay unread, so only a hang-up is looked for.
            self._host.hangups.watch(self._far, self._hung_up)

    @property
    def is_pending(self) -> bool:
        """Whether the connection is still being established."""
        return not self._established and self._far is not None

    # -------------------------------------------------------------------- called by the stack

    def established(self) -> None:
        """Let the near end become writable, and read what the program writes."""
        if self._established or self._far is None:
            return
        self._established = True
        while self._filler_size > 0:
            self._filler_size -= len(self._far.recv(self._filler_size))
        self._host.hangups.forget(self._far)
        if self.connection is not None:
            self._read.start(self._readable)

    def deliver(self, views: Sequence[memoryview]) -> int:
        """Hand the program in-order data; returns how many bytes the pair took."""
        size = sum(map(len, views))
        far = self._far
        if far is None:
            return size
        try:
            taken = far.sendmsg(views[:_MAX_VIEWS])
        except BlockingIOError:
            taken = 0
        except OSError:
            # Closed, or shut down for reading: as Linux, take the data and forget it. A close is
            # seen by the reading side, which ends the connection.
            return size
        if taken < size:
            self._write.start(self._drained)
        return taken

    def end_of_stream(self) -> None:
        """FIN: the program reads end of file, and may go on writing."""
        if self._far is not None:
            try:
                self._far.shutdown(_socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    raise

    def writable(self) -> None:
        """The send buffer has room again."""
        if self._far is not None and self._established and not self._finished_reading:
            self._read.start(self._readable)

    def closed(self, error: int) -> None:
        """The connection is no more; the program finds ``error`` by asking for the outcome."""
        # Where the program has closed, nobody can ask.
        if error and self._far is not None and not is_hung_up(self._far):
            self._host.failed(self.id, error)
        self._release()

    # ---------------------------------------------------------------------- called by the hub

    def _readable(self) -> None:
        connection = self.connection
        assert connection is not None
        host = self._host
        now = host.now()
        for _ in range(_READS_A_WAKE_UP):
            far = self._far
            if far is None:
                break
            space = connection.send_space()
            room = len(space)
            if not room:
                self._read.stop()  # until writable()
                break
            try:
                size = far.recv_into(space)
            except BlockingIOError:
                break
            except ConnectionResetError:
                # The program closed with data unread, which Linux answers by RST as well
                # (RFC 2525, section 2.17).
                self.abort()
                break
            if not size:
                self._program_ended(far, now)
                break
            connection.commit(size, now)
            if size < room:
                break
        if self.is_finishing and self._far is not None and not is_readable(self._far):
            self._program_closed(now)  # no event will tell: its end is still open
        host.flush()

    def _drained(self) -> None:
        self._write.stop()
        if self.connection is not None:
            self.connection.resume(self._host.now())
            self._host.flush()

    def _program_ended(self, far: _socket.socket, now: float) -> None:
        assert self.connection is not None
        self._finished_reading = True
        self._read.stop()
        if is_hung_up(far):
            self._program_closed(now)
        else:
            self._host.hangups.watch(far, self._hung_up)
            self.connection.shutdown_write(now)

    def _hung_up(self) -> None:
        self._program_closed(self._host.now())
        self._host.flush()

    def _program_closed(self, now: float) -> None:
        assert self._far is not None
        left_unread = self._far.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        self._release()
        if self.connection is None:
            return
        if self.resets_on_close or left_unread:
            self.connection.abort(now)
        else:
            self.connection.close(now)

    # ------------------------------------------------------------------------------- endings

    @property
    def is_finishing(self) -> bool:
        """Whether the program may have written what has not been taken yet."""
        return self._is_finishing and self._far is not None

    def finish(self) -> None:
        """The program's process ends: take all that it has written, then close."""
        self._is_finishing = True
        if self._far is None:
            return
        if not self._established:
            self.abort()
        elif self._finished_reading:
            self._program_closed(self._host.now())
        else:
            self._readable()

    def drain(self) -> None:
        """Take what the program has written so far: it may be about to end."""
        if self._far is not None and self._established and not self._finished_reading:
            self._readable()

    def abort(self) -> None:
        """Close both ends at once: RST to the other side; the caller flushes."""
        self._release()
        if self.connection is not None:
            self.connection.abort(self._host.now())

    def _release(self) -> None:
        far, self._far = self._far, None
        if far is None:
            return
        for watcher in (self._read, self._write):
            watcher.stop()
            watcher.close()
        self._host.hangups.forget(far)
        release(far)
        self._host.ended(self.id)
