"""A restricted peer: what it may open, and that what we open ourselves is answered."""

from __future__ import annotations

import errno

import pytest
from stack_model import End, Wire
from stack_sim import A4, B4, StackSim

from ntmpatch.base.drops import Drop
from ntmpatch.base.policy import NO_ACCESS, TCP, UDP, PortRange
from ntmpatch.packet.stack import Claim, TcpConnection


class Bound:
    """A UDP handler that keeps what it gets, and answers it if it is told to."""

    def __init__(self) -> None:
        self.datagrams: list[bytes] = []
        self.sources: list[tuple[bytes, int]] = []
        self.errors: list[int] = []

    def datagram(
        self, payload: memoryview, source: tuple[bytes, int], destination: tuple[bytes, int]
    ) -> None:
        del destination
        self.datagrams.append(bytes(payload))
        self.sources.append(source)

    def error(self, error: int, remote: tuple[bytes, int]) -> None:
        del remote
        self.errors.append(error)


@pytest.mark.parametrize(("port", "is_let_in"), [(80, True), (90, True), (79, False), (91, False)])
def test_a_port_outside_the_ranges_refuses_connections_as_if_nobody_listened(
    port: int, is_let_in: bool
) -> None:
    wire = Wire(verify=False, max_mtu=None)
    client, server = End(1, lambda: wire.now), End(2, lambda: wire.now)
    a, b = wire.stacks.values()
    (here, *_), (there, *_) = a._addresses, b._addresses

    def accept(conn: TcpConnection) -> End:
        server.conn = conn
        return server

    b.listen_tcp(Claim((4,), there, port), backlog=1, accept=accept)
    b.access.allow(here, (PortRange(TCP, 80, 90), PortRange(UDP, 79, 79)))
    client.conn = a.connect_tcp(there, port, client, wire.now, local=here)
    wire.exchange(3)
    assert (server.conn is not None) is is_let_in
    assert b.drops[Drop.PACKET_DENIED] == (not is_let_in)
    if not is_let_in:
        assert client.errors == [errno.ECONNREFUSED]


def test_what_we_connect_to_is_not_restricted_here() -> None:
    wire = Wire(verify=False, max_mtu=None)
    client, server = End(1, lambda: wire.now), End(2, lambda: wire.now)
    a, b = wire.stacks.values()
    (here, *_), (there, *_) = a._addresses, b._addresses

    def accept(conn: TcpConnection) -> End:
        server.conn = conn
        return server

    b.listen_tcp(Claim((4,), there, 80), backlog=1, accept=accept)
    a.access.allow(there, NO_ACCESS)
    client.conn = a.connect_tcp(there, 80, client, wire.now, local=here)
    wire.exchange(3)
    client.act("write", 5000)
    wire.exchange(4)
    assert server.conn is not None
    assert a.drops[Drop.PACKET_DENIED] == 0


def test_datagrams_come_in_by_the_ranges_or_as_answers() -> None:
    sim = StackSim(1)
    sim.b.access.allow(A4, (PortRange(UDP, 53, 53),))
    open_, closed = Bound(), Bound()
    sim.b.bind_udp(Claim((4,), None, 53), open_)
    hidden = sim.b.bind_udp(Claim((4,), None, 54), closed)
    near = Bound()
    socket = sim.a.bind_udp(Claim((4,), None, 1000), near)
    other = sim.a.bind_udp(Claim((4,), None, 1001), Bound())
    for port in (53, 54):
        socket.send_to(b"first", (B4, port), sim.now)
    sim.run(1)
    assert open_.datagrams == [b"first"]
    assert closed.datagrams == []
    assert sim.b.drops[Drop.PACKET_DENIED] == 1
    hidden.send_to(b"hello", (A4, 1000), sim.now)
    sim.run(1)
    assert near.datagrams == [b"hello"]
    socket.send_to(b"answer", (B4, 54), sim.now)
    other.send_to(b"from another port", (B4, 54), sim.now)
    sim.run(1)
    assert closed.datagrams == [b"answer"]
    assert sim.b.drops[Drop.PACKET_DENIED] == 2
    sim.b.access.allow(A4, None)
    other.send_to(b"now", (B4, 54), sim.now)
    sim.run(1)
    assert closed.datagrams == [b"answer", b"now"]
