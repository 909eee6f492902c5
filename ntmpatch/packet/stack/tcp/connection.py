"""One TCP connection: its variables (RFC 9293 section 3.3.1) and what the program may ask of it.

Sequence numbers are kept unwrapped, as integers that only grow; the wire's 32 bits are taken as
the nearest such number. So there is no comparison modulo 2^32 anywhere else.
"""

from __future__ import annotations

import enum
import errno
from typing import TYPE_CHECKING

from ntmpatch.packet.stack.tcp.autotune import (
    EASY_SIZE,
    INITIAL_SIZE,
    MAX_SIZE,
    ReceiveSpace,
    without_queue,
)
from ntmpatch.packet.stack.tcp.congestion import Cubic
from ntmpatch.packet.stack.tcp.episode import Episode
from ntmpatch.packet.stack.tcp.rack import Rack
from ntmpatch.packet.stack.tcp.reassembly import Reassembly
from ntmpatch.packet.stack.tcp.rto import RttEstimator
from ntmpatch.packet.stack.tcp.scoreboard import Scoreboard
from ntmpatch.packet.stack.tcp.sendbuffer import SendBuffer
from ntmpatch.packet.stack.tcp.states import SENDING, State
from ntmpatch.wire import ip

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from ntmpatch.packet.stack.handlers import TcpHandler
    from ntmpatch.packet.stack.ports import Claim
    from ntmpatch.packet.stack.tcp.service import TcpService

DEFAULT_MSS = 536
"""RFC 9293 MUST-15, if the SYN says none; 1220 for IPv6."""
DEFAULT_MSS_IPV6 = 1220
MAX_MSS = 60000
"""A segment fits a super-segment, whatever the path carries."""


class Timer(enum.IntEnum):
    """What a connection waits for."""

    RETRANSMIT = 1
    DELAYED_ACK = 2
    TAIL = 3
    """The tail of what was sent is not acknowledged (RFC 8985 section 7)."""
    REORDERING = 4
    """What was overtaken has had its time (RFC 8985 section 6.3)."""
    KEEPALIVE = 5
    LINGER = 6
    """TIME-WAIT, or FIN-WAIT-2 of a connection that nobody reads."""


