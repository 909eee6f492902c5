"""Path MTU discovery: what is found on every kind of path, and what happens when it shrinks."""

from __future__ import annotations

import pytest
from stack_sim import A4, A6, B4, B6, Program, StackSim

from ntmpatch.base.drops import Drop
from ntmpatch.packet.stack import Claim
from ntmpatch.packet.stack.pathsearch import RAISE_INTERVAL
from ntmpatch.wire import icmp, ip, tcp

LIMIT = 65_472


class Sink:
    def __init__(self) -> None:
        self.datagrams: list[bytes] = []
        self.errors: list[int] = []

    def datagram(self, payload: memoryview, source: object, destination: object) -> None:
        del source, destination
        self.datagrams.append(bytes(payload))

    def error(self, error: int, remote: tuple[bytes, int]) -> None:
        del remote
        self.errors.append(error)


def network(mtu: int, seed: int = 1, *, tells: bool = False, delay: float = 0.01) -> StackSim:
    sim = StackSim(seed, max_mtu=LIMIT)
    sim.records = True
    for path in (sim.forth, sim.back):
        path.mtu, path.tells, path.delay = mtu, tells, delay
    return sim


def largest_sent(sim: StackSim, *, since: float) -> int:
    """Of TCP: probes are larger."""
    return max(
        len(packet)
        for at, sender, packet in sim.wire
        if sender == "a" and at >= since and packet[9 if packet[0] >> 4 == 4 else 6] == ip.TCP
    )


def transfer(sim: StackSim, client: Program, server: Program, size: int, limit: float) -> None:
    data = sim.rng.randbytes(size)
    before = len(server.received)
    client.send(data)
    assert sim.run(limit, lambda: len(server.received) == before + size)
    assert server.received[before:] == data


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("tells", [False, True], ids=["silent", "told"])
@pytest.mark.parametrize(
    ("mtu", "least"),
    [
        (1280, 1280),
        (1330, 1296),
        (1376, 1376),
        (1420, 1408),
        (1440, 1440),
        (2000, 1936),
        (8912, 8912),
        (8935, 8928),
        (30_000, 29_000),
        (65_535, LIMIT),
    ],
)
def test_the_search_finds_what_a_path_carries(
    mtu: int, least: int, tells: bool, ipv6: bool
) -> None:
    sim = network(mtu, tells=tells)
    client, server = sim.connect(ipv6=ipv6)
    far = B6 if ipv6 else B4
    transfer(sim, client, server, 400_000, 30)
    for _ in range(4):
        sim.run(5)
        transfer(sim, client, server, 400_000, 10)
    assert least <= sim.a.path_mtu(far) <= mtu
    began_at = sim.now
    transfer(sim, client, server, 400_000, 10)
    headers = (40 if ipv6 else 20) + 32
    assert largest_sent(sim, since=began_at) == min(sim.a.path_mtu(far), 60_000 + headers)
    sim.run(10)
    assert sim.a.paths.poll_timeout() is None


def test_a_path_without_bulk_traffic_is_not_probed() -> None:
    sim = network(9000)
    client, server = sim.connect()
    for _ in range(20):
        transfer(sim, client, server, 1000, 1)
    assert all(packet[9] == ip.TCP for _, _, packet in sim.wire)


def test_a_search_rests_while_the_path_is_idle() -> None:
    sim = network(1440, delay=1.0)
    client, server = sim.connect()
    transfer(sim, client, server, 100_000, 60)
    sim.run(12)
    idle_since = sim.now
    sim.run(200)
    assert all(at < idle_since for at, _, _ in sim.wire)
    assert sim.a.paths.poll_timeout() is None
    for _ in range(20):
        transfer(sim, client, server, 50_000, 10)
    assert sim.a.path_mtu(B4) == 1440


@pytest.mark.parametrize("tells", [False, True], ids=["silent", "told"])
@pytest.mark.parametrize(("before", "after"), [(1440, 1400), (1440, 1290), (65_535, 1400)])
def test_a_path_that_shrinks_costs_little_time(before: int, after: int, tells: bool) -> None:
    sim = network(before, tells=tells)
    client, server = sim.connect()
    transfer(sim, client, server, 400_000, 30)
    sim.run(1)
    assert sim.a.path_mtu(B4) > after
    sim.forth.mtu = sim.back.mtu = after
    transfer(sim, client, server, 400_000, 0.3 if tells else 2.5)
    assert 1280 <= sim.a.path_mtu(B4) <= after
    sim.forth.mtu = sim.back.mtu = before
    sim.run(RAISE_INTERVAL)
    transfer(sim, client, server, 400_000, 5)
    sim.run(5)
    transfer(sim, client, server, 400_000, 5)
    assert sim.a.path_mtu(B4) >= min(before, 60_000), "it grows again"


@pytest.mark.parametrize("seed", range(8))
def test_loss_does_not_mislead_the_search(seed: int) -> None:
    sim = network(8935, seed)
    sim.forth.loss = sim.back.loss = 0.03
    client, server = sim.connect()
    for _ in range(4):
        transfer(sim, client, server, 300_000, 60)
        sim.run(4)
    assert sim.a.path_mtu(B4) >= 8912
    # A path that is down for a while is not a narrow one.
    sim.forth.loss = sim.back.loss = 1.0
    client.send(bytes(300_000))
    sim.run(4)
    sim.forth.loss = sim.back.loss = 0.0
    sim.run(60)
    assert bytes(server.received[-300_000:]) == bytes(300_000)
    transfer(sim, client, server, 300_000, 10)
    sim.run(130)
    transfer(sim, client, server, 300_000, 10)
    sim.run(5)
    assert sim.a.path_mtu(B4) >= 8912


