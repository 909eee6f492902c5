"""What the sender makes of an acknowledgment: data released, the path measured, losses found.

RFC 8985 (RACK-TLP) with SACK, RFC 6582 without; the window follows RFC 6937 meanwhile. What was
done for nothing is undone: a DSACK (RFC 2883) or an old timestamp (RFC 3522) tells.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from ntmpatch.packet.stack.tcp.connection import TcpConnection, Timer
from ntmpatch.packet.stack.tcp.output import arm_tail_probe

if TYPE_CHECKING:
    from ntmpatch.packet.stack.tcp.scoreboard import Delivered
    from ntmpatch.packet.stack.tcp.service import TcpService
    from ntmpatch.wire.tcp import Segment

DUPLICATE_THRESHOLD = 3

_END = attrgetter("end")


def acknowledged(
    conn: TcpConnection, service: TcpService, seg: Segment, seq: int, ack: int, now: float
) -> None:
    """An acceptable ACK; ``seq`` and ``ack`` are unwrapped."""
    before = conn.snd_una
    old_window = conn.snd_wnd
    advanced = ack > before
    _update_window(conn, seg, seq, ack)
    board = conn.scoreboard
    news = board.acknowledged(ack) if advanced else []
    duplicate: int | None = None
    if conn.sack:
        if seg.options.sack:
            duplicate = _take_sack(conn, seg, ack, news)
    elif not advanced and conn.flight and not seg.size and conn.snd_wnd == old_window:
        conn.episode.duplicate_acks += 1
    in_use = conn.flight if conn.congestion.is_slow_start else 0
    rtt = _measure(conn, service, seg, ack, news, now) if news else None
    if advanced:
        _advance(conn, service, ack, now)
    _tail_probe_heard(conn, seg, ack, duplicate, advanced=advanced)
    if duplicate is not None:
        conn.rack.duplicate_told(before, conn.snd_nxt)
        if conn.episode.duplicate_told(duplicate):
            _undo(conn)
    lost_before = board.lost_size
    find_losses(conn, service, now)
    _respond(
        conn,
        service,
        seg,
        sum(each.size for each in news),
        rtt,
        in_use,
        now,
        advanced=advanced,
        safe=advanced and board.lost_size <= lost_before,
    )
    episode = conn.episode
    if (
        conn.snd_wnd > old_window
        or advanced
        or news
        or duplicate is not None
        or episode.is_active
        or episode.duplicate_acks
    ):
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
        conn.snd_wnd_max = max(conn.snd_wnd_max, conn.snd_wnd)
        conn.snd_wl1 = seq
        conn.snd_wl2 = ack


def _take_sack(conn: TcpConnection, seg: Segment, ack: int, news: list[Delivered]) -> int | None:
    """Enter the blocks of an ACK; the end of a DSACK among them, if there is one."""
    duplicate: int | None = None
    board = conn.scoreboard
    floor = max(ack, conn.snd_una)
    blocks = seg.options.sack
    for index, (left, right) in enumerate(blocks):
        start = conn.unwrap(left, conn.snd_una)
        end = conn.unwrap(right, conn.snd_una)
        if start >= end or end > conn.snd_nxt:
            continue  # nonsense
        if end <= floor:
            if not index:
                duplicate = end  # RFC 2883 section 4: the first block, below the ACK
            continue
        if not index and len(blocks) > 1 and _is_within(conn, start, end, blocks[1]):
            duplicate = end  # or within the second
        board.sack(max(start, floor), end, news)
    return duplicate


def _is_within(conn: TcpConnection, start: int, end: int, block: tuple[int, int]) -> bool:
    left = conn.unwrap(block[0], conn.snd_una)
    right = conn.unwrap(block[1], conn.snd_una)
    return left <= start and end <= right


def _measure(
    conn: TcpConnection,
    service: TcpService,
    seg: Segment,
    ack: int,
    news: list[Delivered],
    now: float,
) -> float | None:
    """Sample the round trip, and let RACK know what arrived (RFC 8985 section 6.2, 1 to 3)."""
    since = latest = conn.rtt.since
    clean = True
    for each in news:
        if each.retransmitted:
            clean = False
        elif each.sent_at > latest:
            latest = each.sent_at
    if not clean:
        # Karn: what lay behind a hole may have arrived long before this ACK.
        fresh = (each for each in news if each.end > ack and not each.retransmitted)
        latest = max((each.sent_at for each in fresh), default=since)
    rtt: float | None = None
    if latest > since:
        rtt = now - latest
        conn.rtt.sample(rtt, now)
    elif conn.timestamps and seg.options.echo:
        service.sample_rtt(conn, seg.options.echo, now)
    rack = conn.rack
    if len(seg.options.sack) > 1:
        # In order: what one ACK tells of together was not reordered.
        news.sort(key=_END)
    if clean and len(news) == 1:
        each = news[0]
        if each.sent_at >= since:
            rack.delivered(each.sent_at, each.end, retransmitted=False, spurious=False, now=now)
        return rtt
    min_rtt = conn.rtt.min_rtt
    echo = seg.options.echo if conn.timestamps else 0
    for each in news:
        if each.sent_at < since:
            continue
        spurious = each.retransmitted and (
            now - each.sent_at < min_rtt
            or (echo != 0 and is_older(echo, service.timestamp(each.sent_at)))
        )
        rack.delivered(
            each.sent_at,
            each.end,
            retransmitted=each.retransmitted,
            spurious=spurious,
            now=now,
        )
    return rtt


def is_older(one: int, other: int) -> bool:
    """Whether timestamp ``one`` is before ``other``, modulo 2^32."""
    return (one - other) & 0xFFFFFFFF >= 0x80000000


def _advance(conn: TcpConnection, service: TcpService, ack: int, now: float) -> None:
    """New data is acknowledged."""
    size = ack - conn.snd_una
    buffer = conn.send_buffer
    data = min(size, buffer.size)
    buffer.release(data)
    if not buffer.size:
        buffer.rest()
    conn.bytes_acked += data
    conn.snd_una = ack
    conn.snd_nxt = max(conn.snd_nxt, ack)
    conn.first_timeout_at = None
    conn.soft_errno = 0
    conn.rtt.progress()
    timers = service.timers
    if ack == conn.snd_nxt:
        timers.cancel((conn, Timer.RETRANSMIT))  # RFC 6298 (5.2)
        timers.cancel((conn, Timer.TAIL))
        timers.cancel((conn, Timer.REORDERING))
    else:
        timers.arm((conn, Timer.RETRANSMIT), now + conn.rtt.rto)  # (5.3)
        arm_tail_probe(conn, service, now)
    if conn.blocked and data and conn.handler is not None and conn.fin_seq is None:
        conn.blocked = False
        conn.handler.writable()


def _tail_probe_heard(
    conn: TcpConnection, seg: Segment, ack: int, duplicate: int | None, *, advanced: bool
) -> None:
    """TLP_process_ack (RFC 8985 section 7.4.2): did the probe repair a loss that it hid?"""
    episode = conn.episode
    end = episode.probe_end
    if end is None or ack < end:
        return
    if not episode.probe_resent or duplicate is not None:
        episode.probe_end = None
    elif ack > end:
        episode.probe_end = None
        conn.congestion.reduce()
        conn.congestion.cwnd = min(conn.congestion.cwnd, conn.congestion.ssthresh)
    elif not advanced and not seg.size and not seg.options.sack:
        episode.probe_end = None


def find_losses(conn: TcpConnection, service: TcpService, now: float) -> None:
    """What is lost by now, and when to look again for what may be."""
    board = conn.scoreboard
    episode = conn.episode
    if conn.sack:
        if not conn.rack.sent_at or conn.rtt.srtt is None:
            return
        rack = conn.rack
        eager = episode.is_active or board.sacked_size > (DUPLICATE_THRESHOLD - 1) * conn.mss
        window = rack.window(conn.rtt.min_rtt, conn.rtt.srtt, eager=eager)
        due_at = board.detect(rack.sent_at, rack.end, rack.rtt + window, now)
        if due_at is not None:
            service.timers.arm((conn, Timer.REORDERING), due_at)
        else:
            service.timers.cancel((conn, Timer.REORDERING))
    elif episode.duplicate_acks >= DUPLICATE_THRESHOLD and not episode.is_active:
        board.lose_first(conn.mss)


def start_recovery(conn: TcpConnection) -> None:
    """Something is lost: repair it, at a lower rate."""
    conn.episode.begin(
        conn.snd_una,
        conn.snd_nxt,
        conn.pipe + conn.scoreboard.lost_size,
        conn.congestion,
        timeout=False,
    )
    if conn.snd_una >= conn.episode.congestion_point:
        conn.congestion.reduce()
        conn.episode.reduction_due = conn.ecn


def _respond(
    conn: TcpConnection,
    service: TcpService,
    seg: Segment,
    size: int,
    rtt: float | None,
    in_use: int,
    now: float,
    *,
    advanced: bool,
    safe: bool,
) -> None:
    """Begin, go on with or end a recovery; else let the window grow."""
    episode = conn.episode
    congestion = conn.congestion
    board = conn.scoreboard
    if episode.point is not None:
        if advanced and _was_needless(conn, seg):
            _undo(conn)
        elif conn.snd_una >= episode.point:
            if not episode.in_timeout:
                congestion.cwnd = min(congestion.cwnd, congestion.ssthresh)
            episode.finish()
            conn.rack.recovered()
        elif advanced and not conn.sack:
            # RFC 6582: a partial ACK; the next hole begins here.
            episode.duplicate_acks = 0
            board.lose_first(conn.mss)
            episode.must_repair = True
    elif advanced:
        episode.duplicate_acks = 0
    if episode.point is None and board.lost_size:
        start_recovery(conn)
    if episode.point is not None and not episode.in_timeout:
        congestion.cwnd = episode.prr.window(
            size, conn.pipe, congestion.ssthresh, conn.mss, safe=safe
        )
        return
    if not size:
        return
    if congestion.is_slow_start:
        # The window is in use if at least half of it was (Linux's tcp_is_cwnd_limited).
        limited = 2 * in_use >= congestion.cwnd
    else:
        limited = conn.snd_una <= conn.limited_until
    if limited:
        srtt = conn.rtt.srtt or 0.0
        congestion.acknowledged(size, rtt, srtt, conn.snd_una, conn.snd_nxt, now)
    del service


def _was_needless(conn: TcpConnection, seg: Segment) -> bool:
    """Eifel (RFC 3522): what was acknowledged had been sent before the first repair."""
    stamp = conn.episode.resent_stamp
    echo = seg.options.echo
    if conn.episode.is_certain:
        return False
    return bool(conn.timestamps and echo and stamp is not None and is_older(echo, stamp))


def _undo(conn: TcpConnection) -> None:
    conn.scoreboard.not_lost()
    conn.episode.undo(conn.congestion)


def heard_congestion(conn: TcpConnection) -> None:
    """ECE: reduce, once a window of data (RFC 3168 section 6.1.2)."""
    episode = conn.episode
    if conn.snd_una <= episode.congestion_point or episode.is_active:
        return
    conn.congestion.reduce()
    conn.congestion.cwnd = conn.congestion.ssthresh
    episode.congestion_point = conn.snd_nxt
    episode.reduction_due = True
