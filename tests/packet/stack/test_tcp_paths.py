"""TCP on particular paths: what each mechanism is for, seen from outside."""

from __future__ import annotations

from stack_sim import StackSim

from ntmpatch.packet.stack.tcp import autotune


def long_fat(sim: StackSim) -> None:
    """1 Gbit/s, 200 ms, a queue as large as the path."""
    for path in (sim.forth, sim.back):
        path.rate = 125e6
        path.delay = 0.1
        path.queue_size = 25_000_000


def test_buffers_grow_until_a_long_fat_path_is_full() -> None:
    """200 ms at 1 Gbit/s: 25 MB have to be under way."""
    sim = StackSim(1, mtu=9000)
    long_fat(sim)
    client, server = sim.connect()
    client.send(bytes(600_000_000))
    sim.run(5.6)  # slow start is over, and what it lost is repaired
    before = len(server.received)
    sim.run(0.4)
    assert (len(server.received) - before) * 8 / 0.4 > 0.9e9
    assert client.conn is not None
    assert server.conn is not None
    assert client.conn.send_buffer.capacity <= autotune.MAX_SIZE
    client.conn.abort(sim.now)
    sim.run(1.0)
    for stack in (sim.a, sim.b):
        assert stack.tcp.budget.granted == stack.tcp.budget.held == 0


def test_a_node_spares_memory_for_no_more_than_its_limit() -> None:
    sim = StackSim(2, mtu=9000)
    long_fat(sim)
    for stack in (sim.a, sim.b):
        stack.tcp.budget.limit = 1 << 20
    client, server = sim.connect()
    client.send(bytes(100_000_000))
    sim.run(5.0)
    assert sim.a.tcp.budget.granted <= 1 << 20
    assert sim.b.tcp.budget.granted <= 1 << 20
    assert server.received


def test_reordering_is_learned_and_not_taken_for_loss() -> None:
    """RFC 8985 section 6.2: the window of time widens until late is not lost."""
    sim = StackSim(3)
    sim.forth.rate = sim.back.rate = 2.5e6
    sim.forth.queue_size = 400_000
    sim.forth.delay = sim.back.delay = 0.025
    sim.forth.reorder = 0.1
    client, server = sim.connect()
    client.send(bytes(30_000_000), end=True)
    assert sim.run(30, until=lambda: server.eof)
    conn = client.conn
    assert conn is not None
    assert conn.rack.reordering_seen
    assert conn.timeouts == 0
    assert sim.now - 100.0 < 16.0  # 12 s at the rate of the path


def test_slow_start_ends_before_the_queue_overflows() -> None:
    """RFC 9406: the round trips grow first."""
    sim = StackSim(4)
    sim.forth.rate = 5e6
    sim.forth.delay = sim.back.delay = 0.05
    sim.forth.queue_size = 4_000_000
    client, _ = sim.connect()
    client.send(bytes(20_000_000))
    sim.run(3.0)
    conn = client.conn
    assert conn is not None
    assert not conn.congestion.is_slow_start
    assert conn.retransmissions == 0


def test_a_spurious_timeout_is_undone() -> None:
    """RFC 3522: an answer to the first transmission shows that nothing was lost."""
    sim = StackSim(5)
    sim.forth.rate = 2.5e6
    sim.forth.queue_size = 1_000_000
    client, _ = sim.connect()
    client.send(bytes(20_000_000))
    sim.run(3.0)
    conn = client.conn
    assert conn is not None
    window = conn.congestion.cwnd
    sim.back.delay = 1.5  # acknowledgments stall, longer than the time-out
    sim.run(1.2)
    assert conn.timeouts
    assert conn.congestion.cwnd < window // 2
    sim.back.delay = 0.02
    sim.run(0.6)
    assert conn.congestion.cwnd >= window
    assert conn.congestion.ssthresh > window // 2


def test_an_unanswered_window_probe_ends_with_the_users_patience() -> None:
    """RFC 5482: TCP_USER_TIMEOUT holds for a closed window too."""
    sim = StackSim(6)
    client, server = sim.connect()
    server.reads = False
    client.send(bytes(2_000_000))
    sim.run(5.0)
    assert client.conn is not None
    assert client.conn.snd_wnd < 2048
    client.conn.set_user_timeout(30.0, sim.now)
    sim.forth.loss = 1.0
    began_at = sim.now
    assert sim.run(200, until=lambda: client.ended)
    assert client.errors == [110]
    assert sim.now - began_at < 31.0


def test_data_that_stays_unacknowledged_ends_with_the_users_patience() -> None:
    sim = StackSim(7)
    client, _ = sim.connect()
    sim.run(1.0)
    assert client.conn is not None
    client.conn.set_user_timeout(10.0, sim.now)
    sim.forth.loss = 1.0
    client.send(b"to nobody")
    began_at = sim.now
    assert sim.run(100, until=lambda: client.ended)
    assert client.errors == [110]
    assert 9.9 < sim.now - began_at < 10.2


def test_closing_with_linger_zero_resets() -> None:
    sim = StackSim(8)
    client, server = sim.connect()
    sim.run(1.0)
    assert client.conn is not None
    client.conn.set_linger(0)
    client.conn.close(sim.now)
    sim.run(1.0)
    assert server.errors == [104]
    assert not sim.a.tcp.connections


def test_a_send_buffer_grows_no_further_than_the_program_allows() -> None:
    """SO_SNDBUF."""
    sim = StackSim(9)
    long_fat(sim)
    client, server = sim.connect()
    assert client.conn is not None
    client.conn.set_send_limit(100_000)
    client.send(bytes(10_000_000), end=True)
    assert sim.run(1, until=lambda: client.is_established)
    sim.run(5)
    assert client.conn.send_buffer.capacity == 100_000
    assert client.conn.snd_nxt - client.conn.snd_una <= 100_000
    assert sim.run(100, until=lambda: server.eof)
    assert len(server.received) == 10_000_000
