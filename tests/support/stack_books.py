"""What holds inside a stack at any time, and what is left of one that has nothing to do."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from ntmpatch.packet.stack.fragments import MAX_REASSEMBLIES
from ntmpatch.packet.stack.pathmtu import MAX_PATHS
from ntmpatch.packet.stack.stack import MAX_QUEUED
from ntmpatch.packet.stack.tcp.autotune import INITIAL_SIZE
from ntmpatch.packet.stack.tcp.reassembly import MAX_PIECES
from ntmpatch.packet.stack.tcp.states import State
from ntmpatch.wire import ip

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ntmpatch.packet.stack import Claim, Stack, TcpConnection
    from ntmpatch.packet.stack.ports import PortTable

_Owner = TypeVar("_Owner")


def check_books(stack: Stack, known: Iterable[TcpConnection]) -> None:
    """AssertionError where two of the stack's tables disagree.

    ``known``: every connection that handlers were given; one that has ended holds what its program
    has not read yet.
    """
    living = set(stack.tcp.connections)
    for key, conn in stack.tcp._connections.items():
        assert key == (*conn.local, *conn.remote)
        assert not conn.done, conn
        assert conn.state is not State.CLOSED
        _check_numbers(conn)
    ended = {conn for conn in known if conn.done}
    for conn in ended:
        _check_ended(conn)
    budget = stack.tcp.budget
    assert budget.held == sum(conn.waiting_size + conn.reassembly.size for conn in living | ended)
    assert budget.granted == sum(map(_granted, living))
    _check_queues(stack, living)
    _check_tables(stack)


def _granted(conn: TcpConnection) -> int:
    grown = (conn.send_buffer.capacity, conn.receive_space.size)
    return sum(max(0, size - INITIAL_SIZE) for size in grown)


def _check_numbers(conn: TcpConnection) -> None:
    board = conn.scoreboard
    assert conn.iss <= conn.snd_una <= conn.snd_nxt
    assert conn.snd_nxt <= conn.data_end + (conn.fin_seq is not None)
    assert conn.fin_seq is None or conn.snd_una <= conn.fin_seq + 1
    assert board.sacked_size >= 0
    assert board.lost_size >= 0
    assert board.sacked_size + board.lost_size <= conn.flight
    assert 0 <= conn.send_buffer.size <= conn.send_buffer.capacity
    assert conn.congestion.cwnd > 0
    assert conn.snd_wnd >= 0
    assert conn.mss >= 64
    assert min(conn.probes_sent, conn.unacknowledged_segments, conn.retransmissions) >= 0
    _check_waiting(conn)
    pieces = conn.reassembly
    edges = list(zip(pieces._starts, pieces._ends, pieces._pieces, strict=True))
    assert len(edges) <= MAX_PIECES
    last = conn.rcv_nxt
    for start, end, data in edges:
        assert last < start < end, "pieces overlap, touch, or are delivered already"
        assert end - start == sum(map(len, data))
        last = end
    assert pieces.size == sum(end - start for start, end, _ in edges)


def _check_waiting(conn: TcpConnection) -> None:
    assert conn.waiting_size == sum(map(len, conn.waiting or ()))
    assert conn.waiting is None or conn.waiting_size > 0


def _check_ended(conn: TcpConnection) -> None:
    assert conn.state is State.CLOSED
    assert not conn.reassembly.size
    assert not conn.send_buffer.size
    assert conn.release_slot is None
    _check_waiting(conn)


def _check_queues(stack: Stack, living: set[TcpConnection]) -> None:
    service = stack.tcp
    for conn, timer in service.timers._due_at:
        assert conn in living, (conn, timer)
    ready = list(service._ready)
    assert len(ready) == len(set(ready))
    assert all(conn.queued for conn in ready)
    assert {conn for conn in living if conn.queued} <= set(ready)
    assert len(stack._queue) <= MAX_QUEUED


def _check_tables(stack: Stack) -> None:
    living = set(stack.tcp.connections)
    for key, listeners in stack.tcp._listeners._listeners.items():
        assert listeners
        for listener in listeners:
            assert key in [(family, listener.claim.port) for family in listener.claim.families]
            for conn in listener.half_open:
                assert conn in living
                assert conn.state is State.SYN_RECEIVED
    for (family, port), sockets in stack.udp._sockets.items():
        assert sockets
        assert all(family in each.claim.families and each.port == port for each in sockets)
    claimed = Counter(each.claim for each in living if each.accept is None)
    claimed.update(each.claim for each in _all(stack.tcp._listeners._listeners))
    assert _claims(stack.tcp.ports) == claimed
    assert _claims(stack.udp.ports) == Counter(each.claim for each in _all(stack.udp._sockets))
    reassembler = stack._reassembler
    partials = [each for mine in reassembler._by_source.values() for each in mine.values()]
    assert all(reassembler._by_source.values())
    assert len(partials) == reassembler._count == len(reassembler._timers) <= MAX_REASSEMBLIES
    for partial in partials:
        assert sum(end - start for start, end in partial.pieces.items()) == partial.received_size
        assert partial.received_size <= len(partial.data) <= ip.MAX_PACKET_SIZE
    assert len(stack.paths._paths) <= MAX_PATHS
    assert set(stack.paths.timers._due_at) <= set(stack.paths._paths)
    assert all(count > 0 for count in stack.drops.values())


def _all(by_port: Mapping[tuple[int, int], Iterable[_Owner]]) -> set[_Owner]:
    """Those of both families are there twice."""
    return {each for owners in by_port.values() for each in owners}


def _claims(ports: PortTable) -> Counter[Claim]:
    counts: Counter[Claim] = Counter()
    for port, claims in ports._claims.items():
        assert claims
        assert all(claim.port == port and count > 0 for claim, count in claims.items())
        counts.update(claims)
    return counts


def check_empty(stack: Stack) -> None:
    """AssertionError if anything is left, after all was closed and time ran out."""
    assert stack.tcp.connections == []
    assert stack.tcp._listeners._listeners == {}
    assert stack.tcp.ports._claims == stack.udp.ports._claims == {}
    assert stack.udp._sockets == {}
    assert stack.poll_timeout() is None
    for timers in (stack.tcp.timers, stack._reassembler._timers, stack.paths.timers):
        assert len(timers) == 0
    assert stack._reassembler._by_source == {}
    assert not stack.tcp._ready
    assert not stack._queue
    assert not stack._loopback
    assert stack.tcp.budget.held == 0
    assert stack.tcp.budget.granted == 0
