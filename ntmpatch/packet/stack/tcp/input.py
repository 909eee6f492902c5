"""Segment arrives (RFC 9293 section 3.10.7): in the order of that section's steps."""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop
from ntmpatch.packet.stack.tcp.connection import TcpConnection, Timer
from ntmpatch.packet.stack.tcp.output import DELAYED_ACK_TIMEOUT
from ntmpatch.packet.stack.tcp.reassembly import Reassembly
from ntmpatch.packet.stack.tcp.recovery import acknowledged, heard_congestion
from ntmpatch.packet.stack.tcp.states import RECEIVING, State
from ntmpatch.wire import tcp

if TYPE_CHECKING:
    from ntmpatch.packet.stack.tcp.service import TcpService
    from ntmpatch.wire.tcp import Segment

PAWS_IDLE_LIMIT = 24 * 86400.0
"""RFC 7323 section 5.5: a timestamp that old says nothing any more."""

CORRECTION_INTERVAL = 0.5
"""Seconds between answers to empty segments that lie beyond the window, as Linux has them."""

MAX_LATENESS = 1200
"""Ticks of a timestamp clock, of a millisecond with most."""

_MAX_ECHO_AGE = 60_000
"""Milliseconds; an older echo tells of an idle sender, not of the path."""


def segment_arrives(conn: TcpConnection, service: TcpService, seg: Segment, now: float) -> None:
    """Take one segment, or one run of in-order segments."""
    conn.last_heard_at = now
    conn.probes_sent = 0
    conn.segments_received += len(seg.payload) or 1
    if conn.state is State.SYN_SENT:
        _in_syn_sent(conn, service, seg, now)
        return
    seq = conn.unwrap(seg.seq, conn.rcv_nxt)
    size = seg.size + bool(seg.flags & tcp.SYN) + bool(seg.flags & tcp.FIN)
    if not _is_recent(conn, seg, now) and not _is_late_ack(conn, seg, seq):
        service.drops.drop(Drop.TCP_PAWS)
        if not seg.flags & tcp.RST:
            _acknowledge_now(conn, service)
        return
    if conn.state is State.SYN_RECEIVED and seg.flags & tcp.SYN and seq == conn.irs:
        _syn_again(conn, service, seg, seq, now)
        return
    # First: is it acceptable? (Table 6)
    window = conn.receive_window()
    if not (seq <= conn.rcv_nxt + window and seq + size >= conn.rcv_nxt) or (
        size and (seq + size <= conn.rcv_nxt or seq >= conn.rcv_nxt + window)
    ):
        if seg.flags & tcp.RST:
            service.drops.drop(Drop.TCP_OUT_OF_WINDOW)
            return
        _unacceptable(conn, service, seg, seq, size, now)
        return
    # Second: RST (RFC 5961 section 3).
    if seg.flags & tcp.RST:
        if seq == conn.rcv_nxt:
            _reset(conn, service)
        else:
            service.challenge(conn, now)
        return
    # Fourth: SYN (RFC 5961 section 4).
    if seg.flags & tcp.SYN:
        if conn.state is State.SYN_RECEIVED and conn.accept is not None:
            service.finish(conn, 0)  # back to LISTEN
        else:
            service.challenge(conn, now)
        return
    # Fifth: ACK.
    if not seg.flags & tcp.ACK:
        service.drops.drop(Drop.TCP_UNEXPECTED_FLAGS)
        return
    if not _process_ack(conn, service, seg, seq, now):
        return
    _remember_timestamp(conn, seg, seq, now)
    if conn.ecn:
        _hear_marks(conn, service, seg)
    # Seventh: data; eighth: FIN.
    if seg.size or seg.flags & tcp.FIN:
        _take_text(conn, service, seg, seq, now)


def _in_syn_sent(conn: TcpConnection, service: TcpService, seg: Segment, now: float) -> None:
    """RFC 9293 section 3.10.7.3."""
    ack_good = False
    if seg.flags & tcp.ACK:
        ack = conn.unwrap(seg.ack, conn.snd_nxt)
        ack_good = conn.iss < ack <= conn.snd_nxt
        if not ack_good:
            service.drops.drop(Drop.TCP_UNACCEPTABLE_ACK)
            if not seg.flags & tcp.RST:
                service.send_reset(conn.local, conn.remote, seg)
            return
    if seg.flags & tcp.RST:
        if ack_good:
            conn.fail(errno.ECONNREFUSED)
        else:
            service.drops.drop(Drop.TCP_UNEXPECTED_FLAGS)
        return
    if not seg.flags & tcp.SYN:
        service.drops.drop(Drop.TCP_UNEXPECTED_FLAGS)
        return
    take_syn(conn, service, seg, now)
    conn.snd_wnd = seg.window  # of a SYN, never scaled
    conn.snd_wnd_max = seg.window
    conn.snd_wl1 = conn.irs
    if not ack_good:
        # Simultaneous open: both have sent a SYN; ours goes again, with an ACK.
        conn.state = State.SYN_RECEIVED
        conn.syn_due = True
        service.wake(conn)
        return
    conn.snd_wl2 = conn.iss + 1
    _syn_acknowledged(conn, service, seg, now)
    conn.ack_due = True
    service.establish(conn, now)
    if seg.size or seg.flags & tcp.FIN:
        _take_text(conn, service, seg, conn.irs + 1, now)


