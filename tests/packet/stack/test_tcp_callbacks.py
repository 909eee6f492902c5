"""Programs that leave from within a callback, and timers that are due to the last bit."""

from __future__ import annotations

import math

import pytest
from stack_books import check_books
from stack_model import End, Wire, stream

from ntmpatch.packet.stack import Claim, TcpConnection
from ntmpatch.packet.stack.tcp.connection import Timer


def converse() -> tuple[Wire, End, End]:
    """A client that has written 5,000 bytes, and a server."""
    wire = Wire(verify=False, max_mtu=None)
    client, server = End(1, lambda: wire.now), End(2, lambda: wire.now)

    def accept(conn: TcpConnection) -> End:
        server.conn = conn
        return server

    a, b = wire.stacks.values()
    (here, *_), (there, *_) = a._addresses, b._addresses
    b.listen_tcp(Claim((4,), there, 80), backlog=1, accept=accept)
    client.conn = a.connect_tcp(there, 80, client, wire.now, local=here)
    wire.exchange(3)
    client.act("write", 5000)
    return wire, client, server


def ended_well(wire: Wire, *ends: End) -> None:
    wire.settle(3000.0)
    for end in ends:
        assert len(end.errors) == 1
    for stack in wire.stacks.values():
        assert stack.tcp.budget.held == 0
        check_books(stack, [end.conn for end in ends if end.conn is not None])


@pytest.mark.parametrize("action", ["close", "abort"])
def test_a_program_leaves_while_it_is_given_what_has_just_come(action: str) -> None:
    wire, client, server = converse()
    server.reactions["deliver"] = action
    wire.exchange(2)
    client.act("close")
    ended_well(wire, client, server)


@pytest.mark.parametrize("action", ["close", "abort"])
def test_a_program_leaves_while_it_is_given_what_has_waited(action: str) -> None:
    wire, client, server = converse()
    server.take_limit = 0
    wire.exchange(2)
    assert server.conn is not None
    assert server.conn.waiting_size == 5000
    server.take_limit = 100
    server.reactions["deliver"] = action
    server.act("resume")
    client.act("close")
    ended_well(wire, client, server)


def test_a_program_asks_for_more_while_it_is_given_what_has_waited() -> None:
    wire, client, server = converse()
    server.take_limit = 0
    for _ in range(3):
        wire.exchange(2)
        client.act("write", 500)
    wire.exchange(2)
    server.take_limit = 4000
    server.reactions["deliver"] = "resume"
    server.act("resume")
    assert len(server.received) == 4000
    server.take_limit = None
    server.act("resume")
    assert server.received == stream(client.key, 0, 6500)
    client.act("close")
    server.act("close")
    ended_well(wire, client, server)


def rounded_down(idle: float) -> float:
    """An instant after which ``idle`` seconds end at one that is, by the difference, too early."""
    heard_at = 100.0
    while (heard_at + idle) - heard_at >= idle:
        heard_at = math.nextafter(heard_at + 0.01, math.inf)
    return heard_at


def test_a_keepalive_is_sent_when_its_timer_is_due() -> None:
    wire, client, server = converse()
    wire.settle(1.0)
    conn = client.conn
    assert conn is not None
    idle = 5.3
    conn.set_keepalive((idle, 1.0, 3), wire.now)
    conn.last_heard_at = rounded_down(idle)
    due_at = conn.last_heard_at + idle
    timers = conn.service.timers
    timers.arm((conn, Timer.KEEPALIVE), due_at)
    conn.service.handle_timeout(due_at)
    assert conn.probes_sent == 1
    later = timers.due_at((conn, Timer.KEEPALIVE))
    assert later is not None
    assert later > due_at
    assert not server.errors
