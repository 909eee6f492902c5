"""What a connection does when a timer falls due, or the path has become another one."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ntmpatch.packet.stack.tcp.connection import TcpConnection, Timer
from ntmpatch.packet.stack.tcp.recovery import find_losses, start_recovery
from ntmpatch.packet.stack.tcp.states import SENDING, State

if TYPE_CHECKING:
    from ntmpatch.packet.stack.tcp.service import TcpService

SYN_RETRIES = 6
"""Linux's tcp_syn_retries: 127 s until ETIMEDOUT."""

GIVE_UP_AFTER = 924.6
"""Seconds without an acknowledgment: what Linux's 15 retries amount to."""


def retransmission_timeout(conn: TcpConnection, service: TcpService, now: float) -> None:
    """RFC 6298 (5.4)-(5.7); with nothing under way it is the persist timer (RFC 9293 3.8.6.1)."""
    if conn.state in (State.SYN_SENT, State.SYN_RECEIVED):
        _syn_timeout(conn, service, now)
        return
    if not conn.flight and conn.data_end <= conn.snd_nxt and not conn.fin_unacknowledged():
        return
    conn.timeouts += 1
    if _is_given_up(conn, now):
        service.finish(conn, conn.soft_errno or errno.ETIMEDOUT)
        return
    conn.rtt.back_off()
    if not conn.flight:
        conn.probe_due = True
    else:
        _lose_by_timeout(conn, now)
    service.arm_retransmission(conn, now)
    service.wake(conn)


def _syn_timeout(conn: TcpConnection, service: TcpService, now: float) -> None:
    conn.timeouts += 1
    if conn.first_timeout_at is None:
        conn.first_timeout_at = now
    if conn.rtt.backoff >= SYN_RETRIES or _is_overdue(conn, now):
        service.finish(conn, errno.ETIMEDOUT if conn.accept is None else 0)
        return
    conn.rtt.back_off()
    conn.syn_due = True
    service.wake(conn)


def _is_given_up(conn: TcpConnection, now: float) -> bool:
    """Whether nothing has been acknowledged for too long (RFC 1122 section 4.2.3.5: R2)."""
    if conn.first_timeout_at is None:
        conn.first_timeout_at = now
    if conn.user_timeout is not None:
        return _is_overdue(conn, now)
    # A far end that answers, with its window closed, is waited for without end.
    silent = now - conn.last_heard_at > conn.rtt.rto
    return silent and now - conn.first_timeout_at >= GIVE_UP_AFTER


def _is_overdue(conn: TcpConnection, now: float) -> bool:
    """TCP_USER_TIMEOUT: what was sent a time-out before the first time-out has had its time."""
    if conn.user_timeout is None or conn.first_timeout_at is None:
        return False
    return now - conn.first_timeout_at + conn.rtt.base >= conn.user_timeout - 1e-6


def _lose_by_timeout(conn: TcpConnection, now: float) -> None:
    """RACK_mark_losses_on_RTO (RFC 8985 section 6.3): the first segment, and what is as old."""
    board = conn.scoreboard
    episode = conn.episode
    congestion = conn.congestion
    board.renege()
    pipe = conn.pipe + board.lost_size
    first = not (episode.is_active and episode.in_timeout)
    episode.begin(conn.snd_una, conn.snd_nxt, pipe, congestion, timeout=True)
    episode.duplicate_acks = 0
    if first:
        congestion.reduce()
        episode.reduction_due = conn.ecn
    congestion.timed_out()
    if conn.sack and conn.rack.sent_at:
        board.detect(now, conn.snd_nxt, conn.rack.rtt, now)
        board.lose_first(conn.mss)
    else:
        board.lose_all()


def reordering_timeout(conn: TcpConnection, service: TcpService, now: float) -> None:
    """RACK_on_reordering_timeout: what was overtaken did not come (RFC 8985 section 6.3)."""
    find_losses(conn, service, now)
    if conn.scoreboard.lost_size:
        if not conn.episode.is_active:
            start_recovery(conn)
            conn.congestion.cwnd = conn.episode.prr.window(
                0, conn.pipe, conn.congestion.ssthresh, conn.mss, safe=False
            )
        service.wake(conn)


def keepalive_timeout(conn: TcpConnection, service: TcpService, now: float) -> None:
    """RFC 9293 section 3.8.4, as Linux has it: idle, interval, count."""
    if conn.keepalive is None or conn.state not in SENDING | {State.FIN_WAIT_2}:
        return
    idle, interval, count = conn.keepalive
    due = conn.last_heard_at + idle
    if now < due:  # not the difference: rounded, it may be less than idle when the timer is due
        service.timers.arm((conn, Timer.KEEPALIVE), due)
        return
    if conn.flight:  # the retransmission timer asks
        service.timers.arm((conn, Timer.KEEPALIVE), now + idle)
        return
    limit = conn.user_timeout
    if limit is None:
        gone = conn.probes_sent >= count
    else:
        gone = conn.probes_sent > 0 and now - conn.last_heard_at >= limit
    if gone:
        service.abort(conn, now, conn.soft_errno or errno.ETIMEDOUT)
        return
    conn.probes_sent += 1
    conn.probe_due = True
    service.wake(conn)
    service.timers.arm((conn, Timer.KEEPALIVE), now + interval)


def path_changed(conn: TcpConnection, service: TcpService, now: float) -> None:
    """The way to the far end is another one: what was learned of it is void.

    Whatever was under way went the old way: it is sent again at once, and the far end is told
    where we are, so that it does the same if it has data under way.
    """
    if conn.state is State.TIME_WAIT:
        return  # it has nothing to say
    conn.rtt.restart(now)
    conn.rack.forget()
    conn.congestion.forget()
    conn.episode.forget()
    for timer in (Timer.RETRANSMIT, Timer.TAIL, Timer.REORDERING):
        service.timers.cancel((conn, timer))
    if conn.state in (State.SYN_SENT, State.SYN_RECEIVED):
        conn.syn_due = True
    elif conn.flight:
        conn.scoreboard.renege()
        conn.scoreboard.lose_all()
        conn.episode.begin_elsewhere(conn.snd_una, conn.snd_nxt, conn.congestion)
        service.arm_retransmission(conn, now)
    elif conn.data_end > conn.snd_nxt:
        service.arm_retransmission(conn, now)
    conn.ack_due = True
    service.wake(conn)
