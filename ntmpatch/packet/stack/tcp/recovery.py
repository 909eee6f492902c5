"""Acknowledgments, losses and time-outs: what the sender makes of what it hears, or does not.

RFC 5681 and 6582 without SACK, RFC 6675 with it; the tail probe is of RFC 8985, section 7.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ntmpatch.packet.stack.tcp.connection import TcpConnection, Timer
from ntmpatch.packet.stack.tcp.output import pipe
from ntmpatch.packet.stack.tcp.scoreboard import DUPLICATE_THRESHOLD
from ntmpatch.packet.stack.tcp.states import State

if TYPE_CHECKING:
    from ntmpatch.packet.stack.tcp.service import TcpService
    from ntmpatch.wire.tcp import Segment

SYN_RETRIES = 6
"""Linux's tcp_syn_retries: 127 s until ETIMEDOUT."""

GIVE_UP_AFTER = 924.6
"""Seconds without an acknowledgment: what Linux's 15 retries amount to."""


def acknowledged(
    conn: TcpConnection, service: TcpService, seg: Segment, seq: int, ack: int, now: float
) -> None:
    """An acceptable ACK: data released, window updated, losses found."""
    before = conn.snd_una
    old_window = conn.snd_wnd
    _update_window(conn, seg, seq, ack)
    sacked = _take_sack(conn, seg, ack)
    if ack > before:
        _advance(conn, service, seg, ack, now)
    elif (
        conn.snd_nxt > conn.snd_una
        and not seg.size
        and ack == before
        and (sacked or (not conn.sack and conn.snd_wnd == old_window))
    ):
        conn.duplicate_acks += 1
    _find_losses(conn, now)
    if conn.snd_wnd > old_window or ack > before or sacked:
        if conn.snd_una == conn.snd_nxt and conn.data_end > conn.snd_nxt and conn.snd_wnd:
            service.timers.cancel((conn, Timer.RETRANSMIT))  # it was the persist timer
            conn.rtt.progress()
        service.wake(conn)


def _update_window(conn: TcpConnection, seg: Segment, seq: int, ack: int) -> None:
    """RFC 9293 section 3.10.7.4, fifth step: only what is newer updates SND.WND."""
    if ack < conn.snd_una:
        return
    if conn.snd_wl1 < seq or (conn.snd_wl1 == seq and conn.snd_wl2 <= ack):
        conn.snd_wnd = seg.window << conn.snd_scale
        conn.snd_wl1 = seq
        conn.snd_wl2 = ack


def _take_sack(conn: TcpConnection, seg: Segment, ack: int) -> bool:
    """Enter the blocks of an ACK; whether they tell anything new."""
    if not conn.sack or not seg.options.sack:
        return False
    fresh = 0
    floor = max(ack, conn.snd_una)
    for left, right in seg.options.sack:
        start = conn.unwrap(left, conn.snd_una)
        end = conn.unwrap(right, conn.snd_una)
        # Below the ACK it is a D-SACK (RFC 2883); beyond what was sent, nonsense.
        if floor <= start < end <= conn.snd_max:
            fresh += conn.scoreboard.add(start, end)
    return fresh > 0


def _advance(conn: TcpConnection, service: TcpService, seg: Segment, ack: int, now: float) -> None:
    """New data is acknowledged."""
    size = ack - conn.snd_una
    in_use = conn.snd_nxt - conn.snd_una + conn.mss > conn.congestion.cwnd // 2
    data = min(size, conn.send_buffer.size)
    conn.send_buffer.release(data)
    conn.snd_una = ack
    conn.snd_nxt = max(conn.snd_nxt, ack)
    conn.scoreboard.acknowledged(ack)
    conn.duplicate_acks = 0
    conn.tail_probed = False
    conn.repair_rounds = 0
    conn.first_timeout_at = None
    if conn.timestamps and seg.options.echo:
        service.sample_rtt(conn, seg.options.echo, now)
    elif conn.timed_seq is not None and ack > conn.timed_seq:
        conn.rtt.sample(now - conn.timed_at)
        conn.timed_seq = None
    conn.rtt.progress()
    if conn.recovery_point is None:
        if in_use:
            conn.congestion.acknowledged(size, conn.rtt.srtt or 0.0, now)
    elif ack >= conn.recovery_point:
        conn.recovery_point = None
        conn.in_timeout = False
    elif conn.in_timeout:
        conn.congestion.acknowledged(size, conn.rtt.srtt or 0.0, now)
        conn.scoreboard.high_retransmitted = max(conn.scoreboard.high_retransmitted, ack)
    elif not conn.sack:
        # RFC 6582 (partial ACK): the next hole begins here.
        conn.scoreboard.high_retransmitted = ack
        conn.scoreboard.lost_below = max(conn.scoreboard.lost_below, ack + conn.mss)
    timers = service.timers
    timers.cancel((conn, Timer.PROBE))
    if conn.snd_una == conn.snd_max:
        timers.cancel((conn, Timer.RETRANSMIT))  # RFC 6298 (5.2)
    else:
        timers.arm((conn, Timer.RETRANSMIT), now + conn.rtt.rto)  # (5.3)
    if conn.blocked and data and conn.handler is not None and conn.fin_seq is None:
        conn.blocked = False
        conn.handler.writable()