class TcpConnection:
    """A connection; ``local`` and ``remote`` are (packed address, port)."""

    __slots__ = (
        "_linger",
        "abandoned",
        "accept",
        "ack_due",
        "blocked",
        "bytes_acked",
        "bytes_received",
        "bytes_resent",
        "claim",
        "congestion",
        "cork",
        "corrected_at",
        "done",
        "dsack",
        "ecn",
        "ecn_echo",
        "eof_told",
        "episode",
        "fin_received",
        "fin_seq",
        "final_error",
        "first_timeout_at",
        "handler",
        "irs",
        "is_delivering",
        "iss",
        "keepalive",
        "last_acked",
        "last_heard_at",
        "last_sent_at",
        "limited_until",
        "local",
        "mss",
        "nodelay",
        "peer_mss",
        "probe_due",
        "probes_sent",
        "queued",
        "rack",
        "rcv_adv",
        "rcv_nxt",
        "rcv_scale",
        "reassembly",
        "receive_space",
        "release_slot",
        "remote",
        "retransmissions",
        "rtt",
        "sack",
        "scoreboard",
        "segments_received",
        "segments_sent",
        "send_buffer",
        "send_limit",
        "service",
        "small_end",
        "snd_nxt",
        "snd_scale",
        "snd_una",
        "snd_wl1",
        "snd_wl2",
        "snd_wnd",
        "snd_wnd_max",
        "soft_errno",
        "state",
        "syn_due",
        "syn_sent_at",
        "timeouts",
        "timestamps",
        "ts_recent",
        "ts_recent_at",
        "unacknowledged_segments",
        "user_timeout",
        "waiting",
        "waiting_size",
    )

    def __init__(
        self,
        service: TcpService,
        local: tuple[bytes, int],
        remote: tuple[bytes, int],
        *,
        claim: Claim,
        iss: int,
        state: State,
    ) -> None:
        self.service = service
        self.local = local
        self.remote = remote
        self.claim = claim
        """Of the local port; in the table from when the program knows of the connection."""
        self.state = state
        self.handler: TcpHandler | None = None
        self.accept: Callable[[TcpConnection], TcpHandler] | None = None
        """Of a connection that a listener made: asked for the handler when it is established."""
        self.release_slot: Callable[[TcpConnection], None] | None = None
        # Options of the program.
        self.nodelay = False
        self.cork = False
        self.keepalive: tuple[float, float, int] | None = None
        """See ``set_keepalive`` (RFC 9293 section 3.8.4)."""
        self.user_timeout: float | None = None
        """See ``set_user_timeout`` (RFC 5482)."""
        self._linger: float | None = None
        # Send sequence space.
        self.iss = iss
        self.snd_una = iss
        self.snd_nxt = iss
        self.snd_wnd = 0
        self.snd_wnd_max = 0
        """Of all that were offered."""
        self.snd_wl1 = 0
        self.snd_wl2 = 0
        self.snd_scale = 0
        self.send_buffer = SendBuffer(service.rings)
        self.send_limit = MAX_SIZE
        """See ``set_send_limit``."""
        self.small_end = 0
        """Of the latest segment that was not full."""
        self.fin_seq: int | None = None
        """Where our FIN is in the sequence space, once the program has ended its stream."""
        self.blocked = False
        """``send_space`` was empty: the handler waits to be told that it is not."""
        # Receive sequence space.
        self.irs = 0
        self.rcv_nxt = 0
        self.rcv_adv = 0
        """The right edge of the window that was advertised; it never moves left."""
        self.last_acked = 0
        """RCV.NXT as it was told last (Last.ACK.sent of RFC 7323)."""
        self.rcv_scale = 0
        self.receive_space = ReceiveSpace()
        self.waiting: deque[bytes] | None = None
        """In-order data that the program has not taken."""
        self.waiting_size = 0
        self.is_delivering = False
        """What waits is being handed to the program, which may call from within."""
        self.reassembly = Reassembly()
        self.fin_received: int | None = None
        self.eof_told = False
        self.dsack: tuple[int, int] | None = None
        """What arrived twice, to be told with the next ACK (RFC 2883)."""
        # Options of the connection.
        self.mss = DEFAULT_MSS if len(local[0]) == 4 else DEFAULT_MSS_IPV6
        """Bytes of data in one full segment to send, options counted."""
        self.peer_mss = 0
        """What the far end's SYN allows; 0 before it has come."""
        self.timestamps = False
        self.ecn = False
        """Both ends understand marks of congestion (RFC 3168)."""
        self.ecn_echo = False
        """A mark came, and the far end has not said yet that it heard of it."""
        self.sack = False
        self.ts_recent = 0
        self.ts_recent_at = 0.0
        # Round trips, congestion, recovery.
        self.rtt = RttEstimator()
        self.congestion = Cubic(self.mss)
        self.scoreboard = Scoreboard()
        self.rack = Rack()
        self.episode = Episode()
        self.limited_until = 0
        """What was sent before this was all that the congestion window allowed."""
        self.retransmissions = 0
        """Segments."""
        self.timeouts = 0
        self.syn_sent_at = 0.0
        self.first_timeout_at: float | None = None
        self.last_sent_at = 0.0
        self.last_heard_at = 0.0
        self.probes_sent = 0
        # What is to be sent besides data.
        self.syn_due = False
        self.ack_due = False
        self.corrected_at = 0.0
        """When a segment far off was answered last."""
        self.probe_due = False
        self.unacknowledged_segments = 0
        self.queued = False
        """In the service's queue of connections that may have something to send."""
        self.done = False
        self.final_error = 0
        """What ``closed`` tells, once the program has taken what arrived before."""
        self.soft_errno = 0
        """Of the latest ICMP error; told if the connection times out (RFC 5461 section 2.2)."""
        self.abandoned = False
        """The program has closed: nobody reads what still comes."""
        # For whoever looks at it.
        self.bytes_acked = 0
        self.bytes_received = 0
        self.bytes_resent = 0
        self.segments_sent = 0
        self.segments_received = 0

    def __repr__(self) -> str:
        return f"<TcpConnection {self.local[1]} → {self.remote[1]} {self.state.name}>"

    # --- what the program asks -----------------------------------------------------------

    def send_space(self) -> memoryview:
        """A contiguous part of the send buffer to fill; empty: wait for ``writable``."""
        if self.fin_seq is not None or self.state not in SENDING:
            return memoryview(b"")
        space = self.send_buffer.space()
        if not space:
            if self._grow_send_buffer():
                return self.send_buffer.space()
            self.blocked = True
        return space

    def _grow_send_buffer(self) -> bool:
        """The buffer is full: it may hold twice what the congestion window lets be under way.

        Past ``EASY_SIZE`` only as far as that is for the length of the path, not for a queue.
        """
        buffer = self.send_buffer
        if buffer.capacity >= self.send_limit:
            return False
        if buffer.capacity < INITIAL_SIZE:
            buffer.grow(min(INITIAL_SIZE, self.send_limit))
            return True
        wanted = 2 * self.congestion.cwnd
        if buffer.capacity >= EASY_SIZE and self.rtt.srtt:
            wanted = int(wanted * without_queue(self.rtt.min_rtt, self.rtt.srtt))
        if buffer.capacity >= wanted:
            return False
        size = min(2 * buffer.capacity, self.send_limit)
        capacity = self.service.budget.grow(buffer.capacity, size)
        if capacity == buffer.capacity:
            return False
        buffer.grow(capacity)
        return True

    def commit(self, size: int, now: float) -> None:
        """``size`` bytes of what ``send_space`` gave are to be sent."""
        del now
        self.send_buffer.commit(size)
        self.service.wake(self)

    def resume(self, now: float) -> None:
        """The handler can take data again; from within ``deliver`` this means nothing."""
        self.service.deliver_waiting(self, now)

    def shutdown_write(self, now: float) -> None:
        """End the stream: FIN goes behind what is in the send buffer."""
        if self.fin_seq is not None:
            return
        if self.state in (State.SYN_SENT, State.CLOSED):
            self.service.finish(self, 0)
            return
        if self.state is State.ESTABLISHED:
            self.state = State.FIN_WAIT_1
        elif self.state is State.CLOSE_WAIT:
            self.state = State.LAST_ACK
        elif self.state is not State.SYN_RECEIVED:  # there it waits until the connection stands
            return
        self.fin_seq = self.snd_una + self.send_buffer.size + self._syn_size()
        del now
        self.service.wake(self)

    def _syn_size(self) -> int:
        """1 while our SYN is not acknowledged: it precedes the buffer's first byte."""
        return 1 if self.snd_una == self.iss else 0

    def close(self, now: float) -> None:
        """Nobody reads or writes any more; with data unread, by RST (RFC 2525 section 2.17)."""
        if self.done or self.abandoned:
            self.abandoned = True
            self.drop_waiting()
            return
        self.abandoned = True
        if self.waiting_size or self._linger == 0:
            self.abort(now)
            return
        self.shutdown_write(now)
        if self.state is State.FIN_WAIT_2:
            self.service.linger(self, now)

    def abort(self, now: float) -> None:
        """End at once, by RST where the far end knows of us; nobody reads what has arrived."""
        self.abandoned = True
        if not self.done:
            self.service.abort(self, now)
        self.drop_waiting()

    def drop_waiting(self) -> None:
        """Nobody will read what waits."""
        self.service.budget.held -= self.waiting_size
        self.waiting = None
        self.waiting_size = 0

    def set_nodelay(self, *, on: bool) -> None:
        """TCP_NODELAY: small segments do not wait for acknowledgments."""
        self.nodelay = on
        self.service.wake(self)

    def set_cork(self, *, on: bool) -> None:
        """TCP_CORK: only full segments are sent while it is on."""
        self.cork = on
        self.service.wake(self)

    def set_keepalive(self, keepalive: tuple[float, float, int] | None, now: float) -> None:
        """SO_KEEPALIVE: seconds of idleness, seconds between probes, probes; None turns it off."""
        self.keepalive = keepalive
        if keepalive is None:
            self.service.timers.cancel((self, Timer.KEEPALIVE))
        elif not self.done:
            self.service.timers.arm((self, Timer.KEEPALIVE), now + keepalive[0])

    def set_user_timeout(self, seconds: float | None, now: float) -> None:
        """TCP_USER_TIMEOUT: how long what was sent may stay unacknowledged; None: as RFC 1122."""
        del now
        self.user_timeout = seconds or None

    def set_send_limit(self, size: int) -> None:
        """SO_SNDBUF: bytes that may wait to be sent or acknowledged; room there is stays."""
        self.send_limit = size

    def set_linger(self, seconds: float | None) -> None:
        """SO_LINGER: with 0, ``close`` resets; a wait is the caller's; None turns it off."""
        self._linger = seconds

    def forget_buffers(self) -> None:
        """Nothing is sent or put together any more: a minute of TIME-WAIT costs no megabytes."""
        budget = self.service.budget
        budget.release(self.send_buffer.capacity)
        budget.held -= self.reassembly.size
        self.send_buffer.release(self.send_buffer.size)
        self.send_buffer.rest()
        self.send_buffer = SendBuffer(self.service.rings)
        self.scoreboard = Scoreboard()
        self.reassembly = Reassembly()

    # --- for input and output -------------------------------------------------------------

    def unwrap(self, wire: int, near: int) -> int:
        """The unwrapped number nearest to ``near`` whose low 32 bits are ``wire``."""
        return near + ((wire - near + 0x80000000) & 0xFFFFFFFF) - 0x80000000

    @property
    def flight(self) -> int:
        """Bytes of sequence space sent and not acknowledged."""
        return self.snd_nxt - self.snd_una

    @property
    def pipe(self) -> int:
        """Bytes that are thought to be under way (RFC 6675, SetPipe)."""
        board = self.scoreboard
        pipe = self.snd_nxt - self.snd_una - board.sacked_size - board.lost_size
        if self.episode.duplicate_acks:
            # Without SACK each duplicate tells that a segment has left the network.
            pipe = max(0, pipe - self.episode.duplicate_acks * self.mss)
        return pipe

    @property
    def data_end(self) -> int:
        """The sequence number behind the last byte in the send buffer."""
        return self.snd_una + self._syn_size() + self.send_buffer.size

    def receive_window(self) -> int:
        """Bytes that we can take from RCV.NXT on."""
        edge = self.rcv_adv - self.rcv_nxt
        room = self.receive_space.size - self.waiting_size
        # RFC 9293 section 3.8.6.2.2: the window opens by no less than a segment, or half of all;
        # and not at all while the node holds too much.
        if (
            room - edge < min(self.receive_space.size // 2, self.mss)
            or self.service.budget.is_tight
        ):
            room = edge
        return max(room, edge, 0)

    def set_path_mtu(self, path_mtu: int) -> None:
        """What the path carries: segments are the smaller of both ends' words, less our options."""
        ours = path_mtu - ip.header_size(self.local[0]) - 20
        mss = min(ours, self.peer_mss) - (12 if self.timestamps else 0)
        self.mss = max(64, min(mss, MAX_MSS))
        self.congestion.set_mss(self.mss)

    def fail(self, error: int) -> None:
        """End with an error that the program learns."""
        self.service.finish(self, error)

    def is_unsent(self) -> bool:
        """Whether anything waits to be sent or acknowledged."""
        return not self.done and (self.send_buffer.size > 0 or self.fin_unacknowledged())

    def fin_unacknowledged(self) -> bool:
        """Whether our FIN was asked for and has not been acknowledged."""
        return self.fin_seq is not None and self.snd_una <= self.fin_seq

    def soft_error(self, error: int) -> None:
        """An ICMP error: final before the connection stands, else a hint (RFC 5461)."""
        error = error or errno.EHOSTUNREACH
        if self.state is State.SYN_SENT:
            self.fail(error)
        else:
            self.soft_errno = error
