"""Opening, closing, resetting, waiting: TCP's states as programs see them."""

from __future__ import annotations

import errno

import pytest
from stack_sim import A4, B4, Program, StackSim

from ntmpatch.base.drops import Drop
from ntmpatch.packet.stack import Claim
from ntmpatch.packet.stack.tcp.states import State
from ntmpatch.wire import ip, tcp


def open_pair(seed: int = 0) -> tuple[StackSim, Program, Program]:
    sim = StackSim(seed)
    client, server = sim.connect()
    assert sim.run(1, until=lambda: client.is_established and server.is_established)
    return sim, client, server


def test_a_port_without_listener_refuses() -> None:
    sim = StackSim()
    client, _ = sim.connect(81, listen=False)
    sim.run(1)
    assert client.errors == [errno.ECONNREFUSED]
    assert not sim.a.tcp.connections


def test_silence_times_out_the_connection() -> None:
    sim = StackSim()
    sim.forth.loss = 1.0
    client, _ = sim.connect()
    sim.run(200)
    assert client.errors == [errno.ETIMEDOUT]


def test_no_route_is_an_unreachable_host() -> None:
    sim = StackSim()
    client, _ = sim.connect()
    sim.a.host_unreachable(B4, sim.now)
    assert client.errors == [errno.EHOSTUNREACH]


def test_half_close_leaves_the_other_direction_open() -> None:
    sim, client, server = open_pair()
    client.send(b"question", end=True)
    sim.run(1)
    assert server.eof
    assert client.conn is not None
    assert client.conn.state is State.FIN_WAIT_2
    server.send(b"answer" * 10_000, end=True)
    sim.run(1)
    assert client.received == b"answer" * 10_000
    assert client.eof
    assert client.conn.state is State.TIME_WAIT
    sim.run(61)
    assert client.errors == server.errors == [0]


def test_both_closing_at_once_end() -> None:
    sim, client, server = open_pair()
    for program in (client, server):
        assert program.conn is not None
        program.conn.close(sim.now)
    sim.run(0.03)
    assert client.conn is not None
    assert client.conn.state in (State.CLOSING, State.TIME_WAIT)
    sim.run(70)
    assert client.errors == server.errors == [0]


def test_simultaneous_open() -> None:
    sim = StackSim()
    client, server = Program(sim), Program(sim)
    client.conn = sim.a.connect_tcp(B4, 7002, client, sim.now, local=A4, local_port=7001)
    server.conn = sim.b.connect_tcp(A4, 7001, server, sim.now, local=B4, local_port=7002)
    assert sim.run(5, until=lambda: client.is_established and server.is_established)
    client.send(b"hello")
    server.send(b"hallo")
    sim.run(1)
    assert (server.received, client.received) == (b"hello", b"hallo")


def test_abort_resets_the_other_side() -> None:
    sim, client, server = open_pair()
    assert client.conn is not None
    client.conn.abort(sim.now)
    sim.run(1)
    assert client.errors == [0]
    assert server.errors == [errno.ECONNRESET]


def test_data_for_a_closed_program_is_answered_by_reset() -> None:
    sim, client, server = open_pair()
    assert server.conn is not None
    server.conn.close(sim.now)
    sim.run(0.1)
    client.send(b"is anybody there")
    sim.run(1)
    assert client.errors == [errno.EPIPE], "as Linux, behind the end of the stream"
    assert sim.b.drops[Drop.TCP_AFTER_CLOSE] == 1


def test_closing_with_data_unread_resets() -> None:
    sim, client, server = open_pair()
    server.reads = False
    client.send(b"never read")
    sim.run(1)
    assert server.conn is not None
    server.conn.close(sim.now)
    sim.run(1)
    assert client.errors == [errno.ECONNRESET]


def test_a_reader_that_stops_closes_the_window_and_opens_it_again() -> None:
    sim, client, server = open_pair()
    server.reads = False
    data = sim.rng.randbytes(6 << 20)
    client.send(data, end=True)
    sim.run(30)
    assert client.conn is not None
    assert client.conn.snd_wnd == 0
    assert not server.received
    server.resume()
    assert sim.run(30, until=lambda: server.eof)
    assert server.received == data


def test_a_lost_window_update_is_made_good_by_probes() -> None:
    sim, client, server = open_pair()
    server.reads = False
    data = sim.rng.randbytes(5 << 20)
    client.send(data, end=True)
    sim.run(10)
    sim.back.loss = 1.0
    server.resume()
    sim.run(0.5)
    sim.back.loss = 0.0
    assert sim.run(120, until=lambda: server.eof)
    assert server.received == data


def test_a_slow_reader_gets_everything_in_order() -> None:
    sim, client, server = open_pair()
    server.take_limit = 999
    data = sim.rng.randbytes(200_000)
    client.send(data, end=True)
    while not server.eof:
        assert sim.now < 10_000
        sim.run(0.01)
        server.resume()
    assert server.received == data


