"""Programs that keep what they were told, and a wire in the hands of a test.

What a program writes is a stream of its own, so that any byte that comes from elsewhere, twice or
out of order is found out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stack_sim import A4, A6, B4, B6

from ntmpatch.packet.stack import Stack
from ntmpatch.wire import icmp, ip
from ntmpatch.wire.segments import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ntmpatch.packet.stack import TcpConnection, UdpSocket

OWN = {"a": (A4, A6), "b": (B4, B6)}
MAX_UNDER_WAY = 3000
"""Packets on the wire; more are lost."""
MAX_TIMERS = 20_000
"""That may fall due while the test waits; a few thousand do."""
_CYCLE = 251 * 241


def stream(key: int, start: int, size: int) -> bytes:
    """Bytes ``start`` to ``start + size`` of an endless stream that only ``key`` has."""
    period = random.Random(key).randbytes(_CYCLE)
    offset = start % _CYCLE
    return (period * (size // _CYCLE + 2))[offset : offset + size]


class End:
    """One end of a connection: a handler, and what the test knows of it."""

    def __init__(self, key: int, now: Callable[[], float]) -> None:
        self.key = key
        self.now = now
        self.conn: TcpConnection | None = None
        self.written = 0
        self.is_ended = False
        """The program has ended its stream, so what it wrote is all there is."""
        self.is_closed = False
        """By its program: nothing may be delivered any more."""
        self.take_limit: int | None = None
        """Bytes taken by one ``deliver``; None: all, 0: it does not read."""
        self.received = bytearray()
        self.established_count = 0
        self.end_count = 0
        self.errors: list[int] = []
        self.reactions: dict[str, str] = {}
        """What the program calls from within a callback, once."""

    @property
    def flow(self) -> tuple[bytes, int, bytes, int]:
        assert self.conn is not None
        return (*self.conn.local, *self.conn.remote)

    def _react(self, callback: str) -> None:
        action = self.reactions.pop(callback, None)
        if action is not None and self.conn is not None:
            self.act(action)

    def act(self, action: str, size: int = 5000) -> None:
        """What a program can ask of its connection."""
        conn = self.conn
        assert conn is not None
        if action == "write":
            self._write(conn, size)
        elif action == "shutdown":
            self.is_ended = True
            conn.shutdown_write(self.now())
        elif action == "close":
            self.is_ended = self.is_closed = True
            conn.close(self.now())
        elif action == "abort":
            self.is_closed = True
            conn.abort(self.now())
        else:
            conn.resume(self.now())

    def _write(self, conn: TcpConnection, size: int) -> None:
        while size:
            space = conn.send_space()
            if not space:
                return
            part = stream(self.key, self.written, min(size, len(space)))
            space[: len(part)] = part
            self.written += len(part)
            size -= len(part)
            conn.commit(len(part), self.now())

    # --- what the stack calls ------------------------------------------------------------------

    def established(self) -> None:
        assert not self.established_count
        assert not self.errors
        self.established_count += 1
        self._react("established")

    def deliver(self, views: Sequence[memoryview]) -> int:
        assert self.established_count
        assert not self.errors
        assert not self.end_count, "data behind the end of the stream"
        assert not self.is_closed, "data for a program that has closed"
        data = b"".join(views)
        assert data
        assert all(views)
        taken = len(data) if self.take_limit is None else min(len(data), self.take_limit)
        self.received += data[:taken]
        self._react("deliver")
        return taken

    def end_of_stream(self) -> None:
        assert self.established_count
        assert not self.errors
        assert not self.end_count
        self.end_count += 1
        self._react("end_of_stream")

    def writable(self) -> None:
        assert self.established_count
        assert not self.errors
        self._react("writable")

    def closed(self, error: int) -> None:
        assert not self.errors
        self.errors.append(error)
        self._react("closed")


class Endpoint:
    """A UDP socket's handler: it holds every datagram against what was sent."""

    def __init__(self, sent: set[bytes]) -> None:
        self.socket: UdpSocket | None = None
        self.is_closed = False
        self.count = 0
        self._sent = sent

    def datagram(
        self, payload: memoryview, source: tuple[bytes, int], destination: tuple[bytes, int]
    ) -> None:
        assert not self.is_closed
        assert self.socket is not None
        assert self.socket.port == destination[1]
        assert self.socket.address in (None, destination[0])
        assert self.socket.remote in (None, source)
        assert label(source, destination) + payload in self._sent
        self.count += 1

    def error(self, error: int, remote: tuple[bytes, int]) -> None:
        assert not self.is_closed
        assert error > 0
        assert self.socket is not None
        assert self.socket.remote == remote


