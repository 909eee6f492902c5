"""One listening socket's pump: accepted connections travel to the program as passed descriptors.

So ``accept()`` works in every process that inherited the listener: whoever receives the record
has the connection.
"""

from __future__ import annotations

import _socket
import array
import fcntl
import sys
import termios
from collections import deque
from typing import TYPE_CHECKING, Any

from ntmpatch.runtime.forking import own, release
from ntmpatch.runtime.pump import READ, WRITE, PumpHost, is_hung_up
from ntmpatch.wire.local import pack_accepted

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.packet.stack import TcpConnection, TcpListener
    from ntmpatch.runtime.pump_tcp import TcpPump


class ListenerPump:
    """Passes what the stack's listener accepts into ``far``."""

    def __init__(
        self,
        host: PumpHost,
        id_: int,
        far: _socket.socket,
        *,
        adopt: Callable[[TcpConnection, int, _socket.socket, ListenerPump], TcpPump],
    ) -> None:
        far.setblocking(False)
        own(far)
        self.id = id_
        self._host = host
        self._far: _socket.socket | None = far
        self._adopt = adopt
        self._group: ListenerGroup | None = None
        self._waiting: deque[tuple[bytes, int]] = deque()
        """Header and near end of what the pair had no room for."""
        self._record_cost = 1
        """What the kernel counts for one record on its way."""
        self._read: Any = host.loop.io(far.fileno(), READ)
        self._read.start(self._program_ended)
        self._write: Any = host.loop.io(far.fileno(), WRITE)

    def attach(self, group: ListenerGroup) -> None:
        """Whose pump it is."""
        self._group = group

    def accept(self, connection: TcpConnection) -> TcpPump:
        """The stack's callback: make the pair, pass its near end, pump its far end."""
        near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        pump = self._adopt(connection, near.fileno(), far, self)
        header = pack_accepted(pump.id, connection.remote, connection.local)
        self._waiting.append((header, near.detach()))
        self._pass_on()
        return pump

    def count_unaccepted(self) -> int:
        """How many connections the program has not accepted: those in the pair, and those here."""
        self.close_if_ended()
        return len(self._waiting) + -(-self._in_pair() // self._record_cost)

    def _in_pair(self) -> int:
        """Of what was sent into the pair and not received, as the kernel counts it."""
        if self._far is None:
            return 0
        size = bytearray(4)
        fcntl.ioctl(self._far, termios.TIOCOUTQ, size)
        return int.from_bytes(size, sys.byteorder)

    def set_backlog(self, backlog: int) -> None:
        """Change how many connections may wait in the stack."""
        if self._group is not None:
            self._group.listener.backlog = backlog

    def _pass_on(self) -> None:
        far = self._far
        waiting = self._waiting
        while waiting:
            header, near = waiting[0]
            rights = array.array("i", [near])
            if far is not None:
                before = self._in_pair()
                try:
                    far.sendmsg([header], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
                except BlockingIOError:
                    self._write.start(self._pass_on)
                    return
                except OSError:
                    # ETOOMANYREFS or a program that closed: the connection ends with its near end.
                    pass
                # All are of one size; the program may have received some meanwhile.
                self._record_cost = max(self._record_cost, self._in_pair() - before)
            waiting.popleft()
            _socket.close(near)
        if far is not None:
            self._write.stop()

    def _program_ended(self) -> None:
        """The program never writes here, so a readable far end is a closed listener."""
        self.close()
        self._host.flush()

    def close_if_ended(self) -> None:
        """Without waiting for the loop to tell."""
        if self._far is not None and is_hung_up(self._far):
            self.close()

    def close(self) -> None:
        """Listen no more; what was not accepted is reset by its own pump."""
        far, self._far = self._far, None
        if far is None:
            return
        for watcher in (self._read, self._write):
            watcher.stop()
            watcher.close()
        if self._group is not None:
            self._group.leave(self)
        release(far)
        self._pass_on()
        self._host.ended(self.id)


class ListenerGroup:
    """A listener of the stack, and the programs' sockets that take its connections.

    There is one such socket, unless processes have copies of one that was bound, and each of them
    listens.
    """

    def __init__(self, pump: ListenerPump) -> None:
        self.listener: TcpListener
        self._pumps = [pump]

    def attach(self, listener: TcpListener) -> None:
        """Whose group it is; the first pump listens from now on."""
        self.listener = listener
        listener.count_unaccepted = self.count_unaccepted
        self._pumps[0].attach(self)

    def join(self, pump: ListenerPump) -> None:
        """Another process listens too."""
        self._pumps.append(pump)
        pump.attach(self)

    def leave(self, pump: ListenerPump) -> None:
        """A process listens no more; the last one ends the listener."""
        self._pumps.remove(pump)
        if not self._pumps:
            self.listener.close()

    @property
    def is_over(self) -> bool:
        """Whether nobody is left who takes connections."""
        return not self._pumps

    def close_if_ended(self) -> None:
        """Without waiting for the loop to tell."""
        for pump in list(self._pumps):
            pump.close_if_ended()

    def accept(self, connection: TcpConnection) -> TcpPump:
        """The stack's callback: whoever has the fewest connections before him, turn about."""
        pumps = list(self._pumps)
        if len(pumps) == 1:
            return pumps[0].accept(connection)
        counts = {pump: pump.count_unaccepted() for pump in pumps}
        # Counting notices who has ended.
        chosen = min(self._pumps or pumps, key=counts.__getitem__)
        if chosen in self._pumps:
            self._pumps.remove(chosen)
            self._pumps.append(chosen)
        return chosen.accept(connection)

    def count_unaccepted(self) -> int:
        """How many connections no program has accepted."""
        return sum(pump.count_unaccepted() for pump in list(self._pumps))