@pytest.mark.parametrize("ended_by", ["time", "reset"])
def test_what_arrived_is_read_even_after_the_connection_has_ended(ended_by: str) -> None:
    sim, client, server = open_pair()
    client.closes_at_end = True
    client.reads = False
    assert client.conn is not None
    client.conn.shutdown_write(sim.now)
    sim.run(1)
    data = sim.rng.randbytes(200_000)
    server.send(data, end=ended_by == "time")
    sim.run(1)
    if ended_by == "time":
        assert client.conn.state is State.TIME_WAIT
        sim.run(100)
    else:
        assert server.conn is not None
        server.conn.abort(sim.now)
        sim.run(1)
    assert client.conn.done
    assert not client.errors
    client.take_limit = 70_000
    for _ in range(3):
        assert not client.ended
        client.resume()
    assert client.received == data
    assert client.eof == (ended_by == "time")
    assert client.errors == [0 if ended_by == "time" else errno.ECONNRESET]


def test_nothing_is_said_behind_the_far_ends_fin() -> None:
    sim, client, server = open_pair()
    client.reads = False
    assert client.conn is not None
    client.conn.shutdown_write(sim.now)
    sim.run(1)
    server.closes_at_end = True
    server.send(sim.rng.randbytes(100_000), end=True)
    sim.run(2)
    assert not sim.b.tcp.connections
    sim.records = True
    client.resume()
    sim.run(1)
    assert not sim.wire


def test_keepalive_finds_a_dead_peer() -> None:
    sim, client, _ = open_pair()
    assert client.conn is not None
    client.conn.set_keepalive((10.0, 2.0, 3), sim.now)
    sim.run(60)
    assert not client.ended
    sim.back.loss = 1.0
    sim.run(60)
    assert client.errors == [errno.ETIMEDOUT]


def test_nagle_waits_for_the_acknowledgment_and_nodelay_does_not() -> None:
    for nodelay, wanted in ((False, 2), (True, 20)):
        sim, client, server = open_pair()
        assert client.conn is not None
        client.conn.set_nodelay(on=nodelay)
        sim.records = True
        for _ in range(20):
            client.send(b"x")
            sim.run(0.0)
        sim.run(1)
        assert server.received == b"x" * 20
        assert sum(sender == "a" and len(packet) > 52 for _, sender, packet in sim.wire) == wanted


def test_cork_holds_back_what_is_not_a_full_segment() -> None:
    sim, client, server = open_pair()
    assert client.conn is not None
    client.conn.set_cork(on=True)
    client.send(b"x" * 2000)
    sim.run(1)
    assert len(server.received) == 1324
    client.conn.set_cork(on=False)
    sim.run(1)
    assert len(server.received) == 2000


def test_a_reset_must_hit_the_next_sequence_number() -> None:
    """RFC 5961 section 3: a guess within the window is challenged."""
    sim, client, server = open_pair()
    assert client.conn is not None
    assert server.conn is not None

    def reset(seq: int) -> None:
        header = tcp.build(
            client.conn.local[1], 80, seq=seq & 0xFFFFFFFF, ack=0, flags=tcp.RST, window=0
        )
        packet = ip.build(A4, B4, ip.TCP, len(header)) + header
        sim.b.receive([memoryview(packet)], (A4,), sim.now)

    reset(server.conn.rcv_nxt + 1000)
    sim.run(1)
    assert not server.ended
    reset(server.conn.rcv_nxt)
    assert server.errors == [errno.ECONNRESET]


def test_two_listeners_need_reuse_port() -> None:
    sim = StackSim()
    options = {"backlog": 1, "accept": lambda _: Program(sim)}
    sim.b.listen_tcp(Claim((4,), None, 99), **options)
    with pytest.raises(OSError, match="in use") as caught:
        sim.b.listen_tcp(Claim((4,), B4, 99), **options)
    assert caught.value.errno == errno.EADDRINUSE
    sim.b.listen_tcp(Claim((4,), None, 100, reuse_port=True), **options)
    sim.b.listen_tcp(Claim((4,), None, 100, reuse_port=True), **options)
    with pytest.raises(OSError, match="assign") as caught:
        sim.b.listen_tcp(Claim((4,), A4, 101), **options)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_a_connection_to_oneself() -> None:
    sim = StackSim()
    server = Program(sim)

    def accept(conn: object) -> Program:
        server.conn = conn  # type: ignore[assignment]
        return server

    sim.a.listen_tcp(Claim((4,), None, 50), backlog=1, accept=accept)
    client = Program(sim)
    client.conn = sim.a.connect_tcp(A4, 50, client, sim.now)
    data = sim.rng.randbytes(500_000)
    client.send(data, end=True)
    assert sim.run(5, until=lambda: server.eof)
    assert server.received == data
