"""What a connection sends next: control, repairs, new data, probes, acknowledgments.

Called when the carrier can send, so a segment is made of what is known at that instant. The order
is that of this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntmpatch.packet.stack.tcp.autotune import WINDOW_SCALE
from ntmpatch.packet.stack.tcp.connection import TcpConnection, Timer
from ntmpatch.packet.stack.tcp.states import State
from ntmpatch.wire import ip, tcp

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
    if conn.state is State.SYN_SENT:
        return None
    if conn.state is State.SYN_RECEIVED:
        # Only a challenge ACK (RFC 5961 section 3.2).
        return _segment(conn, service, conn.snd_nxt, _EMPTY, tcp.ACK, now) if conn.ack_due else None
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
    if conn.ecn:
        flags |= tcp.ECE
    elif service.offers_ecn and not answering and not conn.rtt.backoff:
        flags |= tcp.ECE | tcp.CWR  # not the second time: something may have dropped it
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
    window = min(conn.receive_window(), 0xFFFF)
    if answering:
        conn.rcv_adv = max(conn.rcv_adv, conn.rcv_nxt + window)
    conn.last_sent_at = now
    conn.syn_sent_at = now
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
    """The first of what is lost and not sent again (RFC 6675, NextSeg (1))."""
    lost = conn.scoreboard.next_lost()
    if lost is None or not conn.episode.is_active:
        return None
    mss = conn.mss
    size = lost.end - lost.start
    if conn.episode.must_repair:
        room = max(conn.congestion.cwnd - conn.pipe, mss)
    else:
        room = conn.congestion.cwnd - conn.pipe
        if room < min(size, mss):
            return None
    size = min(size, room, MAX_RUN_SIZE)
    if size > mss:
        size -= size % mss
    return _again(conn, service, lost.start, size, now)


def _again(
    conn: TcpConnection, service: TcpService, start: int, size: int, now: float
) -> SuperSegment:
    """Send what was sent before, as far as it lies in one piece in the buffer."""
    segment = _data(conn, service, start, size, now)
    end = start + len(segment.payload)
    if end == conn.fin_seq and end < start + size:
        end += 1
    count = segment.packet_count
    conn.scoreboard.resent(start, end, now)
    conn.retransmissions += count
    conn.bytes_resent += len(segment.payload)
    conn.episode.repaired(count, service.timestamp(now) if conn.timestamps else None)
    if start == conn.snd_una:
        service.arm_retransmission(conn, now)  # the repair has its time, too
    else:
        _arm_retransmission(conn, service, now)
    return segment


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
        and not conn.episode.is_active
    ):
        conn.congestion.idle()
    window = conn.snd_una + conn.snd_wnd - start
    allowed = conn.congestion.cwnd - conn.pipe
    if unsent > allowed:
        conn.limited_until = start  # and what the rest of this call sends
    room = min(window, allowed)
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
        if size < unsent or (size % mss and not _may_send_small(conn, size, unsent)):
            size -= size % mss
    elif size < mss and not _may_send_small(conn, size, unsent):
        if not conn.flight:
            _arm_retransmission(conn, service, now)
        return None
    return _data(conn, service, start, size, now, fresh=True)


def _may_send_small(conn: TcpConnection, size: int, unsent: int) -> bool:
    """Silly-window avoidance and Nagle (RFC 9293 sections 3.8.6.2.1 and 3.7.4)."""
    if size < unsent:
        # Limited by the window: only if that is half of the largest there ever was, or nothing is
        # under way that would open it.
        return not conn.flight or 2 * size >= conn.snd_wnd_max
    if conn.fin_seq is not None:
        return True
    if conn.cork:
        return False
    # Minshall's: only one small segment is under way, whatever there is of full ones.
    return conn.nodelay or conn.small_end <= conn.snd_una


def _data(
    conn: TcpConnection,
    service: TcpService,
    start: int,
    size: int,
    now: float,
    *,
    fresh: bool = False,
) -> SuperSegment:
    """``size`` numbers from ``start`` on, data and perhaps the FIN, or what fits of them.

    ``fresh`` data takes the FIN along if nothing is between.
    """
    offset = start - conn.snd_una
    limit = start + size
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
    if end == conn.fin_seq and (fresh or end < limit):
        flags |= tcp.FIN
        end += 1
    if conn.episode.is_active:
        conn.episode.prr.out += len(payload)
    ecn = ip.NOT_ECT
    if fresh:
        conn.scoreboard.sent(start, end, now)
        conn.snd_nxt = end
        if len(payload) % conn.mss:
            conn.small_end = end
        if conn.limited_until == start:
            conn.limited_until = end
        if conn.ecn and payload:
            ecn = ip.ECT_0  # neither repairs nor anything without data (RFC 3168 section 6.1.5)
            if conn.episode.reduction_due:
                conn.episode.reduction_due = False
                flags |= tcp.CWR
        _arm_retransmission(conn, service, now)
        if not conn.episode.is_active:
            arm_tail_probe(conn, service, now)
    return _segment(conn, service, start, payload, flags, now, ecn)


def _probe(conn: TcpConnection, service: TcpService, now: float) -> SuperSegment | None:
    """Ask whether the far end is there, and how large its window is (RFC 9293 3.8.4, 3.8.6.1).

    By a sequence number that it has acknowledged, which it has to answer, as Linux does. A byte
    beyond the window would have to be sent again once the window opens, by the next time-out.
    """
    return _segment(conn, service, conn.snd_una - 1, _EMPTY, tcp.ACK, now)


def tail(conn: TcpConnection, service: TcpService, now: float) -> SuperSegment | None:
    """TLP_send_probe (RFC 8985 section 7.3): new data or the last segment again.

    Its acknowledgment tells of the holes below it, long before the retransmission timer would.
    """
    episode = conn.episode
    last = conn.scoreboard.last()
    if episode.probe_end is not None or episode.is_active or last is None or last.sacked:
        return None
    fresh = min(conn.data_end - conn.snd_nxt, conn.snd_una + conn.snd_wnd - conn.snd_nxt, conn.mss)
    if fresh > 0:
        segment = _data(conn, service, conn.snd_nxt, fresh, now, fresh=True)
        episode.probe_resent = False
    else:
        start = max(last.start, last.end - conn.mss)
        segment = _again(conn, service, start, last.end - start, now)
        episode.probe_resent = True
    episode.probe_end = conn.snd_nxt
    service.timers.arm((conn, Timer.RETRANSMIT), now + conn.rtt.rto)
    service.timers.cancel((conn, Timer.TAIL))
    return segment


def _segment(
    conn: TcpConnection,
    service: TcpService,
    seq: int,
    payload: memoryview,
    flags: int,
    now: float,
    ecn: int = ip.NOT_ECT,
) -> SuperSegment:
    if conn.ecn_echo:
        flags |= tcp.ECE
    options = b""
    if conn.timestamps:
        options = tcp.build_timestamps(service.timestamp(now), conn.ts_recent)
    if conn.sack and not payload and (conn.dsack is not None or conn.reassembly):
        options += tcp.build_sack(_sack_blocks(conn))
    # Rounded down, so the edge may seem to move left by less than a unit (RFC 7323 section 2.4);
    # what was promised is accepted all the same.
    window = min(conn.receive_window() >> conn.rcv_scale, 0xFFFF)
    conn.rcv_adv = max(conn.rcv_adv, conn.rcv_nxt + (window << conn.rcv_scale))
    conn.ack_due = False
    conn.last_acked = conn.rcv_nxt
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
    segment = service.packet(conn, header, payload, conn.mss, ecn)
    conn.segments_sent += segment.packet_count
    return segment


def _sack_blocks(conn: TcpConnection) -> list[tuple[int, int]]:
    """What arrived twice (RFC 2883), then what arrived out of order, the latest first."""
    limit = MAX_SACK_BLOCKS if conn.timestamps else MAX_SACK_BLOCKS + 1
    blocks: list[tuple[int, int]] = []
    if conn.dsack is not None:
        blocks.append(conn.dsack)
        conn.dsack = None
    blocks += conn.reassembly.blocks(limit - len(blocks))
    return [(left & 0xFFFFFFFF, right & 0xFFFFFFFF) for left, right in blocks]


def _arm_retransmission(conn: TcpConnection, service: TcpService, now: float) -> None:
    """RFC 6298 (5.1): if it is not running."""
    if service.timers.due_at((conn, Timer.RETRANSMIT)) is None:
        service.arm_retransmission(conn, now)


def arm_tail_probe(conn: TcpConnection, service: TcpService, now: float) -> None:
    """TLP_calc_PTO (RFC 8985 section 7.2); only with SACK, without which the answer says little."""
    srtt = conn.rtt.srtt
    if srtt is None or not conn.sack or conn.episode.probe_end is not None:
        return
    if conn.episode.is_active or conn.scoreboard.sacked_size:
        service.timers.cancel((conn, Timer.TAIL))
        return
    timeout = max(2 * srtt, MIN_PROBE_TIMEOUT)
    if conn.flight <= conn.mss:
        timeout += DELAYED_ACK_TIMEOUT
    service.timers.arm((conn, Timer.TAIL), now + min(timeout, conn.rtt.rto))
