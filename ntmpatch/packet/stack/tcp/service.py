"""TCP of one stack: connections and listeners, their timers, and what has to be sent."""

from __future__ import annotations

import errno
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop
from ntmpatch.base.timers import TimerQueue
from ntmpatch.packet.stack.pathsearch import MIN_MTU
from ntmpatch.packet.stack.ports import Claim, PortTable, Use, family_of, os_error
from ntmpatch.packet.stack.tcp.autotune import WINDOW_SCALE, Budget
from ntmpatch.packet.stack.tcp.connection import TcpConnection, Timer
from ntmpatch.packet.stack.tcp.cookies import SynCookies
from ntmpatch.packet.stack.tcp.input import segment_arrives
from ntmpatch.packet.stack.tcp.isn import initial_sequence
from ntmpatch.packet.stack.tcp.listener import ListenerTable, TcpListener
from ntmpatch.packet.stack.tcp.output import tail, transmit
from ntmpatch.packet.stack.tcp.passive import must_wait, open_by_cookie, open_passively
from ntmpatch.packet.stack.tcp.sendbuffer import RingPool
from ntmpatch.packet.stack.tcp.states import RESETTING, SYNCHRONISED, State
from ntmpatch.packet.stack.tcp.timeouts import (
    keepalive_timeout,
    path_changed,
    reordering_timeout,
    retransmission_timeout,
)
from ntmpatch.wire import ip, tcp
from ntmpatch.wire.segments import SuperSegment

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from ntmpatch.base.drops import DropCounter
    from ntmpatch.packet.stack.access import AccessTable
    from ntmpatch.packet.stack.handlers import TcpHandler
    from ntmpatch.packet.stack.pathmtu import PathMtuService
    from ntmpatch.wire.tcp import Segment

TIME_WAIT_TIMEOUT = 60.0
FIN_WAIT_2_TIMEOUT = 60.0
"""Of a connection that the program has closed (Linux's tcp_fin_timeout)."""

MIN_TIMEOUT = 0.001
MAX_CONNECTIONS = 65536
CHALLENGE_RATE = 100
"""Challenge ACKs a second (RFC 5961 section 10)."""

YOUNG_SIZE = 16 * 1460
"""Bytes after which acknowledgments are delayed: at first each helps the window to grow."""

TCP_HEADER_SIZE = 20

SUSPICIOUS_TIMEOUTS = 2
"""In a row of full segments, until the path's MTU is in doubt (RFC 4821 section 7.7)."""


_Flow = tuple[bytes, int, bytes, int]


