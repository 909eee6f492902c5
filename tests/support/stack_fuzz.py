"""Bytes as a program against one stack: packets made from them, time, and calls of its user.

``play`` is what a fuzzer calls. Whatever the bytes say, nothing may be raised, all that is sent
must parse, the books must be right after each step, and at the end nothing may be left.
"""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING

from stack_books import check_books, check_empty
from stack_packets import FAR_PORT, PORT, Bytes, Forge

from ntmpatch.packet.stack import Claim, Stack
from ntmpatch.wire import icmp, ip, tcp, udp
from ntmpatch.wire.checksum import is_valid
from ntmpatch.wire.segments import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ntmpatch.packet.stack import TcpConnection, TcpListener, UdpSocket

MAX_STEPS = 150
MAX_RUNDOWN = 2000
"""Timers that may fall due after all was closed."""
HELD_LIMIT = 4 << 20
"""Bytes: more than one program of ``MAX_STEPS`` packets could ever make the stack hold."""
_EXPECTED = (
    errno.EADDRINUSE,
    errno.EADDRNOTAVAIL,
    errno.EMSGSIZE,
    errno.ENOBUFS,
)
_WAITS = (0.0, 0.001, 0.04, 0.2, 1.0, 3.0, 61.0, 1000.0)


class Program:
    """A handler that may take little, and calls back."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.conn: TcpConnection | None = None
        self.is_up = False
        self.is_ended = False
        self.is_told = False
        self.take_limit = 1 << 20
        self.reaction: int | None = None

    def _react(self) -> None:
        kind, self.reaction = self.reaction, None
        if kind is not None and self.conn is not None:
            self.world.call(self.conn, kind, 3000)

    def established(self) -> None:
        assert not self.is_up
        self.is_up = True
        self._react()

    def deliver(self, views: Sequence[memoryview]) -> int:
        assert self.is_up
        assert not self.is_told
        assert not self.is_ended
        assert all(views)
        taken = min(sum(map(len, views)), self.take_limit)
        self._react()
        return taken

    def end_of_stream(self) -> None:
        assert not self.is_ended
        assert not self.is_told
        self.is_ended = True
        self._react()

    def writable(self) -> None:
        assert self.is_up
        assert not self.is_told
        self._react()

    def closed(self, error: int) -> None:
        assert not self.is_told
        assert error >= 0
        self.is_told = True
        self._react()

    def datagram(
        self, payload: memoryview, source: tuple[bytes, int], destination: tuple[bytes, int]
    ) -> None:
        assert len(payload) <= udp.MAX_PAYLOAD_SIZE
        assert len(source[0]) == len(destination[0])

    def error(self, error: int, remote: tuple[bytes, int]) -> None:
        assert error > 0
        assert remote


class World:
    """One stack, what its user holds of it, and the bytes that decide what happens."""

    def __init__(self, data: bytes) -> None:
        self.bytes = Bytes(data)
        settings = self.bytes.byte()
        self.verify = bool(settings & 1)
        family = 6 if settings & 2 else 4
        self.now = 100.0
        rng = random.Random(1)
        self.stack = Stack(
            rng=rng,
            now=self.now,
            max_mtu=9000 if settings & 4 else None,
            secret=bytes(16),
        )
        self.forge = Forge(self.bytes, family=family, verify=self.verify)
        self.stack.add_address(self.forge.here)
        if settings & 8:
            self.stack.tcp.budget.limit = 3000
        self.programs: list[Program] = []
        self.listeners: list[TcpListener] = []
        self.sockets: list[UdpSocket] = []
        self.batch: list[memoryview] = []
        self._scratch = memoryview(bytearray(1 << 18))
        self.listen(backlog=0 if settings & 16 else 2)
        self.bind(PORT)
        self.connect()
        self.settle()
        if settings & 32:  # that connection stands
            self.receive(self.forge.answer())
        if settings & 64:  # and one that came in
            self.receive(self.forge.syn())
            self.receive(self.forge.answer())

    def conns(self) -> list[TcpConnection]:
        """All that handlers were given, and those half open."""
        known = dict.fromkeys(each.conn for each in self.programs if each.conn is not None)
        return [*known, *(each for each in self.stack.tcp.connections if each not in known)]

    # --- the stack's user ----------------------------------------------------------------------

    def accept(self, conn: TcpConnection) -> Program:
        program = Program(self)
        program.conn = conn
        self.programs.append(program)
        return program

    def listen(self, backlog: int) -> None:
        self.listeners.append(
            self.stack.listen_tcp(
                Claim((self.forge.family,), None, PORT, reuse_port=True),
                backlog=backlog,
                accept=self.accept,
            )
        )

    def bind(self, port: int) -> None:
        socket = self.stack.bind_udp(Claim((self.forge.family,), None, port), Program(self))
        self.sockets.append(socket)

    def connect(self) -> None:
        program = Program(self)
        program.conn = self.stack.connect_tcp(self.forge.there, FAR_PORT, program, self.now)
        self.programs.append(program)

    def call(self, conn: TcpConnection, kind: int, size: int) -> None:
        """One of what a program may ask of its connection."""
        now = self.now
        calls: tuple[Callable[[], object], ...] = (
            lambda: self.write(conn, size),
            lambda: self.write(conn, size * 16),
            lambda: conn.resume(now),
            lambda: conn.shutdown_write(now),
            lambda: conn.close(now),
            lambda: conn.abort(now),
            lambda: conn.set_nodelay(on=bool(size & 1)),
            lambda: conn.set_cork(on=bool(size & 1)),
            lambda: conn.set_keepalive((5.0, 1.0, 2) if size & 1 else None, now),
            lambda: conn.set_user_timeout(size / 100, now),
            lambda: conn.set_linger(0.0 if size & 1 else None),
        )
        calls[kind % len(calls)]()

    def write(self, conn: TcpConnection, size: int) -> None:
        while size and (space := conn.send_space()):
            part = min(size, len(space))
            conn.commit(part, self.now)
            size -= part

    # --- packets and time ------------------------------------------------------------------------

    def receive(self, packet: bytes) -> None:
        self.stack.receive([memoryview(packet)], (self.forge.there,), self.now, verify=self.verify)
        self.settle()

    def settle(self, *, refuses: bool = False) -> None:
        """Take what the stack sends, and see that it is well made."""
        while (segment := self.stack.poll_transmit(self.now)) is not None:
            if refuses:
                self.stack.packet_refused(segment, self.now)
                continue
            for packet in cut(segment, self._scratch, checksums=True):
                self.check_sent(packet)

    def check_sent(self, packet: memoryview) -> None:
        parsed = ip.parse_untrusted(packet)
        assert len(packet) <= 9000
        assert parsed.destination == self.forge.there
        if parsed.is_fragment:
            return
        payload, flow = parsed.payload, parsed.source + parsed.destination
        if parsed.protocol == ip.TCP:
            assert is_valid(flow, ip.TCP, payload)
            segment = tcp.parse_untrusted(payload)
            segment.payload = []
            self.forge.last = segment
        elif parsed.protocol == ip.UDP:
            udp.parse_untrusted(payload, parsed.source, parsed.destination, verify=True)
        else:
            icmp.parse_untrusted(payload, parsed.source, parsed.destination, verify=True)

    def pass_time(self, seconds: float | None) -> None:
        """So many seconds, or until the next timer."""
        due_at = self.stack.poll_timeout()
        if seconds is None:
            if due_at is None:
                return
            self.now = max(self.now, due_at)
        else:
            self.now += seconds
        self.stack.handle_timeout(self.now)

    # --- one step --------------------------------------------------------------------------------

    def step(self) -> None:
        """Most are packets; those that follow each other may come in one batch."""
        kind = self.bytes.byte()
        if kind < 170:
            packets = self.forge.packets(kind, self.conns())
            self.batch += [memoryview(packet) for packet in packets]
            if kind & 1 and len(self.batch) < 64:
                return
            batch, self.batch = self.batch, []
            self.stack.receive(batch, (self.forge.there,), self.now, verify=self.verify)
        elif kind < 195:
            index = kind % (len(_WAITS) + 1)
            self.pass_time(_WAITS[index] if index < len(_WAITS) else None)
        elif kind < 240 and self.programs:
            program = self.programs[self.bytes.byte() % len(self.programs)]
            what, size = self.bytes.byte(), self.bytes.word()
            if what & 128:
                program.reaction = what
            elif what & 64:
                program.take_limit = size if what & 1 else 1 << 20
            elif program.conn is not None:
                self.call(program.conn, what, size)
        else:
            self.of_the_stack(kind)
        self.settle(refuses=kind == 255)

    def of_the_stack(self, kind: int) -> None:
        """A call of the stack, or of a socket or listener."""
        stack, now, there = self.stack, self.now, self.forge.there
        try:
            match kind & 15:
                case 0:
                    stack.path_changed(there, now)
                case 1:
                    stack.host_unreachable(there, now)
                case 2:
                    stack.remove_address(self.forge.here)
                case 3 | 4:
                    stack.add_address(self.forge.here)
                case 5:
                    self.listen(self.bytes.byte() % 4)
                case 6 if self.listeners:
                    self.listeners.pop().close()
                case 7 | 8 if len(self.programs) < 20:
                    self.connect()
                case 9:
                    self.bind(self.bytes.byte() % 3 * PORT)
                case 10 if self.sockets:
                    self.sockets.pop().close()
                case 11 if self.sockets:
                    self.sockets[-1].connect((there, FAR_PORT))
                case _ if self.sockets:
                    payload = bytes(self.bytes.word())
                    self.sockets[-1].send_to(payload, (there, FAR_PORT), now)
        except OSError as error:
            if error.errno not in _EXPECTED:
                raise

    def check(self) -> None:
        """Between two steps."""
        check_books(self.stack, self.conns())
        assert self.stack.tcp.budget.held <= HELD_LIMIT
        for program in self.programs:
            conn = program.conn
            if conn is not None and conn.done and conn.waiting is None and not conn.abandoned:
                assert program.is_told

    def end(self) -> None:
        """Everything is closed, and time runs until nothing is left to wait for."""
        for conn in self.conns():
            conn.abort(self.now)
        for each in self._closables():
            each()
        self.settle()
        assert self.stack.tcp.connections == []
        for _ in range(MAX_RUNDOWN):
            if self.stack.poll_timeout() is None:
                break
            self.pass_time(None)
            self.settle()
        check_books(self.stack, self.conns())
        check_empty(self.stack)

    def _closables(self) -> Iterator[Callable[[], None]]:
        for each in self.listeners:
            yield each.close
        for socket in self.sockets:
            yield socket.close


def play(data: bytes) -> None:
    """Play one input to its end; an exception is a finding."""
    world = World(data)
    for _ in range(MAX_STEPS):
        if world.bytes.is_empty:
            break
        world.step()
        world.check()
    world.end()
