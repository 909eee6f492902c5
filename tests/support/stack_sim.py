"""Two stacks over a seeded network in virtual time: loss, reordering, duplication, rate, delay."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ntmpatch.packet.stack import Claim, Stack, TcpConnection
from ntmpatch.wire import icmp, ip
from ntmpatch.wire.checksum import finish, ones_sum
from ntmpatch.wire.segments import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

A4, B4 = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
A6, B6 = bytes.fromhex("fd" + "00" * 14 + "01"), bytes.fromhex("fd" + "00" * 14 + "02")


@dataclass
class Burst:
    """Gilbert and Elliott's channel: a good and a bad state, each packet may change it."""

    begins: float
    """Chance of a packet to find the channel turned bad."""
    ends: float
    loss: float = 0.7
    """Share of packets that are lost while it is bad."""
    is_bad: bool = False

    def loses(self, rng: random.Random) -> bool:
        """Whether the next packet is lost."""
        if rng.random() < (self.ends if self.is_bad else self.begins):
            self.is_bad = not self.is_bad
        return self.is_bad and rng.random() < self.loss


@dataclass
class Path:
    """One direction of the network."""

    delay: float = 0.02
    loss: float = 0.0
    burst: Burst | None = None
    """Losses that come together."""
    duplicate: float = 0.0
    reorder: float = 0.0
    """Share of packets that are late by up to three delays."""
    corrupt: float = 0.0
    mark: float = 0.0
    """Of what may be: with a mark of congestion (RFC 3168)."""
    """Share of packets with a changed byte; use with ``verify``."""
    rate: float = 0.0
    """Bytes a second; 0: unlimited."""
    queue_size: int = 64_000
    """Bytes that wait for the rate; more are dropped."""
    mtu: int = 65_535
    """Larger packets are dropped."""
    tells: bool = False
    """By Packet Too Big, in the destination's name."""


def _marked(packet: bytes) -> bytes:
    """As a router that is congested sends it on."""
    out = bytearray(packet)
    if ip.parse_untrusted(memoryview(out)).ecn == ip.NOT_ECT:
        return packet
    if out[0] >> 4 == 4:
        out[1] |= ip.CE
        out[10:12] = bytes(2)
        out[10:12] = finish(ones_sum(out[:20])).to_bytes(2)
    else:
        out[1] |= ip.CE << 4
    return bytes(out)


class Program:
    """A handler that keeps what it is told, and can send and refuse to read."""

    def __init__(self, sim: StackSim) -> None:
        self.sim = sim
        self.conn: TcpConnection | None = None
        self.received = bytearray()
        self.to_send = b""
        self.sent = 0
        self.ends_after_sending = False
        self.closes_at_end = False
        self.reads = True
        self.take_limit: int | None = None
        self.trickle: int | None = None
        """Takes so much at once, and comes back for more at once."""
        self.is_established = False
        self.eof = False
        self.errors: list[int] = []
        self.silence: dict[str, float] = {}
        """For how long nothing had arrived at a and b when the connection ended."""

    @property
    def ended(self) -> bool:
        return bool(self.errors)

    def established(self) -> None:
        self.is_established = True
        self.sim.soon(self.push)

    def deliver(self, views: Sequence[memoryview]) -> int:
        if not self.reads:
            return 0
        data = b"".join(views)
        if self.take_limit is not None:
            data = data[: self.take_limit]
        if self.trickle is not None and len(data) > self.trickle:
            data = data[: self.trickle]
            self.sim.soon(self.resume_if_reading)
        self.received += data
        return len(data)

    def end_of_stream(self) -> None:
        assert not self.eof
        self.eof = True
        self.sim.soon(self.close_if_done)

    def close_if_done(self) -> None:
        done = self.eof and self.sent == len(self.to_send) and not self.ends_after_sending
        if self.closes_at_end and done and self.conn is not None:
            self.conn.close(self.sim.now)

    def writable(self) -> None:
        self.sim.soon(self.push)

    def closed(self, error: int) -> None:
        assert not self.errors
        self.errors.append(error)
        self.silence = {name: self.sim.now - at for name, at in self.sim.heard_at.items()}

    def send(self, data: bytes, *, end: bool = False) -> None:
        self.to_send += data
        self.ends_after_sending = end
        self.push()

    def push(self) -> None:
        conn = self.conn
        if conn is None or not self.is_established or self.ended:
            return
        while self.sent < len(self.to_send):
            space = conn.send_space()
            if not space:
                return
            part = self.to_send[self.sent : self.sent + len(space)]
            space[: len(part)] = part
            conn.commit(len(part), self.sim.now)
            self.sent += len(part)
        if self.ends_after_sending:
            self.ends_after_sending = False
            conn.shutdown_write(self.sim.now)
        self.close_if_done()

    def resume_if_reading(self) -> None:
        if self.reads:
            self.resume()

    def resume(self) -> None:
        self.reads = True
        if self.conn is not None:
            self.conn.resume(self.sim.now)


