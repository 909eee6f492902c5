"""TCP over a bad network: every byte once and in order, every connection ends, nothing leaks."""

from __future__ import annotations

import os

import pytest
from stack_seeds import run_seed
from stack_sim import StackSim

SEEDS = int(os.environ.get("NTMPATCH_STACK_SEEDS", "150"))


def exchange(sim: StackSim, size: int, *, ipv6: bool = False) -> None:
    """Both ends send at once and half-close; afterwards both stacks are empty."""
    client, server = sim.connect(ipv6=ipv6)
    forth, back = sim.rng.randbytes(size), sim.rng.randbytes(size // 2)
    client.closes_at_end = server.closes_at_end = True
    client.send(forth, end=True)
    server.send(back, end=True)
    assert sim.run(3600, until=lambda: client.eof and server.eof)
    assert server.received == forth
    assert client.received == back
    sim.run(1000)
    assert client.errors == server.errors == [0]
    for stack in (sim.a, sim.b):
        assert not stack.tcp.connections
        assert not stack.has_unacknowledged_data()
        assert stack.poll_timeout() is None


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_byte_arrives_once_and_in_order(seed: int) -> None:
    """``tests/simulate.py`` plays more of them."""
    run_seed(seed)


@pytest.mark.parametrize("seed", range(10))
def test_corrupted_packets_are_dropped_where_checksums_are_verified(seed: int) -> None:
    sim = StackSim(seed, verify=True)
    sim.forth.corrupt = sim.back.corrupt = 0.03
    exchange(sim, 100_000, ipv6=bool(seed % 2))


@pytest.mark.parametrize("mtu", [1280, 1376, 9000])
def test_packets_never_exceed_the_mtu(mtu: int) -> None:
    sim = StackSim(1, mtu=mtu)
    sim.records = True
    exchange(sim, 100_000)
    assert max(len(packet) for _, _, packet in sim.wire) == mtu


def test_a_clean_path_has_no_retransmission() -> None:
    sim = StackSim(2)
    client, server = sim.connect()
    client.send(bytes(3_000_000), end=True)
    assert sim.run(60, until=lambda: server.eof)
    assert client.conn is not None
    assert client.conn.retransmissions == client.conn.timeouts == 0


def test_one_loss_is_repaired_within_a_round_trip_and_no_timeout() -> None:
    sim = StackSim(3)
    client, server = sim.connect()
    sim.run(1.0)
    data = sim.rng.randbytes(10 * 1324)
    sim.forth.loss = 1.0
    client.send(data[:1324])
    sim.run(0.0)
    sim.forth.loss = 0.0
    began_at = sim.now
    client.send(data[1324:])
    assert sim.run(5, until=lambda: len(server.received) == len(data))
    assert sim.now - began_at < 4 * sim.forth.delay + 0.001
    assert client.conn is not None
    assert client.conn.timeouts == 0


def test_a_lost_tail_is_probed_before_the_timeout() -> None:
    sim = StackSim(4)
    client, server = sim.connect()
    client.send(bytes(50_000))
    sim.run(2.0)
    sim.forth.loss = 1.0
    client.send(b"the last words")
    sim.run(0.0)
    sim.forth.loss = 0.0
    began_at = sim.now
    assert sim.run(5, until=lambda: server.received.endswith(b"words"))
    assert sim.now - began_at < 0.2


def test_retransmission_backs_off_and_gives_up_as_linux_does() -> None:
    sim = StackSim(5)
    client, _ = sim.connect()
    sim.run(1.0)
    sim.forth.loss = sim.back.loss = 1.0
    sim.records = True
    client.send(b"to nobody")
    sim.run(1500)
    assert client.errors == [110]  # ETIMEDOUT
    assert len(sim.wire) < 25
    gaps = [
        round(b - a, 6) for (a, _, _), (b, _, _) in zip(sim.wire[3:], sim.wire[4:], strict=False)
    ]
    assert gaps == sorted(gaps)


def test_a_changed_path_resumes_at_once() -> None:
    """Fig. 5: what was under way on the old path is sent again on the new one, without waiting."""
    sim = StackSim(6)
    sim.forth.rate = 1e6
    client, server = sim.connect()
    client.send(bytes(2_000_000), end=True)
    sim.run(0.5)
    sim.forth.loss = sim.back.loss = 1.0
    sim.run(3.0)
    sim.forth.loss = sim.back.loss = 0.0
    conn = client.conn
    assert conn is not None
    acked = conn.snd_una
    began_at = sim.now
    sim.a.path_changed(sim.b.source_for(bytes(4)), sim.now)
    assert sim.run(5, until=lambda: conn.snd_una > acked)
    assert sim.now - began_at < 1.1 * (sim.forth.delay + sim.back.delay)
    assert sim.run(60, until=lambda: server.eof)
    assert len(server.received) == 2_000_000


def test_what_the_old_path_had_delivered_says_nothing_of_the_new_one() -> None:
    """Both ends change: the far end's first ACK is of segments from before three seconds of death.

    It is no sample of the round trip, and no sign that the rest is still under way (RFC 3522).
    """
    sim = StackSim(7)
    sim.forth.rate = 1e6
    client, server = sim.connect()
    client.send(bytes(2_000_000), end=True)
    sim.run(0.5)
    sim.forth.loss = 1.0
    sim.run(0.06)
    sim.back.loss = 1.0  # what was queued still arrives, and its ACKs do not
    sim.run(3.0)
    sim.forth.loss = sim.back.loss = 0.0
    conn = client.conn
    assert conn is not None
    acked, received = conn.snd_una, len(server.received)
    sim.b.path_changed(sim.a.source_for(bytes(4)), sim.now)
    sim.a.path_changed(sim.b.source_for(bytes(4)), sim.now)
    round_trip = sim.forth.delay + sim.back.delay
    sim.run(1.2 * sim.back.delay)
    assert conn.snd_una > acked, "what had arrived is acknowledged first"
    began_at = sim.now
    assert sim.run(5, until=lambda: len(server.received) > received + 100_000)
    assert sim.now - began_at < 6 * round_trip
    assert conn.rtt.base < 1.0
    assert sim.run(60, until=lambda: server.eof)
    assert len(server.received) == 2_000_000


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("agreed", [False, True])
def test_marks_of_congestion_slow_the_sender_and_nothing_is_sent_again(
    agreed: bool, ipv6: bool
) -> None:
    sim = StackSim(1)
    sim.a.tcp.offers_ecn = agreed
    sim.forth.mark = 0.01
    client, server = sim.connect(ipv6=ipv6)
    client.send(sim.rng.randbytes(2_000_000), end=True)
    assert sim.run(60, until=lambda: server.eof)
    assert client.conn is not None
    assert server.received == client.to_send
    assert client.conn.retransmissions == 0
    congestion = client.conn.congestion
    assert (congestion.ssthresh < 1_000_000) is agreed