class TcpService:
    """Everything TCP; ``emit`` queues a packet that belongs to no connection."""

    window_scale = WINDOW_SCALE
    answers_ecn = True
    """Whether a SYN that offers ECN is answered with ECE, be it by a cookie."""
    offers_ecn = False
    """Whether our SYN does; both as Linux's default has it (tcp_ecn=2)."""

    def __init__(
        self,
        *,
        rng: random.Random,
        secret: bytes,
        now: float,
        paths: PathMtuService,
        drops: DropCounter,
        emit: Callable[[SuperSegment], None],
        is_own: Callable[[bytes], bool],
        access: AccessTable,
    ) -> None:
        self.paths = paths
        self.drops = drops
        self.timers: TimerQueue[tuple[TcpConnection, Timer]] = TimerQueue()
        self.budget = Budget()
        self.rings = RingPool()
        self._secret = secret
        self._epoch = now
        self._emit = emit
        self._is_own = is_own
        self._access = access
        self._connections: dict[_Flow, TcpConnection] = {}
        self.ports = PortTable(rng)
        self._listeners = ListenerTable()
        self._ready: deque[TcpConnection] = deque()
        self._stamp_offset = rng.getrandbits(32)
        self._challenges = 0
        self._challenges_at = now
        self.cookies = SynCookies(secret, now, self.timestamp)

    # --- what the stack's users call --------------------------------------------------------

    @property
    def connections(self) -> list[TcpConnection]:
        """All there are."""
        return list(self._connections.values())

    def listen(
        self,
        wanted: Claim,
        *,
        backlog: int,
        accept: Callable[[TcpConnection], TcpHandler],
        bound: Claim | None = None,
    ) -> TcpListener:
        """OSError EADDRINUSE; ``bound`` is what the socket has claimed already, and gives up."""
        claim = self.ports.claim(replace(wanted, use=Use.LISTENING), instead_of=bound)
        listener = TcpListener(self, claim, backlog=backlog, accept=accept)
        self._listeners.add(listener)
        return listener

    def remove_listener(self, listener: TcpListener) -> None:
        """Take it out of the table; what it had half open is reset."""
        self._listeners.remove(listener)
        self.ports.release(listener.claim)
        for conn in list(listener.half_open):
            self.abort(conn, conn.last_heard_at)

    def connect(
        self,
        local: tuple[bytes, int],
        remote: tuple[bytes, int],
        handler: TcpHandler,
        now: float,
        *,
        bound: Claim | None = None,
    ) -> TcpConnection:
        """Begin to open; port 0 chooses one that is free for this remote.

        ``bound`` is what the socket has claimed already; it gives it up once it is connecting.
        """
        use = Use.BOUND
        if not local[1]:
            use = Use.AUTOMATIC
            port = self.ports.choose_to_connect(
                lambda each: (local[0], each, *remote) not in self._connections
            )
            local = (local[0], port)
        key = (*local, *remote)
        old = self._connections.get(key)
        if old is not None and old.state is State.TIME_WAIT:
            self.finish(old, 0)
        elif old is not None:
            raise os_error(errno.EADDRNOTAVAIL)
        if self.is_full:
            raise os_error(errno.ENOBUFS)
        family = family_of(local[0])
        if bound is None:
            claim = Claim((family,), *local, use=use)
        else:
            claim = replace(bound, families=(family,), address=local[0])
            self.ports.release(bound)
        self.ports.add(claim)
        conn = TcpConnection(
            self,
            local,
            remote,
            claim=claim,
            iss=self.initial_sequence(local, remote, now),
            state=State.SYN_SENT,
        )
        conn.handler = handler
        conn.syn_due = True
        conn.last_heard_at = now
        self.insert(conn)
        self.wake(conn)
        return conn

    def arrive(self, source: bytes, destination: bytes, seg: Segment, now: float) -> None:
        """A segment, or a run, for an address of ours."""
        key = (destination, seg.destination_port, source, seg.source_port)
        conn = self._connections.get(key)
        if conn is not None and conn.state is State.TIME_WAIT and self._may_reuse(conn, seg):
            self.finish(conn, 0)
            conn = None
        if conn is not None and not (
            conn.state is State.SYN_RECEIVED and must_wait(self, conn, seg)
        ):
            segment_arrives(conn, self, seg, now)
        if conn is not None:
            return
        local, remote = key[:2], key[2:]
        listener = self._listeners.find(local, remote)
        if seg.flags & tcp.RST:
            self.drops.drop(Drop.TCP_NO_CONNECTION)
        elif listener is None:
            self.drops.drop(Drop.TCP_NO_CONNECTION)
            self.send_reset(local, remote, seg)
        elif not self._access.admits(ip.TCP, source, seg.destination_port):
            self.drops.drop(Drop.PACKET_DENIED)
            self.send_reset(local, remote, seg)
        elif seg.flags & (tcp.SYN | tcp.ACK) == tcp.SYN:
            open_passively(self, listener, local, remote, seg, now)
        elif not seg.flags & tcp.ACK:
            self.drops.drop(Drop.TCP_UNEXPECTED_FLAGS)  # RFC 9293 section 3.10.7.2, fourth
        else:
            open_by_cookie(self, listener, local, remote, seg, now)

    def poll(self, now: float) -> SuperSegment | None:
        """The next super-segment of any connection, each in its turn."""
        ready = self._ready
        while ready:
            conn = ready[0]
            segment = transmit(conn, self, now)
            if segment is None:
                ready.popleft()
                conn.queued = False
                continue
            ready.rotate(-1)
            return segment
        return None

    def handle_timeout(self, now: float) -> None:
        """Run the timers that are due."""
        for conn, timer in self.timers.pop_due(now):
            if conn.done:
                continue
            match timer:
                case Timer.RETRANSMIT:
                    retransmission_timeout(conn, self, now)
                    self._suspect_path(conn, now)
                case Timer.DELAYED_ACK:
                    conn.ack_due = True
                    self.wake(conn)
                case Timer.TAIL:
                    segment = tail(conn, self, now)
                    if segment is not None:
                        self._emit(_owned(segment))
                case Timer.REORDERING:
                    reordering_timeout(conn, self, now)
                case Timer.KEEPALIVE:
                    keepalive_timeout(conn, self, now)
                case Timer.LINGER:
                    self.finish(conn, 0)

    def path_changed(self, remote: bytes, now: float) -> None:
        """For every connection with ``remote``."""
        for conn in self.connections:
            if conn.remote[0] == remote:
                path_changed(conn, self, now)

    def mtu_changed(self, remote: bytes, mtu: int, now: float) -> None:
        """Packets to ``remote`` may have ``mtu`` bytes from now on."""
        for conn in self.connections:
            if conn.remote[0] == remote and conn.peer_mss:
                before = conn.mss
                conn.set_path_mtu(mtu)
                # What is under way was too large: that is no congestion (RFC 8899 section 3), and
                # it goes again at once in smaller pieces.
                if conn.mss < before and conn.snd_una < conn.snd_nxt and not conn.done:
                    path_changed(conn, self, now)

    def advertised_mss(self, remote: bytes) -> int:
        """Of our SYN: what could ever come in one segment; the path is the far end's to find."""
        return self.paths.largest(remote) - ip.header_size(remote) - TCP_HEADER_SIZE

    def _suspect_path(self, conn: TcpConnection, now: float) -> None:
        """Large segments are lost again and again: perhaps the path carries only smaller ones."""
        if (
            conn.rtt.backoff >= SUSPICIOUS_TIMEOUTS
            and conn.state in SYNCHRONISED
            and conn.flight > MIN_MTU - ip.header_size(conn.local[0]) - TCP_HEADER_SIZE
        ):
            self.paths.timed_out(conn.remote[0], self.paths.mtu(conn.remote[0]), now)

    def unreachable(self, remote: bytes, error: int) -> None:
        """Nobody carries packets to ``remote``."""
        for conn in self.connections:
            if conn.remote[0] == remote:
                conn.soft_error(error)

    def icmp_error(self, flow: _Flow, seq: int, error: int) -> None:
        """An ICMP error about a segment of ours; its sequence number must be under way."""
        if self.is_under_way(flow, seq):
            self._connections[flow].soft_error(error)

    def is_under_way(self, flow: _Flow, seq: int) -> bool:
        """Whether a segment may have been lost that ICMP quotes (RFC 5927 section 4.1)."""
        conn = self._connections.get(flow)
        if conn is None:
            self.drops.drop(Drop.ICMP_NO_FLOW)
            return False
        if not conn.snd_una <= conn.unwrap(seq, conn.snd_una) <= conn.snd_nxt:
            self.drops.drop(Drop.ICMP_NOT_UNDER_WAY)
            return False
        return True

    # --- what connections call --------------------------------------------------------------

    def wake(self, conn: TcpConnection) -> None:
        """The connection may have something to send."""
        if not conn.queued and not conn.done:
            conn.queued = True
            self._ready.append(conn)

    def arm_retransmission(self, conn: TcpConnection, now: float) -> None:
        """Start the timer anew; it falls due no later than the user's patience ends."""
        due_at = now + conn.rtt.rto
        if conn.user_timeout is not None and conn.first_timeout_at is not None:
            limit = conn.first_timeout_at - conn.rtt.base + conn.user_timeout
            due_at = max(min(due_at, limit), now + MIN_TIMEOUT)
        self.timers.arm((conn, Timer.RETRANSMIT), due_at)

    def packet(
        self,
        conn: TcpConnection,
        header: bytes,
        payload: memoryview,
        mss: int,
        ecn: int = ip.NOT_ECT,
    ) -> SuperSegment:
        """Put the IP header before a segment."""
        source, destination = conn.local[0], conn.remote[0]
        first = min(len(payload), mss)
        head = ip.build(source, destination, ip.TCP, len(header) + first, ecn=ecn)
        offset = len(head)
        head += header
        return SuperSegment(destination, head, payload, mss, offset)

    def timestamp(self, now: float) -> int:
        """TSval: milliseconds, from a random beginning."""
        return (int((now - self._epoch) * 1000) + self._stamp_offset) & 0xFFFFFFFF

    def sample_rtt(self, conn: TcpConnection, echo: int, now: float) -> None:
        """RFC 7323 section 4.3: the echoed time-stamp says when the segment was sent."""
        elapsed = (self.timestamp(now) - echo) & 0xFFFFFFFF
        if elapsed < 0x7FFFFFFF:
            conn.rtt.sample(elapsed / 1000, now)

    def is_young(self, conn: TcpConnection) -> bool:
        """Whether the connection has received so little that each ACK should be sent at once."""
        return conn.rcv_nxt - conn.irs < YOUNG_SIZE

    def establish(self, conn: TcpConnection, now: float) -> bool:
        """The handshake is complete; False if the connection did not outlive that."""
        conn.state = State.FIN_WAIT_1 if conn.fin_seq is not None else State.ESTABLISHED
        if conn.keepalive is not None:
            self.timers.arm((conn, Timer.KEEPALIVE), now + conn.keepalive[0])
        if conn.release_slot is not None:
            conn.release_slot(conn)
            conn.release_slot = None
        accept, conn.accept = conn.accept, None
        if accept is not None:
            self.ports.add(conn.claim)
            conn.handler = accept(conn)
        if conn.handler is not None:
            conn.handler.established()
        self.wake(conn)
        return not conn.done

    def deliver_waiting(self, conn: TcpConnection, now: float) -> None:
        """The handler can take data again: hand over what waits, and open the window."""
        handler = conn.handler
        if conn.waiting is None or handler is None or conn.abandoned or conn.is_delivering:
            return
        before = conn.receive_window()
        queue = conn.waiting
        conn.is_delivering = True
        try:
            taken = handler.deliver([memoryview(piece) for piece in queue])
        finally:
            conn.is_delivering = False
        if conn.waiting is not queue:  # the program has left meanwhile
            return
        conn.waiting_size -= taken
        self.budget.held -= taken
        if taken:
            conn.receive_space.taken(taken, conn.rtt, self.budget, now)
        while taken:
            piece = queue.popleft()
            if taken < len(piece):
                queue.appendleft(piece[taken:])
                break
            taken -= len(piece)
        if not queue:
            conn.waiting = None
        advertised = conn.rcv_adv - conn.rcv_nxt
        # RFC 9293 section 3.8.6.2.2: tell of a window that has grown by two segments. Behind a FIN
        # nothing comes, and the far end may know of the connection no more.
        if conn.done or conn.fin_received is not None:
            pass
        elif conn.receive_window() > before or conn.receive_window() - advertised >= 2 * conn.mss:
            conn.ack_due = True
            self.wake(conn)
        self.tell_end(conn)
        if conn.done and conn.waiting is None:
            handler.closed(conn.final_error)

    def tell_end(self, conn: TcpConnection) -> None:
        """FIN reaches the program once everything before it has."""
        if (
            conn.fin_received is not None
            and conn.rcv_nxt > conn.fin_received
            and conn.waiting is None
            and not conn.eof_told
            and conn.handler is not None
        ):
            conn.eof_told = True
            conn.handler.end_of_stream()

    def time_wait(self, conn: TcpConnection, now: float) -> None:
        """Both streams have ended, ours last heard of: stay to answer what is late."""
        conn.state = State.TIME_WAIT
        conn.forget_buffers()
        for timer in (Timer.RETRANSMIT, Timer.TAIL, Timer.REORDERING, Timer.KEEPALIVE):
            self.timers.cancel((conn, timer))
        self.linger(conn, now)

    def linger(self, conn: TcpConnection, now: float) -> None:
        """End after a while (TIME-WAIT, or FIN-WAIT-2 with nobody to read)."""
        timeout = TIME_WAIT_TIMEOUT if conn.state is State.TIME_WAIT else FIN_WAIT_2_TIMEOUT
        self.timers.arm((conn, Timer.LINGER), now + timeout)

    def finish(self, conn: TcpConnection, error: int) -> None:
        """The connection is no more."""
        if conn.done:
            return
        conn.done = True
        conn.state = State.CLOSED
        for timer in Timer:
            self.timers.cancel((conn, timer))
        key = (*conn.local, *conn.remote)
        if self._connections.get(key) is conn:
            del self._connections[key]
            if conn.accept is None:
                self.ports.release(conn.claim)
        if conn.release_slot is not None:
            conn.release_slot(conn)
            conn.release_slot = None
        conn.forget_buffers()
        self.budget.release(conn.receive_space.size)
        conn.final_error = error
        if conn.abandoned:
            conn.drop_waiting()
        # As Linux: what has arrived is the program's to read, whatever ended the connection.
        if conn.handler is not None and conn.waiting is None:
            conn.handler.closed(error)

    def abort(self, conn: TcpConnection, now: float, error: int = 0) -> None:
        """End, and tell the far end by RST (RFC 9293 section 3.10.5)."""
        del now
        if conn.state in RESETTING:
            header = tcp.build(
                conn.local[1],
                conn.remote[1],
                seq=conn.snd_nxt & 0xFFFFFFFF,
                ack=conn.rcv_nxt & 0xFFFFFFFF,
                flags=tcp.RST | tcp.ACK,
                window=0,
            )
            self._emit(self.packet(conn, header, memoryview(b""), 1))
        self.finish(conn, error)

    def challenge(self, conn: TcpConnection, now: float) -> None:
        """RFC 5961: who really is the far end will answer this with what we need."""
        if now - self._challenges_at >= 1.0:
            self._challenges_at = now
            self._challenges = 0
        self._challenges += 1
        self.drops.drop(Drop.TCP_UNEXPECTED_FLAGS)
        if self._challenges <= CHALLENGE_RATE:
            conn.ack_due = True
            self.wake(conn)

    def send_reset(self, local: tuple[bytes, int], remote: tuple[bytes, int], seg: Segment) -> None:
        """Answer a segment that belongs to nothing (RFC 9293 section 3.5.2)."""
        if seg.flags & tcp.RST:
            return
        if seg.flags & tcp.ACK:
            seq, ack, flags = seg.ack, 0, tcp.RST
        else:
            size = seg.size + bool(seg.flags & tcp.SYN) + bool(seg.flags & tcp.FIN)
            seq, ack, flags = 0, (seg.seq + size) & 0xFFFFFFFF, tcp.RST | tcp.ACK
        header = tcp.build(local[1], remote[1], seq=seq, ack=ack, flags=flags, window=0)
        self.emit_bare(local[0], remote[0], header)

    def initial_sequence(
        self, local: tuple[bytes, int], remote: tuple[bytes, int], now: float
    ) -> int:
        """Of a new connection (RFC 6528)."""
        return initial_sequence(self._secret, local, remote, now - self._epoch)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another connection."""
        return len(self._connections) >= MAX_CONNECTIONS

    def insert(self, conn: TcpConnection) -> None:
        """A connection that somebody opens."""
        self._connections[(*conn.local, *conn.remote)] = conn

    def listener_of(self, conn: TcpConnection) -> TcpListener | None:
        """Who would be told of the connection."""
        return self._listeners.find(conn.local, conn.remote)

    def emit_bare(self, source: bytes, destination: bytes, header: bytes) -> None:
        """Send a segment that has no data and belongs to no connection."""
        head = ip.build(source, destination, ip.TCP, len(header))
        offset = len(head)
        self._emit(SuperSegment(destination, head + header, memoryview(b""), 1, offset))

    # --- inside -----------------------------------------------------------------------------

    def _may_reuse(self, conn: TcpConnection, seg: Segment) -> bool:
        """RFC 6191: a SYN that is surely newer than the connection in TIME-WAIT."""
        if seg.flags & (tcp.SYN | tcp.ACK | tcp.RST) != tcp.SYN:
            return False
        stamp = seg.options.timestamp
        if stamp is not None and conn.timestamps:
            age = (stamp - conn.ts_recent) & 0xFFFFFFFF
            if 0 < age < 0x80000000:
                return True
        # Within one tick of the timestamps, the sequence numbers tell (as Linux does).
        return conn.unwrap(seg.seq, conn.rcv_nxt) > conn.rcv_nxt


def _owned(segment: SuperSegment) -> SuperSegment:
    """A segment that outlives the next call into the stack."""
    segment.payload = memoryview(bytes(segment.payload))
    return segment