class StackSim:
    """Stacks ``a`` and ``b``; ``forth`` is the path from a to b."""

    def __init__(
        self, seed: int = 0, *, mtu: int = 1376, max_mtu: int | None = None, verify: bool = False
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 100.0
        self.verify = verify
        self.forth = Path()
        self.back = Path()
        self._sizes = mtu, max_mtu
        self.a = self._stack(A4, A6)
        self.b = self._stack(B4, B6)
        self.wire: list[tuple[float, str, bytes]] = []
        """What was sent, by whom; kept while ``records`` is set."""
        self.records = False
        self.heard_at = {"a": self.now, "b": self.now}
        """When anything arrived."""
        self._busy = {"a": 0.0, "b": 0.0}
        self._queue: list[tuple[float, int, str, bytes]] = []
        self._calls: list[Callable[[], None]] = []
        self._count = 0
        self._scratch = memoryview(bytearray(1 << 18))

    def _stack(self, ipv4: bytes, ipv6: bytes) -> Stack:
        rng = random.Random(self.rng.random())
        mtu, max_mtu = self._sizes
        stack = Stack(rng=rng, now=self.now, mtu=mtu, max_mtu=max_mtu, secret=rng.randbytes(16))
        stack.add_address(ipv4)
        stack.add_address(ipv6)
        return stack

    def soon(self, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def connect(
        self, port: int = 80, *, ipv6: bool = False, listen: bool = True, **options: Any
    ) -> tuple[Program, Program]:
        """A program on a that connects, and the one on b that accepts."""
        client, server = Program(self), Program(self)

        def accept(conn: TcpConnection) -> Program:
            server.conn = conn
            return server

        if listen:
            family = 6 if ipv6 else 4
            self.b.listen_tcp(Claim((family,), None, port), backlog=8, accept=accept)
        remote = B6 if ipv6 else B4
        client.conn = self.a.connect_tcp(remote, port, client, self.now, **options)
        return client, server

    def run(self, duration: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; True as soon as ``until`` holds."""
        end = self.now + duration
        while True:
            self._settle()
            if until is not None and until():
                return True
            instants = [stack.poll_timeout() for stack in (self.a, self.b)]
            due = [instant for instant in instants if instant is not None]
            if self._queue:
                due.append(self._queue[0][0])
            at = min(due, default=None)
            if at is None or at > end:
                self.now = end
                return False
            self.now = max(self.now, at)
            for stack in (self.a, self.b):
                timeout = stack.poll_timeout()
                if timeout is not None and timeout <= self.now:
                    stack.handle_timeout(self.now)
            self._arrivals()

    def _arrivals(self) -> None:
        batches: dict[str, list[memoryview]] = {"a": [], "b": []}
        while self._queue and self._queue[0][0] <= self.now:
            _, _, sender, packet = heapq.heappop(self._queue)
            batches["b" if sender == "a" else "a"].append(memoryview(packet))
        for name, packets in batches.items():
            if packets:
                self.heard_at[name] = self.now
                stack, allowed = (self.a, (B4, B6)) if name == "a" else (self.b, (A4, A6))
                stack.receive(packets, allowed, self.now, verify=self.verify)

    def _settle(self) -> None:
        while True:
            calls, self._calls = self._calls, []
            for call in calls:
                call()
            for name, stack in (("a", self.a), ("b", self.b)):
                while (segment := stack.poll_transmit(self.now)) is not None:
                    for packet in cut(segment, self._scratch, checksums=self.verify):
                        self._send(name, bytes(packet))
            if not self._calls:
                return

    def _send(self, sender: str, packet: bytes) -> None:
        path = self.forth if sender == "a" else self.back
        rng = self.rng
        if self.records:
            self.wire.append((self.now, sender, packet))
        if rng.random() < path.loss or (path.burst is not None and path.burst.loses(rng)):
            return
        if len(packet) > path.mtu:
            if path.tells:
                ends = ip.parse_untrusted(memoryview(packet))
                flow = ends.destination, ends.source
                error = icmp.build_packet_too_big(*flow, packet, path.mtu)
                head = ip.build(*flow, icmp.protocol_of(flow[0]), len(error))
                self._push(self.now + path.delay, "b" if sender == "a" else "a", head + error)
            return
        at = self.now
        if path.rate:
            start = max(at, self._busy[sender])
            if (start - at) * path.rate > path.queue_size:
                return
            at = self._busy[sender] = start + len(packet) / path.rate
        at += path.delay
        if path.reorder and rng.random() < path.reorder:
            at += rng.random() * 3 * path.delay
        if path.mark and rng.random() < path.mark:
            packet = _marked(packet)
        if path.corrupt and rng.random() < path.corrupt:
            changed = bytearray(packet)
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            packet = bytes(changed)
        self._push(at, sender, packet)
        if rng.random() < path.duplicate:
            self._push(at + rng.random() * path.delay, sender, packet)

    def _push(self, at: float, sender: str, packet: bytes) -> None:
        self._count += 1
        heapq.heappush(self._queue, (at, self._count, sender, packet))