def label(source: tuple[bytes, int], destination: tuple[bytes, int]) -> bytes:
    """What a datagram's ends are called among those sent."""
    ports = source[1].to_bytes(2, "big") + destination[1].to_bytes(2, "big")
    return source[0] + destination[0] + ports


@dataclass
class Wire:
    """Two stacks, and packets between them that move when the test says so."""

    verify: bool
    max_mtu: int | None
    now: float = 100.0
    limit: int | None = None
    """Larger packets do not pass."""
    tells: bool = False
    """By Packet Too Big, in the destination's name."""
    refuses: bool = False
    """By ``packet_refused``, before they leave."""
    under_way: dict[str, list[bytes]] = field(default_factory=lambda: {"a": [], "b": []})
    """By sender, the oldest first."""

    def __post_init__(self) -> None:
        self.stacks = {name: self._stack(name) for name in OWN}
        self._scratch = memoryview(bytearray(1 << 18))

    def _stack(self, name: str) -> Stack:
        rng = random.Random(name)
        stack = Stack(rng=rng, now=self.now, max_mtu=self.max_mtu, secret=rng.randbytes(16))
        for address in OWN[name]:
            stack.add_address(address)
        return stack

    def transmit(self) -> None:
        """Put what the stacks have to send on the wire."""
        for name, stack in self.stacks.items():
            while (segment := stack.poll_transmit(self.now)) is not None:
                size = len(segment.header) + min(len(segment.payload), segment.segment_size)
                if self.refuses and self.limit is not None and size > self.limit:
                    stack.packet_refused(segment, self.now)
                    continue
                for packet in cut(segment, self._scratch, checksums=self.verify):
                    self._send(name, bytes(packet))

    def _send(self, name: str, packet: bytes) -> None:
        sent = self.under_way[name]
        if self.limit is None or len(packet) <= self.limit:
            sent.append(packet)
            del sent[MAX_UNDER_WAY:]
        elif self.tells:
            ends = ip.parse_untrusted(memoryview(packet))
            flow = ends.destination, ends.source
            error = icmp.build_packet_too_big(*flow, packet, self.limit)
            head = ip.build(*flow, icmp.protocol_of(flow[0]), len(error))
            self.under_way[other(name)].append(bytes(head + error))

    def deliver(self, sender: str, packets: Sequence[bytes]) -> None:
        """These arrive, in one batch."""
        views = [memoryview(packet) for packet in packets]
        stack = self.stacks[other(sender)]
        stack.receive(views, OWN[sender], self.now, verify=self.verify)

    def exchange(self, rounds: int) -> None:
        """All that is under way arrives, and what it causes, for so many times."""
        for _ in range(rounds):
            self.transmit()
            if not any(self.under_way.values()):
                return
            for sender in OWN:
                packets, self.under_way[sender] = self.under_way[sender], []
                self.deliver(sender, packets)
        self.transmit()

    def next_timeout(self) -> float | None:
        """When the first of the stacks wants to be called."""
        instants = [stack.poll_timeout() for stack in self.stacks.values()]
        return min((each for each in instants if each is not None), default=None)

    def advance(self, now: float) -> None:
        """It is ``now``: timers that are due run, each at its time."""
        for _ in range(MAX_TIMERS):
            due_at = self.next_timeout()
            if due_at is None or due_at > now:
                self.now = max(self.now, now)
                return
            self.now = max(self.now, due_at)
            for stack in self.stacks.values():
                stack.handle_timeout(self.now)
            self.transmit()
        raise AssertionError("timers that fall due without end")

    def settle(self, duration: float) -> None:
        """Nothing is lost or late while so much time passes."""
        end = self.now + duration
        for _ in range(MAX_TIMERS):
            self.exchange(10_000)
            due_at = self.next_timeout()
            if due_at is None or due_at > end:
                self.now = end
                return
            self.now = max(self.now, due_at)
            for stack in self.stacks.values():
                stack.handle_timeout(self.now)
        raise AssertionError("timers that fall due without end")


def other(name: str) -> str:
    """The far stack."""
    return "b" if name == "a" else "a"