def test_a_peer_that_answers_no_echo_keeps_the_base() -> None:
    sim = network(65_535)
    client, server = sim.connect()
    sim.run(1)
    sim.b.remove_address(B6)
    deaf = sim.b.receive
    sim.b.receive = lambda packets, *rest, **more: deaf(  # type: ignore[method-assign]
        [each for each in packets if each[9] == ip.TCP], *rest, **more
    )
    for _ in range(3):
        transfer(sim, client, server, 400_000, 10)
        sim.run(30)
    assert sim.a.path_mtu(B4) == 1376
    assert sim.a.paths.poll_timeout() is None


def test_another_path_is_searched_anew() -> None:
    sim = network(8935)
    client, server = sim.connect()
    transfer(sim, client, server, 400_000, 10)
    sim.run(2)
    sim.forth.mtu = sim.back.mtu = 1410
    sim.a.path_changed(B4, sim.now)
    sim.b.path_changed(A4, sim.now)
    assert sim.a.path_mtu(B4) == 1376
    assert client.conn is not None
    assert client.conn.mss == 1376 - 52
    transfer(sim, client, server, 400_000, 1)
    sim.run(3)
    assert sim.a.path_mtu(B4) == 1408


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_large_datagrams_begin_the_search_and_follow_it(ipv6: bool) -> None:
    sim = network(8935)
    sink, near = Sink(), Sink()
    far = B6 if ipv6 else B4
    sim.b.bind_udp(Claim((6 if ipv6 else 4,), None, 53), sink)
    socket = sim.a.bind_udp(Claim((6 if ipv6 else 4,), None, 0), near)
    socket.connect((far, 53))
    payload = sim.rng.randbytes(60_000)
    socket.send_to(payload, (far, 53), sim.now)
    sim.run(3)
    sim.wire.clear()
    socket.send_to(payload, (far, 53), sim.now)
    sim.run(1)
    assert sink.datagrams == [payload, payload]
    assert len(sim.wire) == 7
    assert max(len(packet) for _, _, packet in sim.wire) <= 8928


def test_own_addresses_carry_the_largest_packets_at_once() -> None:
    for address in (A4, A6):
        sim = StackSim(3)
        server = Program(sim)
        family = 4 if address is A4 else 6
        sim.a.listen_tcp(Claim((family,), None, 80), backlog=1, accept=lambda _, s=server: s)  # type: ignore[misc]
        client = Program(sim)
        client.conn = sim.a.connect_tcp(address, 80, client, sim.now)
        sim.run(0.1)
        assert client.conn.mss == 60_000
        transfer(sim, client, server, 3_000_000, 5)


def packet_too_big(source: bytes, about: bytes, mtu: int) -> memoryview:
    message = icmp.build_packet_too_big(source, A4, about, mtu)
    return memoryview(bytes(ip.build(source, A4, ip.ICMP, len(message))) + message)


def test_packet_too_big_is_believed_only_about_what_is_under_way() -> None:
    stranger = bytes((10, 0, 0, 9))
    sim = network(1440, delay=0.5)
    client, server = sim.connect()
    sim.run(2)
    client.send(sim.rng.randbytes(200_000))
    sim.run(0.1)
    sent = next(
        packet for _, sender, packet in reversed(sim.wire) if sender == "a" and packet[9] == ip.TCP
    )
    # Of another peer, in its own name.
    sim.a.receive([packet_too_big(stranger, sent, 1300)], (stranger,), sim.now)
    assert sim.a.drops[Drop.ICMP_FOREIGN_QUOTE] == 1
    # Of the peer, about nothing that is under way.
    old = bytearray(sent)
    old[24] ^= 0x80
    sim.a.receive([packet_too_big(B4, bytes(old), 1300)], (B4,), sim.now)
    assert sim.a.drops[Drop.ICMP_NOT_UNDER_WAY] == 1
    old[20] ^= 0x80
    sim.a.receive([packet_too_big(B4, bytes(old), 1300)], (B4,), sim.now)
    assert sim.a.drops[Drop.ICMP_NO_FLOW] == 1
    assert sim.a.path_mtu(B4) == 1376
    # The real one; and no router makes us send less than every path carries.
    sim.a.receive([packet_too_big(B4, sent, 68)], (B4,), sim.now)
    assert sim.a.path_mtu(B4) == 1280
    assert tcp.parse_untrusted(ip.parse_untrusted(memoryview(sent)).payload).size <= 1324
    assert sim.run(60, lambda: len(server.received) == 200_000)


def test_an_answer_that_nobody_could_know_is_needed() -> None:
    sim = network(8935, delay=0.5)
    client, _ = sim.connect()
    sim.run(2)
    client.send(sim.rng.randbytes(200_000))
    sim.run(0.1)
    probe = next(packet for _, _, packet in sim.wire if packet[9] == ip.ICMP)
    rest = int.from_bytes(probe[24:28])
    for guess, body in (
        (rest ^ 1, probe[28:]),  # another identifier
        (rest, bytes(len(probe) - 28)),  # another cookie
        (rest, probe[28:-1]),  # not all of it
    ):
        reply = icmp.build_echo_reply(B4, A4, guess, body)
        packet = bytes(ip.build(B4, A4, ip.ICMP, len(reply))) + reply
        sim.a.receive([memoryview(packet)], (B4,), sim.now)
    assert sim.a.drops[Drop.ICMP_UNASKED] == 3
    assert sum(packet[9] == ip.ICMP for _, _, packet in sim.wire) == 1