def _syn_again(
    conn: TcpConnection, service: TcpService, seg: Segment, seq: int, now: float
) -> None:
    """The far end's SYN once more: our answer was lost, or both opened at once (section 3.5)."""
    if seg.flags & tcp.ACK:
        conn.ack_due = True
        _process_ack(conn, service, seg, seq, now)
    else:
        conn.syn_due = True
        service.wake(conn)


def _answers_ecn(conn: TcpConnection, service: TcpService, seg: Segment) -> bool:
    """Whether both ends will mark and hear, by the far end's SYN (RFC 3168 section 6.1.1)."""
    offer = seg.flags & (tcp.ECE | tcp.CWR)
    if conn.state is not State.SYN_SENT:
        return service.answers_ecn and offer == tcp.ECE | tcp.CWR
    if seg.flags & tcp.ACK:
        return service.offers_ecn and not conn.rtt.backoff and offer == tcp.ECE
    return False  # of both that open at once, neither has answered


def take_syn(conn: TcpConnection, service: TcpService, seg: Segment, now: float) -> None:
    """What the far end's SYN says of its sequence numbers and options."""
    options = seg.options
    conn.irs = seg.seq
    conn.rcv_nxt = conn.rcv_adv = conn.last_acked = conn.irs + 1
    conn.fin_received = None
    if options.window_scale is not None:
        conn.snd_scale = options.window_scale
        conn.rcv_scale = service.window_scale
    else:
        conn.receive_space.confine(0xFFFF)
    conn.timestamps = options.timestamp is not None
    if options.timestamp is not None:
        conn.ts_recent = options.timestamp
        conn.ts_recent_at = now
    conn.sack = options.sack_permitted
    conn.ecn = _answers_ecn(conn, service, seg)
    conn.peer_mss = options.mss or conn.mss
    conn.set_path_mtu(service.paths.mtu(conn.remote[0]))


def _syn_acknowledged(conn: TcpConnection, service: TcpService, seg: Segment, now: float) -> None:
    conn.snd_una = conn.iss + 1
    service.timers.cancel((conn, Timer.RETRANSMIT))
    if not conn.rtt.backoff:
        conn.rtt.sample(now - conn.syn_sent_at, now)
    elif conn.timestamps and seg.options.echo:
        service.sample_rtt(conn, seg.options.echo, now)
    else:
        conn.rtt.sample(1.0, now)  # RFC 6298 (5.7): after a lost SYN, begin cautiously
    conn.rtt.progress()
    conn.first_timeout_at = None


def _is_recent(conn: TcpConnection, seg: Segment, now: float) -> bool:
    """PAWS (RFC 7323 section 5.3)."""
    stamp = seg.options.timestamp
    if not conn.timestamps or stamp is None or seg.flags & tcp.RST:
        return True
    if (stamp - conn.ts_recent) & 0xFFFFFFFF < 0x80000000:
        return True
    return now - conn.ts_recent_at > PAWS_IDLE_LIMIT


def _is_late_ack(conn: TcpConnection, seg: Segment, seq: int) -> bool:
    """Whether PAWS may let an ACK pass that another has overtaken, as Linux does.

    It may tell by SACK what no other does, and can do no harm.
    """
    stamp = seg.options.timestamp
    return (
        stamp is not None
        and not seg.size
        and not seg.flags & (tcp.SYN | tcp.FIN)
        and seq == conn.rcv_nxt
        and (conn.ts_recent - stamp) & 0xFFFFFFFF < MAX_LATENESS
    )


def _hear_marks(conn: TcpConnection, service: TcpService, seg: Segment) -> None:
    """RFC 3168 sections 6.1.2 (as sender) and 6.1.3 (as receiver)."""
    if seg.flags & tcp.ECE and not seg.flags & tcp.SYN:
        heard_congestion(conn)
    if seg.flags & tcp.CWR:
        conn.ecn_echo = False
    if seg.flags & tcp.CE and seg.size:
        conn.ecn_echo = True
        _acknowledge_now(conn, service)


def _remember_timestamp(conn: TcpConnection, seg: Segment, seq: int, now: float) -> None:
    """RFC 7323 section 4.3."""
    stamp = seg.options.timestamp
    if (
        conn.timestamps
        and stamp is not None
        and seq <= conn.last_acked
        and (stamp - conn.ts_recent) & 0xFFFFFFFF < 0x80000000
    ):
        conn.ts_recent = stamp
        conn.ts_recent_at = now


