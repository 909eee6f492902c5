"""What a connection says of itself: as Linux's ``struct tcp_info``, and in words."""

from __future__ import annotations

import ipaddress
import struct
from typing import TYPE_CHECKING

from ntmpatch.packet.stack.tcp.states import State

if TYPE_CHECKING:
    from ntmpatch.packet.stack.tcp.connection import TcpConnection

# include/uapi/linux/tcp.h: eight octets, 24 words, 4 double words, 6 words, 4 double words,
# 2 words, 2 double words, 4 words
_INFO = struct.Struct("=8B24I4Q6I4Q2I2Q4I")

_STATES = {
    State.ESTABLISHED: 1,
    State.SYN_SENT: 2,
    State.SYN_RECEIVED: 3,
    State.FIN_WAIT_1: 4,
    State.FIN_WAIT_2: 5,
    State.TIME_WAIT: 6,
    State.CLOSED: 7,
    State.CLOSE_WAIT: 8,
    State.LAST_ACK: 9,
    State.CLOSING: 11,
}
"""include/net/tcp_states.h."""

_OPEN, _DISORDER, _REDUCED, _RECOVERY, _LOSS = range(5)
"""TCP_CA_Open and so on."""

_TIMESTAMPS, _SACK, _WINDOW_SCALE, _ECN = 1, 2, 4, 8
"""TCPI_OPT_*."""

_NEVER = 0xFFFFFFFF
_UNLIMITED = 0xFFFFFFFFFFFFFFFF


def pack_info(conn: TcpConnection, now: float) -> bytes:
    """``struct tcp_info`` of 232 bytes; what is not measured here is zero.

    Times are in microseconds, ``last_*`` in milliseconds, windows in segments, as there.
    """
    mss = conn.mss
    rtt, congestion, board = conn.rtt, conn.congestion, conn.scoreboard
    path_mtu = conn.service.paths.mtu(conn.remote[0])
    last_sent = _milliseconds(now - conn.last_sent_at)
    last_heard = _milliseconds(now - conn.last_heard_at)
    return _INFO.pack(
        _STATES[conn.state],
        _congestion_state(conn),
        min(rtt.backoff, 255),  # retransmits
        min(conn.probes_sent, 255),
        min(rtt.backoff, 255),
        _options(conn),
        conn.snd_scale | conn.rcv_scale << 4,
        0,
        _microseconds(rtt.rto),
        0,  # ato
        mss,
        min(mss, conn.peer_mss or mss),  # rcv_mss
        -(-conn.flight // mss),  # unacked
        -(-board.sacked_size // mss),
        -(-board.lost_size // mss),
        0,  # retrans: under way
        0,  # fackets
        last_sent,
        0,  # last_ack_sent, which Linux does not remember, either
        last_heard,
        last_heard,
        path_mtu,
        conn.receive_space.size,  # rcv_ssthresh
        _microseconds(rtt.srtt or 0.0),
        _microseconds(rtt.rttvar),
        min(congestion.ssthresh // mss, 0x7FFFFFFF),
        congestion.cwnd // mss,
        conn.service.advertised_mss(conn.remote[0]),
        3,  # reordering: the threshold that RACK begins with
        _microseconds(conn.receive_space.rtt),
        conn.receive_space.size,
        conn.retransmissions,
        _UNLIMITED,  # pacing_rate: there is none
        _UNLIMITED,
        conn.bytes_acked,
        conn.bytes_received,
        conn.segments_sent & 0xFFFFFFFF,
        conn.segments_received & 0xFFFFFFFF,
        max(conn.data_end - conn.snd_nxt, 0),  # notsent_bytes
        _microseconds(rtt.min_rtt) if rtt.min_rtt < 4294 else _NEVER,
        0,  # data_segs_in
        0,  # data_segs_out
        0,  # delivery_rate
        0,  # busy_time
        0,  # rwnd_limited
        0,  # sndbuf_limited
        0,  # delivered
        0,  # delivered_ce
        conn.bytes_acked + conn.flight + conn.bytes_resent,  # bytes_sent
        conn.bytes_resent,
        0,  # dsack_dups
        int(conn.rack.reordering_seen),
        0,  # rcv_ooopack
        conn.snd_wnd & 0xFFFFFFFF,
    )


def describe(conn: TcpConnection) -> dict[str, object]:
    """For people and monitors; times in milliseconds, sizes in bytes."""
    srtt = conn.rtt.srtt
    return {
        "local": _endpoint(conn.local),
        "remote": _endpoint(conn.remote),
        "state": conn.state.name.replace("_", "-"),
        "cwnd": conn.congestion.cwnd,
        "srtt_ms": None if srtt is None else round(srtt * 1000, 3),
        "retransmissions": conn.retransmissions,
        "acknowledged": conn.bytes_acked,
        "received": conn.bytes_received,
        "unacknowledged": conn.flight,
        "waiting": conn.waiting_size,
        "mss": conn.mss,
    }


def _endpoint(end: tuple[bytes, int]) -> str:
    address = ipaddress.ip_address(end[0])
    return f"[{address}]:{end[1]}" if address.version == 6 else f"{address}:{end[1]}"


def _congestion_state(conn: TcpConnection) -> int:
    episode = conn.episode
    if episode.is_active:
        return _LOSS if episode.in_timeout else _RECOVERY
    if conn.ecn and conn.snd_una < episode.congestion_point:
        return _REDUCED
    return _DISORDER if conn.scoreboard.sacked_size or episode.duplicate_acks else _OPEN


def _options(conn: TcpConnection) -> int:
    return (
        (_TIMESTAMPS if conn.timestamps else 0)
        | (_SACK if conn.sack else 0)
        | (_WINDOW_SCALE if conn.rcv_scale else 0)
        | (_ECN if conn.ecn else 0)
    )


def _microseconds(seconds: float) -> int:
    return min(int(seconds * 1e6), _NEVER)


def _milliseconds(seconds: float) -> int:
    return min(max(int(seconds * 1000), 0), _NEVER)
