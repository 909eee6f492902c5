"""UDP of every size in both families, fragments that misbehave, and ICMP."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stack_sim import A4, A6, B4, B6, StackSim

from ntmpatch.base.drops import Drop
from ntmpatch.packet.stack import Claim
from ntmpatch.wire import icmp, ip
from ntmpatch.wire.segments import cut


class Bound:
    """A UDP handler that keeps what it gets."""

    def __init__(self) -> None:
        self.datagrams: list[tuple[bytes, tuple[bytes, int]]] = []
        self.errors: list[int] = []

    def datagram(
        self, payload: memoryview, source: tuple[bytes, int], destination: tuple[bytes, int]
    ) -> None:
        del destination
        self.datagrams.append((bytes(payload), source))

    def error(self, error: int, remote: tuple[bytes, int]) -> None:
        del remote
        self.errors.append(error)


@pytest.mark.parametrize("verify", [False, True], ids=["trusted", "verified"])
@pytest.mark.parametrize(("family", "far"), [(4, B4), (6, B6)])
def test_datagrams_of_every_size_arrive_whole(family: int, far: bytes, verify: bool) -> None:
    sim = StackSim(1, verify=verify)
    near, server = Bound(), Bound()
    sim.b.bind_udp(Claim((family,), None, 53), server)
    socket = sim.a.bind_udp(Claim((family,), None, 0), near)
    sizes = [0, 1, 7, 8, 1320, 1330, 1348, 1349, 1400, 9000, 60_000, 65_507]
    sent = [sim.rng.randbytes(size) for size in sizes]
    for payload in sent:
        socket.send_to(payload, (far, 53), sim.now)
        sim.run(1)
    assert [payload for payload, _ in server.datagrams] == sent
    with pytest.raises(OSError, match="too long") as caught:
        socket.send_to(bytes(65_508), (far, 53), sim.now)
    assert caught.value.errno == errno.EMSGSIZE


def test_fragments_may_come_in_any_order_and_a_lost_one_costs_the_datagram() -> None:
    sim = StackSim(2)
    server = Bound()
    sim.b.bind_udp(Claim((4,), None, 53), server)
    socket = sim.a.bind_udp(Claim((4,), None, 0), Bound())
    payload = sim.rng.randbytes(20_000)
    scratch = memoryview(bytearray(70_000))
    pieces: list[bytes] = []
    socket.send_to(payload, (B4, 53), sim.now)
    while (segment := sim.a.poll_transmit(sim.now)) is not None:
        pieces += [bytes(packet) for packet in cut(segment, scratch, checksums=False)]
    assert len(pieces) > 10
    for piece in reversed(pieces):
        sim.b.receive([memoryview(piece)], (A4,), sim.now)
    assert server.datagrams[0][0] == payload
    for piece in pieces[1:]:
        sim.b.receive([memoryview(piece)], (A4,), sim.now)
    assert len(server.datagrams) == 1
    sim.run(61)
    assert sim.b.drops[Drop.FRAGMENT_TIMEOUT] == 1
    assert sim.b.poll_timeout() is None


def test_a_closed_port_is_told_by_icmp() -> None:
    for family, far in ((4, B4), (6, B6)):
        sim = StackSim(3)
        near = Bound()
        socket = sim.a.bind_udp(Claim((family,), None, 0), near)
        socket.connect((far, 9))
        socket.send_to(b"anybody", (far, 9), sim.now)
        sim.run(1)
        assert near.errors == [errno.ECONNREFUSED]


def test_a_connected_socket_hears_its_peer_only() -> None:
    sim = StackSim(4)
    one, other = Bound(), Bound()
    connected = sim.b.bind_udp(Claim((4,), None, 70, reuse_address=True), one)
    connected.connect((A4, 1111))
    sim.b.bind_udp(Claim((4,), None, 70, reuse_address=True), other)
    for port in (1111, 2222):
        sim.a.bind_udp(Claim((4,), None, port), Bound()).send_to(b"x", (B4, 70), sim.now)
    sim.run(1)
    assert [source for _, source in one.datagrams] == [(A4, 1111)]
    assert [source for _, source in other.datagrams] == [(A4, 2222)]


def test_ports_clash_and_are_freed() -> None:
    sim = StackSim(5)
    socket = sim.a.bind_udp(Claim((4,), None, 500), Bound())
    with pytest.raises(OSError, match="in use"):
        sim.a.bind_udp(Claim((4,), A4, 500), Bound())
    sim.a.bind_udp(Claim((6,), None, 500), Bound())
    socket.close()
    sim.a.bind_udp(Claim((4,), A4, 500), Bound())


@pytest.mark.parametrize(("near", "far"), [(A4, B4), (A6, B6)])
def test_echo_requests_are_answered_at_a_bounded_rate(near: bytes, far: bytes) -> None:
    sim = StackSim(6)
    v4 = len(near) == 4
    kind, protocol = (8, ip.ICMP) if v4 else (128, ip.ICMPV6)
    message = bytes((kind, 0, 0, 0, 1, 2, 3, 4)) + b"payload"
    packet = memoryview(bytes(ip.build(near, far, protocol, len(message)) + message))
    for _ in range(500):
        sim.b.receive([packet], (near,), sim.now)
    replies = 0
    scratch = memoryview(bytearray(70_000))
    while (segment := sim.b.poll_transmit(sim.now)) is not None:
        [reply] = cut(segment, scratch, checksums=True)
        parsed = ip.parse_untrusted(reply)
        read = icmp.parse_untrusted(parsed.payload, far, near, verify=True)
        assert read.kind is icmp.Kind.ECHO_REPLY
        assert bytes(read.body) == b"payload"
        replies += 1
    assert replies == 50
    assert sim.b.drops[Drop.ICMP_RATE_LIMIT] == 450


def test_spoofed_sources_and_foreign_destinations_are_dropped_by_name() -> None:
    sim = StackSim(7)
    packet = memoryview(bytes(ip.build(A4, B4, ip.UDP, 0)))
    sim.b.receive([packet], (A6,), sim.now)
    assert sim.b.drops[Drop.PACKET_WRONG_SOURCE] == 1
    packet = memoryview(bytes(ip.build(A4, bytes((10, 0, 0, 99)), ip.UDP, 0)))
    sim.b.receive([packet], (A4,), sim.now)
    assert sim.b.drops[Drop.PACKET_NOT_OURS] == 1


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_give_a_named_drop_or_nothing(data: st.DataObject) -> None:
    sim = StackSim(8)
    sim.b.bind_udp(Claim((4,), None, 53), Bound())
    sim.connect(80)
    sim.run(1)
    protocol = data.draw(st.sampled_from([ip.TCP, ip.UDP, ip.ICMP, ip.ICMPV6, ip.FRAGMENT, 0, 60]))
    near, far = data.draw(st.sampled_from([(A4, B4), (A6, B6)]))
    payloads = data.draw(st.lists(st.binary(max_size=120), max_size=6))
    packets = [
        memoryview(bytes(ip.build(near, far, protocol, len(payload)) + payload))
        for payload in payloads
    ]
    packets += [memoryview(raw) for raw in data.draw(st.lists(st.binary(max_size=80), max_size=3))]
    sim.b.receive(packets, (A4, A6), sim.now, verify=data.draw(st.booleans()))
    assert len(sim.b.tcp.connections) <= 2
    sim.run(1)


def test_sockets_with_reuse_port_share_by_flow() -> None:
    sim = StackSim(3)
    servers = [Bound() for _ in range(4)]
    for server in servers:
        sim.b.bind_udp(Claim((4,), None, 53, reuse_port=True), server)
    clients = [sim.a.bind_udp(Claim((4,), None, 0), Bound()) for _ in range(64)]
    for client in clients * 3:
        client.send_to(b"x", (B4, 53), sim.now)
    sim.run(1)
    flows = [{source for _, source in server.datagrams} for server in servers]
    assert all(flows), "each has some"
    assert sum(map(len, flows)) == 64, "none is served by two"
    assert sum(len(server.datagrams) for server in servers) == 3 * 64


def test_of_sockets_with_reuse_address_the_latest_is_served() -> None:
    sim = StackSim(4)
    early, late = Bound(), Bound()
    for server in (early, late):
        sim.b.bind_udp(Claim((4,), None, 53, reuse_address=True), server)
    sim.a.bind_udp(Claim((4,), None, 0), Bound()).send_to(b"x", (B4, 53), sim.now)
    sim.run(1)
    assert (len(early.datagrams), len(late.datagrams)) == (0, 1)


@pytest.mark.parametrize("family", [4, 6])
def test_who_sent_a_packet_that_never_became_whole_is_told(family: int) -> None:
    """By ICMP, with the first fragment, if that came."""
    near, far = ((A4, B4), (A6, B6))[family == 6]
    sim = StackSim(5)
    sim.b.bind_udp(Claim((family,), None, 53), Bound())
    socket = sim.a.bind_udp(Claim((family,), None, 0), Bound())
    scratch = memoryview(bytearray(70_000))

    def sent() -> list[bytes]:
        socket.send_to(bytes(5000), (far, 53), sim.now)
        pieces = []
        while (segment := sim.a.poll_transmit(sim.now)) is not None:
            pieces += [bytes(packet) for packet in cut(segment, scratch, checksums=False)]
        return pieces

    sim.b.receive([memoryview(sent()[0])], (near,), sim.now)
    sim.b.receive([memoryview(sent()[1])], (near,), sim.now)
    sim.b.handle_timeout(sim.now + 60.0)
    assert sim.b.drops[Drop.FRAGMENT_TIMEOUT] == 2
    told = sim.b.poll_transmit(sim.now)
    assert told is not None
    assert sim.b.poll_transmit(sim.now) is None, "the first fragment of the other never came"
    (packet,) = (ip.parse_untrusted(each) for each in cut(told, scratch, checksums=True))
    message = icmp.parse_untrusted(packet.payload, far, near, verify=True)
    assert (message.kind, message.code) == (icmp.Kind.TIME_EXCEEDED, 1)
    assert message.quote is not None
    ports = message.quote.source_port, message.quote.destination_port
    assert (message.quote.source, message.quote.destination, *ports) == (near, far, socket.port, 53)