def _find_losses(conn: TcpConnection, now: float) -> None:
    board = conn.scoreboard
    if conn.sack:
        lost = board.detect(conn.snd_una, conn.mss)
        if conn.tail_probed and conn.recovery_point is None and board.highest > conn.snd_una:
            # The probe was sent long after what is missing below it: by now that is lost.
            board.lost_below = max(board.lost_below, board.highest)
            lost = True
        if (
            conn.recovery_point is not None
            and not conn.in_timeout
            and board.high_retransmitted > conn.snd_una
            and board.highest > board.retransmitted_at_nxt + (DUPLICATE_THRESHOLD - 1) * conn.mss
            and board.retransmitted_at_nxt
        ):
            # What was sent after the repair has arrived, the repair has not: it was lost as well.
            board.high_retransmitted = conn.snd_una
            board.retransmitted_at_nxt = conn.snd_max
    else:
        lost = conn.duplicate_acks == DUPLICATE_THRESHOLD
        if lost and conn.recovery_point is None:
            board.lost_below = conn.snd_una + conn.mss
    if lost and conn.recovery_point is None:
        conn.recovery_point = conn.snd_max
        board.high_retransmitted = conn.snd_una
        board.retransmitted_at_nxt = conn.snd_max
        conn.congestion.lost(max(pipe(conn), conn.flight // 2))
    del now


def retransmission_timeout(conn: TcpConnection, service: TcpService, now: float) -> None:
    """RFC 6298 (5.4)-(5.7); with nothing under way it is the persist timer (RFC 9293 3.8.6.1)."""
    conn.timeouts += 1
    if conn.state in (State.SYN_SENT, State.SYN_RECEIVED):
        if conn.rtt.backoff >= SYN_RETRIES:
            service.finish(conn, errno.ETIMEDOUT if conn.accept is None else 0)
            return
        conn.rtt.back_off()
        conn.syn_due = True
        conn.timed_seq = None
        service.wake(conn)
        return
    if conn.snd_una == conn.snd_max:
        if conn.data_end > conn.snd_nxt or conn.fin_unacknowledged():
            conn.rtt.back_off()
            conn.probe_due = True
            service.timers.arm((conn, Timer.RETRANSMIT), now + conn.rtt.rto)
            service.wake(conn)
        return
    if conn.first_timeout_at is None:
        conn.first_timeout_at = now
    elif now - conn.first_timeout_at >= GIVE_UP_AFTER and now - conn.last_heard_at > 60.0:
        service.finish(conn, errno.ETIMEDOUT)
        return
    if conn.snd_wnd or conn.flight > 1:
        conn.congestion.timed_out(pipe(conn), first=not conn.in_timeout)
    conn.rtt.back_off()
    mark_all_lost(conn)
    conn.timed_seq = None
    service.timers.arm((conn, Timer.RETRANSMIT), now + conn.rtt.rto)
    service.wake(conn)


def mark_all_lost(conn: TcpConnection) -> None:
    """Everything under way is to be sent again, from the first hole on."""
    board = conn.scoreboard
    board.clear()
    board.high_retransmitted = conn.snd_una
    board.lost_below = conn.snd_max
    board.retransmitted_at_nxt = 0
    conn.recovery_point = conn.snd_max
    conn.in_timeout = True
    conn.duplicate_acks = 0


def path_changed(conn: TcpConnection, service: TcpService, now: float) -> None:
    """The way to the far end is another one: what was learned of it is void.

    Whatever was under way went the old way: it is sent again at once, and the far end is told
    where we are, so that it does the same if it has data under way.
    """
    conn.rtt.restart()
    conn.congestion.forget()
    if conn.state in (State.SYN_SENT, State.SYN_RECEIVED):
        conn.syn_due = True
    elif conn.snd_una < conn.snd_max:
        mark_all_lost(conn)
        conn.timed_seq = None
        service.timers.arm((conn, Timer.RETRANSMIT), now + conn.rtt.rto)
    conn.ack_due = True
    service.wake(conn)
