"""What a connection sends next: control, repairs, new data, probes, acknowledgments.

Called when the carrier can send, so a segment is made of what is known at that instant. The order
is that of this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntmpatch.packet.stack.tcp.connection import WINDOW_SCALE, TcpConnection, Timer
from ntmpatch.packet.stack.tcp.states import State
from ntmpatch.wire import tcp

if TYPE_CHECKING:
    from ntmpatch.packet.stack.tcp.service import TcpService
    from ntmpatch.wire.segments import SuperSegment

MAX_RUN_SIZE = 60000
"""Bytes of data in one super-segment; with headers and tags it stays within 64 KB."""

MAX_SACK_BLOCKS = 3
"""Beside timestamps there is room for three (RFC 7323 section 3)."""

DELAYED_ACK_TIMEOUT = 0.04
MIN_PROBE_TIMEOUT = 0.01

_EMPTY = memoryview(b"")


def transmit(conn: TcpConnection, service: TcpService, now: float) -> SuperSegment | None:
    """The next super-segment, or None."""
    if conn.done:
        return None
    if conn.syn_due:
        return _syn(conn, service, now)
    if conn.state in (State.SYN_SENT, State.SYN_RECEIVED):
        return None
    segment = _repair(conn, service, now)
    if segment is None:
        segment = _new_data(conn, service, now)
    if segment is None and conn.probe_due:
        conn.probe_due = False
        segment = _probe(conn, service, now)
    if segment is None and conn.ack_due:
        segment = _segment(conn, service, conn.snd_nxt, _EMPTY, tcp.ACK, now)
    return segment


def _syn(conn: TcpConnection, service: TcpService, now: float) -> SuperSegment:
    conn.syn_due = False
    answering = conn.state is State.SYN_RECEIVED
    flags = tcp.SYN | (tcp.ACK if answering else 0)
    stamps = None
    if conn.timestamps or not answering:
        stamps = (service.timestamp(now), conn.ts_recent if answering else 0)
    offers_scale = not answering or conn.rcv_scale > 0
    options = tcp.build_syn_options(
        service.advertised_mss(conn.remote[0]),
        window_scale=WINDOW_SCALE if offers_scale else None,
        sack_permitted=conn.sack or not answering,
        timestamps=stamps,
    )
    conn.snd_nxt = max(conn.snd_nxt, conn.iss + 1)
    conn.snd_max = max(conn.snd_max, conn.snd_nxt)
    window = min(conn.receive_window(), 0xFFFF)
    if answering:
        conn.rcv_adv = max(conn.rcv_adv, conn.rcv_nxt + window)
    conn.last_sent_at = now
    _time(conn, conn.iss, now)
    _arm_retransmission(conn, service, now)
    header = tcp.build(
        conn.local[1],
        conn.remote[1],
        seq=conn.iss & 0xFFFFFFFF,
        ack=conn.rcv_nxt & 0xFFFFFFFF if answering else 0,
        flags=flags,
        window=window,
        options=options,
    )
    return service.packet(conn, header, _EMPTY, 1)


def _repair(conn: TcpConnection, service: TcpService, now: float) -> SuperSegment | None:
    """The first hole that is lost and not repaired yet (RFC 6675, NextSeg (1))."""
    if conn.recovery_point is None:
        return None
    board = conn.scoreboard
    start = max(board.high_retransmitted, conn.snd_una)
    limit = min(board.lost_below, conn.snd_max)
    hole = board.hole(start, limit)
    if hole is None:
        return None
    begin, end = hole
    first = begin == conn.snd_una
    room = conn.congestion.cwnd - pipe(conn)
    if room < conn.mss and not first:
        return None
    size = min(end - begin, max(room, conn.mss), MAX_RUN_SIZE)
    if size > conn.mss:
        size -= size % conn.mss
    segment = _data(conn, service, begin, size, now)
    board.high_retransmitted = begin + max(len(segment.payload), 1)
    if first:
        board.retransmitted_at_nxt = conn.snd_max
    conn.retransmissions += segment.packet_count
    conn.timed_seq = None
    _arm_retransmission(conn, service, now)
    _arm_repair_check(conn, service, now)
    return segment


def pipe(conn: TcpConnection) -> int:
    """Bytes that are thought to be under way (RFC 6675, SetPipe)."""
    flight = conn.snd_nxt - conn.snd_una
    board = conn.scoreboard
    if conn.recovery_point is None and not board.highest:
        return flight
    unrepaired = board.missing(
        max(board.high_retransmitted, conn.snd_una), min(board.lost_below, conn.snd_nxt)
    )
    return max(0, flight - board.size() - unrepaired)


def _new_data(conn: TcpConnection, service: TcpService, now: float) -> SuperSegment | None:
    start = conn.snd_nxt
    end = conn.data_end
    unsent = end - start
    fin_unsent = conn.fin_seq is not None and start <= conn.fin_seq
    if unsent <= 0 and not fin_unsent:
        return None
    if (
        start == conn.snd_una
        and unsent > 0
        and conn.last_sent_at
        and now - conn.last_sent_at > conn.rtt.rto
        and conn.recovery_point is None
    ):
        conn.congestion.cwnd = min(conn.congestion.cwnd, _restart_window(conn))
    window = conn.snd_una + conn.snd_wnd - start
    room = min(window, conn.congestion.cwnd - pipe(conn))
    if unsent <= 0:
        # Only the FIN is left; like a byte of data it needs the window, but it may always be
        # tried when nothing else is under way.
        if window < 1 and conn.flight:
            return None
        return _data(conn, service, start, 0, now, fresh=True)
    size = min(unsent, room, MAX_RUN_SIZE)
    if size <= 0:
        if window <= 0 and not conn.flight:
            _arm_retransmission(conn, service, now)  # as the persist timer
        return None
    mss = conn.mss
    if size > mss:
        if size < unsent or conn.cork:
            size -= size % mss
    elif size < mss and not _may_send_small(conn, size, unsent):
        if not conn.flight:
            _arm_retransmission(conn, service, now)
        return None
    return _data(conn, service, start, size, now, fresh=True)


def _restart_window(conn: TcpConnection) -> int:
    """RFC 5681 section 4.1: after idleness, as at the start."""
    return 10 * conn.mss


def _may_send_small(conn: TcpConnection, size: int, unsent: int) -> bool:
    """Silly-window avoidance and Nagle (RFC 9293 sections 3.8.6.2.1 and 3.7.4)."""
    if size < unsent:
        # Limited by window: only if that is at least half of the largest there ever was, or
        # nothing is under way that would open it.
        return not conn.flight
    if conn.fin_seq is not None:
        return True
    if conn.cork:
        return False
    return conn.nodelay or not conn.flight


def _data(
    conn: TcpConnection,
    service: TcpService,
    start: int,
    size: int,
    now: float,
    *,
    fresh: bool = False,
) -> SuperSegment:
    """Data from ``start`` on, at most ``size`` bytes, with the FIN where it belongs."""
    offset = start - conn.snd_una
    size = min(size, conn.send_buffer.size - offset)
    payload = conn.send_buffer.peek(offset, size) if size > 0 else _EMPTY
    if fresh and len(payload) > conn.mss and start + len(payload) < conn.data_end:
        # The ring wraps here: only whole segments, unless that is all of this side.
        whole = len(payload) - len(payload) % conn.mss
        payload = payload[:whole]
    end = start + len(payload)
    flags = tcp.ACK
    if payload and end == conn.data_end:
        flags |= tcp.PSH
    if conn.fin_seq is not None and end == conn.fin_seq:
        flags |= tcp.FIN
        end += 1
    if fresh or end > conn.snd_nxt:
        if end > conn.snd_max:
            _time(conn, start, now)
        conn.snd_nxt = max(conn.snd_nxt, end)
        conn.snd_max = max(conn.snd_max, conn.snd_nxt)
    _arm_retransmission(conn, service, now)
    if conn.recovery_point is None:
        _arm_tail_probe(conn, service, now)
    return _segment(conn, service, start, payload, flags, now)


def _probe(conn: TcpConnection, service: TcpService, now: float) -> SuperSegment | None:
    """Ask whether the far end is there: its last byte again, or one beyond a closed window."""
    if conn.snd_wnd == 0 and conn.data_end > conn.snd_nxt and not conn.flight:
        return _data(conn, service, conn.snd_nxt, 1, now, fresh=True)
    # A keep-alive: a sequence number that the far end has, so it acknowledges (RFC 9293 3.8.4).
    return _segment(conn, service, conn.snd_una - 1, _EMPTY, tcp.ACK, now)


def repairs_lost(conn: TcpConnection, service: TcpService) -> None:
    """Two round trips after a repair nothing new is acknowledged: it was lost, send it again.

    RFC 8985 (RACK) finds the same by the times of what was sent later; here, where nothing later
    may be sent, the clock has to do. The window stays as small as the loss has made it.
    """
    conn.repair_rounds += 1
    conn.scoreboard.high_retransmitted = conn.snd_una
    service.wake(conn)


def tail(conn: TcpConnection, service: TcpService, now: float) -> SuperSegment | None:
    """RFC 8985 section 7.3: the last segment again, so that its acknowledgment tells of holes."""
    if conn.tail_probed or conn.recovery_point is not None:
        return None
    conn.tail_probed = True
    end = min(conn.snd_max, conn.data_end)
    start = max(conn.snd_una, end - conn.mss)
    if start >= end:
        if conn.fin_unacknowledged() and conn.flight:
            return _data(conn, service, max(conn.snd_una, end), 0, now)
        return None
    conn.timed_seq = None
    conn.retransmissions += 1
    service.timers.arm((conn, Timer.RETRANSMIT), now + conn.rtt.rto)
    return _data(conn, service, start, end - start, now)


def _segment(
    conn: TcpConnection,
    service: TcpService,
    seq: int,
    payload: memoryview,
    flags: int,
    now: float,
) -> SuperSegment:
    options = b""
    if conn.timestamps:
        options = tcp.build_timestamps(service.timestamp(now), conn.ts_recent)
    if conn.sack and conn.reassembly and not payload:
        limit = MAX_SACK_BLOCKS if conn.timestamps else MAX_SACK_BLOCKS + 1
        blocks = [
            (left & 0xFFFFFFFF, right & 0xFFFFFFFF) for left, right in conn.reassembly.blocks(limit)
        ]
        options += tcp.build_sack(blocks)
    window = conn.receive_window() >> conn.rcv_scale
    window = min(window, 0xFFFF)
    conn.rcv_adv = max(conn.rcv_adv, conn.rcv_nxt + (window << conn.rcv_scale))
    conn.ack_due = False
    conn.unacknowledged_segments = 0
    service.timers.cancel((conn, Timer.DELAYED_ACK))
    conn.last_sent_at = now
    header = tcp.build(
        conn.local[1],
        conn.remote[1],
        seq=seq & 0xFFFFFFFF,
        ack=conn.rcv_nxt & 0xFFFFFFFF,
        flags=flags,
        window=window,
        options=options,
    )
    return service.packet(conn, header, payload, conn.mss)


def _time(conn: TcpConnection, seq: int, now: float) -> None:
    if conn.timed_seq is None and not conn.timestamps:
        conn.timed_seq = seq
        conn.timed_at = now


def _arm_retransmission(conn: TcpConnection, service: TcpService, now: float) -> None:
    """RFC 6298 (5.1): if it is not running."""
    if service.timers.due_at((conn, Timer.RETRANSMIT)) is None:
        service.timers.arm((conn, Timer.RETRANSMIT), now + conn.rtt.rto)


def _arm_repair_check(conn: TcpConnection, service: TcpService, now: float) -> None:
    srtt = conn.rtt.srtt
    if srtt is not None and conn.sack and not conn.in_timeout:
        timeout = max(2 * srtt, MIN_PROBE_TIMEOUT) * (1 << min(conn.repair_rounds, 10))
        if timeout < conn.rtt.rto:
            service.timers.arm((conn, Timer.PROBE), now + timeout)


def _arm_tail_probe(conn: TcpConnection, service: TcpService, now: float) -> None:
    """RFC 8985 section 7.2; only with SACK, whose absence would leave the answer ambiguous."""
    srtt = conn.rtt.srtt
    if srtt is None or not conn.sack or conn.tail_probed:
        return
    timeout = max(2 * srtt, MIN_PROBE_TIMEOUT)
    if conn.flight <= conn.mss:
        timeout += DELAYED_ACK_TIMEOUT
    service.timers.arm((conn, Timer.PROBE), now + min(timeout, conn.rtt.rto))