def _unacceptable(
    conn: TcpConnection, service: TcpService, seg: Segment, seq: int, size: int, now: float
) -> None:
    """Outside the window: say where we are. While it is closed, an ACK counts all the same."""
    service.drops.drop(Drop.TCP_OUT_OF_WINDOW)
    if conn.state is State.TIME_WAIT and seg.flags & tcp.FIN:
        service.linger(conn, now)
    if seg.flags & tcp.SYN:
        service.challenge(conn, now)  # whatever its number (RFC 5961 section 4)
    elif not size and seq == conn.rcv_nxt - 1:
        _acknowledge_now(conn, service)  # a keep-alive
    elif seq + size <= conn.rcv_nxt or seg.size:
        if seg.size and seq + seg.size <= conn.rcv_nxt:
            conn.dsack = (seq, seq + seg.size)
        if seq == conn.rcv_nxt and seg.flags & tcp.ACK and not seg.flags & tcp.SYN:
            _process_ack(conn, service, seg, seq, now)
        _acknowledge_now(conn, service)
    elif now - conn.corrected_at >= CORRECTION_INTERVAL:
        # Two ends that disagree would answer each other without end.
        conn.corrected_at = now
        _acknowledge_now(conn, service)


def _acknowledge_now(conn: TcpConnection, service: TcpService) -> None:
    conn.ack_due = True
    service.wake(conn)


def _reset(conn: TcpConnection, service: TcpService) -> None:
    """RFC 9293 section 3.10.7.4, second step."""
    if conn.state in (State.CLOSING, State.LAST_ACK, State.TIME_WAIT):
        service.finish(conn, 0)
    elif conn.state is State.SYN_RECEIVED and conn.accept is not None:
        service.finish(conn, 0)  # the listener never hears of it
    elif conn.state is State.SYN_RECEIVED:
        service.finish(conn, errno.ECONNREFUSED)
    elif conn.state is State.CLOSE_WAIT:
        service.finish(conn, errno.EPIPE)  # as Linux: all there was to read has come
    else:
        service.finish(conn, errno.ECONNRESET)


def _process_ack(
    conn: TcpConnection, service: TcpService, seg: Segment, seq: int, now: float
) -> bool:
    """The fifth step; whether the segment is to be read on."""
    ack = conn.unwrap(seg.ack, conn.snd_una)
    if conn.state is State.SYN_RECEIVED:
        if not conn.iss < ack <= conn.snd_nxt:
            service.drops.drop(Drop.TCP_UNACCEPTABLE_ACK)
            service.send_reset(conn.local, conn.remote, seg)
            return False
        conn.snd_wnd = seg.window << conn.snd_scale
        conn.snd_wnd_max = conn.snd_wnd
        conn.snd_wl1, conn.snd_wl2 = seq, ack
        _syn_acknowledged(conn, service, seg, now)
        if not service.establish(conn, now):
            return False
    if ack > conn.snd_nxt:
        service.drops.drop(Drop.TCP_UNACCEPTABLE_ACK)
        _acknowledge_now(conn, service)
        return False
    if ack < conn.snd_una - conn.snd_wnd_max:
        # RFC 5961 section 5.2: older than anything that could still be on its way.
        service.drops.drop(Drop.TCP_UNACCEPTABLE_ACK)
        service.challenge(conn, now)
        return False
    acknowledged(conn, service, seg, seq, ack, now)
    if conn.done:
        return False
    if conn.fin_seq is not None and conn.snd_una > conn.fin_seq:
        _fin_acknowledged(conn, service, now)
    return not conn.done


def _fin_acknowledged(conn: TcpConnection, service: TcpService, now: float) -> None:
    if conn.state is State.FIN_WAIT_1:
        conn.state = State.FIN_WAIT_2
        if conn.abandoned:
            service.linger(conn, now)
    elif conn.state is State.CLOSING:
        service.time_wait(conn, now)
    elif conn.state is State.LAST_ACK:
        service.finish(conn, 0)


