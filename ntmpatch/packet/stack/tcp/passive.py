"""Connections that others open: from a listener's backlog, or from a cookie when that is full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop
from ntmpatch.packet.stack.tcp.connection import TcpConnection
from ntmpatch.packet.stack.tcp.cookies import COOKIE_RTT, COOKIE_WINDOW
from ntmpatch.packet.stack.tcp.input import segment_arrives, take_syn
from ntmpatch.packet.stack.tcp.isn import UNWRAPPED
from ntmpatch.packet.stack.tcp.states import State
from ntmpatch.wire import tcp

if TYPE_CHECKING:
    from ntmpatch.packet.stack.tcp.listener import TcpListener
    from ntmpatch.packet.stack.tcp.service import TcpService
    from ntmpatch.wire.tcp import Segment


def open_passively(
    service: TcpService,
    listener: TcpListener,
    local: tuple[bytes, int],
    remote: tuple[bytes, int],
    seg: Segment,
    now: float,
) -> None:
    """A SYN for a listener (RFC 9293 section 3.10.7.2, third)."""
    is_unattended = listener.is_unattended
    if listener.is_closed:  # the program has just ended, as it turns out
        service.drops.drop(Drop.TCP_NO_CONNECTION)
        service.send_reset(local, remote, seg)
        return
    if is_unattended or service.is_full:
        service.drops.drop(Drop.TCP_BACKLOG_FULL)
        return
    if listener.is_full:
        header = service.cookies.build_answer(
            (*local, *remote),
            seg,
            now,
            mss=service.advertised_mss(remote[0]),
            window_scale=service.window_scale,
            ecn=service.answers_ecn,
        )
        service.emit_bare(local[0], remote[0], header)
        return
    iss = service.initial_sequence(local, remote, now)
    conn = _half_open(service, listener, local, remote, iss, seg, now)
    conn.snd_wnd = seg.window
    conn.release_slot = listener.half_open.discard
    listener.half_open.add(conn)
    conn.syn_due = True
    service.wake(conn)


def _half_open(
    service: TcpService,
    listener: TcpListener,
    local: tuple[bytes, int],
    remote: tuple[bytes, int],
    iss: int,
    syn: Segment,
    now: float,
) -> TcpConnection:
    claim = listener.claim_at(local[0])
    conn = TcpConnection(service, local, remote, claim=claim, iss=iss, state=State.SYN_RECEIVED)
    conn.accept = listener.accept
    service.insert(conn)
    take_syn(conn, service, syn, now)
    conn.last_heard_at = now
    return conn


def open_by_cookie(
    service: TcpService,
    listener: TcpListener,
    local: tuple[bytes, int],
    remote: tuple[bytes, int],
    seg: Segment,
    now: float,
) -> None:
    """A segment for no connection: the last ACK of a handshake, if it brings our cookie back.

    Data may ride on it, or come alone where that ACK was lost.
    """
    syn = None if seg.flags & tcp.SYN else service.cookies.recall((*local, *remote), seg, now)
    if syn is None:
        is_ack = seg.flags & (tcp.SYN | tcp.ACK) == tcp.ACK and service.cookies.are_out(now)
        service.drops.drop(Drop.TCP_BAD_COOKIE if is_ack else Drop.TCP_NO_CONNECTION)
        service.send_reset(local, remote, seg)
        return
    if listener.is_unattended or service.is_full:
        service.drops.drop(Drop.TCP_BACKLOG_FULL)
        return
    iss = UNWRAPPED + ((seg.ack - 1) & 0xFFFFFFFF)
    conn = _half_open(service, listener, local, remote, iss, syn, now)
    conn.snd_nxt = conn.iss + 1
    conn.rcv_adv = conn.rcv_nxt + COOKIE_WINDOW
    elapsed = COOKIE_RTT
    if conn.timestamps:
        # Too much by up to 64 ms, since the echo's low bits were the options.
        elapsed = ((service.timestamp(now) - seg.options.echo) & 0xFFFFFFFF) / 1000
        seg.options.echo = 0
    conn.syn_sent_at = now - min(elapsed, COOKIE_RTT)
    segment_arrives(conn, service, seg, now)


def must_wait(service: TcpService, conn: TcpConnection, seg: Segment) -> bool:
    """The last ACK of a handshake while too many connections wait for the program."""
    if seg.flags & (tcp.SYN | tcp.RST | tcp.ACK) != tcp.ACK:
        return False
    listener = service.listener_of(conn) if conn.accept else None
    if listener is None or not listener.is_unattended:
        return conn.done  # if the listener has closed
    # As Linux: our SYN-ACK goes again by its timer, and the far end's ACK or data after it.
    service.drops.drop(Drop.TCP_BACKLOG_FULL)
    return True