def _take_text(
    conn: TcpConnection, service: TcpService, seg: Segment, seq: int, now: float
) -> None:
    """The seventh and eighth steps: data in order go on, others wait; then the FIN."""
    if conn.state not in RECEIVING:
        _acknowledge_now(conn, service)
        return
    if conn.abandoned and seg.size and seq + seg.size > conn.rcv_nxt:
        # Nobody will ever read it: say so (RFC 9293 section 3.6.1, RFC 2525 section 2.17).
        service.drops.drop(Drop.TCP_AFTER_CLOSE)
        service.abort(conn, now)
        return
    if seg.flags & tcp.FIN:
        conn.fin_received = seq + seg.size
    expected = conn.rcv_nxt
    was_waiting = bool(conn.reassembly)
    if seg.size:
        pieces = seg.payload
        limit = conn.rcv_nxt + conn.receive_window()
        if seq + seg.size > limit:
            pieces = _clip(pieces, limit - seq)
            _acknowledge_now(conn, service)  # it goes on when it knows where the window ends
            conn.fin_received = None if conn.fin_received == seq + seg.size else conn.fin_received
        if seq < expected:
            conn.dsack = (seq, min(expected, seq + seg.size))
            pieces = _skip(pieces, expected - seq)
            seq = expected
        if conn.timestamps and seg.options.echo and seg.size >= conn.mss:
            elapsed = (service.timestamp(now) - seg.options.echo) & 0xFFFFFFFF
            if elapsed < _MAX_ECHO_AGE:
                conn.receive_space.echoed(elapsed / 1000)
        if seq == expected:
            if pieces:
                _in_order(conn, service, pieces, now)
        elif pieces:
            _out_of_order(conn, service, seq, b"".join(pieces))
    if conn.done:
        return
    if conn.fin_received == conn.rcv_nxt:
        _take_fin(conn, service, now)
        return
    if conn.fin_received is not None and conn.rcv_nxt > conn.fin_received:
        # Data where the stream was to end: as in Linux that was no FIN.
        service.drops.drop(Drop.TCP_UNEXPECTED_FLAGS)
        conn.fin_received = None
    if seq > expected or was_waiting or conn.rcv_nxt == expected:
        # RFC 5681 section 4.2: out of order, or filling a gap: at once.
        _acknowledge_now(conn, service)
        return
    conn.unacknowledged_segments += len(seg.payload)
    if conn.unacknowledged_segments >= 2 or service.is_young(conn):
        _acknowledge_now(conn, service)
    elif service.timers.due_at((conn, Timer.DELAYED_ACK)) is None:
        service.timers.arm((conn, Timer.DELAYED_ACK), now + DELAYED_ACK_TIMEOUT)


def _out_of_order(conn: TcpConnection, service: TcpService, seq: int, data: bytes) -> None:
    before = conn.reassembly.size
    if not conn.reassembly.add(seq, data):
        service.drops.drop(Drop.TCP_REASSEMBLY_FULL)
    grown = conn.reassembly.size - before
    if not grown:
        conn.dsack = (seq, seq + len(data))  # it was all there
    service.budget.held += grown


def _in_order(
    conn: TcpConnection, service: TcpService, pieces: list[memoryview], now: float
) -> None:
    size = sum(map(len, pieces))
    conn.rcv_nxt += size
    conn.bytes_received += size
    views = pieces
    if conn.reassembly:
        held = conn.reassembly.size
        more = conn.reassembly.take(conn.rcv_nxt)
        service.budget.held -= held - conn.reassembly.size
        more_size = sum(map(len, more))
        conn.rcv_nxt += more_size
        conn.bytes_received += more_size
        size += more_size
        views = [*pieces, *(memoryview(piece) for piece in more)]
    if conn.waiting is None and conn.handler is not None:
        taken = conn.handler.deliver(views)
        if conn.done:  # the program has left meanwhile
            return
        conn.receive_space.taken(taken, conn.rtt, service.budget, now)
        if taken == size:
            return
        views = _skip(views, taken)
    if views and not conn.done:
        if conn.waiting is None:
            conn.waiting = deque()
        for view in views:
            conn.waiting.append(bytes(view))
            conn.waiting_size += len(view)
            service.budget.held += len(view)


def _take_fin(conn: TcpConnection, service: TcpService, now: float) -> None:
    conn.rcv_nxt += 1
    # What a hostile far end sent from behind its FIN is in no stream.
    service.budget.held -= conn.reassembly.size
    conn.reassembly = Reassembly()
    _acknowledge_now(conn, service)
    if conn.state is State.ESTABLISHED:
        conn.state = State.CLOSE_WAIT
    elif conn.state is State.FIN_WAIT_1:
        # Whether our FIN is acknowledged was decided in the fifth step.
        conn.state = State.CLOSING
    elif conn.state is State.FIN_WAIT_2:
        service.time_wait(conn, now)
    service.tell_end(conn)


def _skip(pieces: list[memoryview], size: int) -> list[memoryview]:
    """``pieces`` without their first ``size`` bytes."""
    if not size:
        return pieces
    for index, piece in enumerate(pieces):
        if size < len(piece):
            return [piece[size:], *pieces[index + 1 :]]
        size -= len(piece)
    return []


def _clip(pieces: list[memoryview], size: int) -> list[memoryview]:
    """The first ``size`` bytes of ``pieces``."""
    clipped: list[memoryview] = []
    for piece in pieces:
        if size <= 0:
            break
        clipped.append(piece[:size])
        size -= len(piece)
    return clipped
