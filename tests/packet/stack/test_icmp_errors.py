"""What programs learn from ICMP errors: the errnos of Linux, hard and soft."""

from __future__ import annotations

import errno

import pytest
from stack_sim import A4, A6, B4, B6, Program, StackSim

from ntmpatch.base.drops import Drop
from ntmpatch.packet.stack import Claim
from ntmpatch.wire import icmp, ip
from ntmpatch.wire.checksum import finish, ones_sum
from ntmpatch.wire.segments import cut


class Bound:
    def __init__(self) -> None:
        self.errors: list[int] = []

    def datagram(self, payload: memoryview, source: object, destination: object) -> None:
        raise AssertionError((payload, source, destination))

    def error(self, error: int, remote: tuple[bytes, int]) -> None:
        del remote
        self.errors.append(error)


def sent(sim: StackSim) -> bytes:
    """What a sent first; it arrives nowhere."""
    packets: list[bytes] = []
    scratch = memoryview(bytearray(70_000))
    while (segment := sim.a.poll_transmit(sim.now)) is not None:
        packets += [bytes(packet) for packet in cut(segment, scratch, checksums=True)]
    return packets[0]


def error_about(packet: bytes, type_: int, code: int) -> memoryview:
    """By the destination of ``packet``."""
    near, far = (A4, B4) if packet[0] >> 4 == 4 else (A6, B6)
    message = bytearray((type_, code)) + bytes(6) + packet[:100]
    if len(near) == 4:
        message[2:4] = finish(ones_sum(message)).to_bytes(2)
    protocol = icmp.protocol_of(near)
    return memoryview(bytes(ip.build(far, near, protocol, len(message)) + message))


# net/ipv4/icmp.c (icmp_err_convert) and net/ipv6/icmp.c (tab_unreach) of Linux, by code;
# what has a "!" is fatal there
V4 = [
    "ENETUNREACH",
    "EHOSTUNREACH",
    "ENOPROTOOPT!",
    "ECONNREFUSED!",
    "EMSGSIZE!",
    "EOPNOTSUPP",
    "ENETUNREACH!",
    "EHOSTDOWN!",
    "ENONET!",
    "ENETUNREACH!",
    "EHOSTUNREACH!",
    "ENETUNREACH",
    "EHOSTUNREACH",
    "EHOSTUNREACH!",
    "EHOSTUNREACH!",
    "EHOSTUNREACH!",
]
V6 = [
    "ENETUNREACH",
    "EACCES!",
    "EHOSTUNREACH",
    "EHOSTUNREACH",
    "ECONNREFUSED!",
    "EACCES!",
    "EACCES!",
]

CASES = [
    (far, type_, code, getattr(errno, name.rstrip("!")), name.endswith("!"))
    for far, type_, names in (
        (B4, 3, V4),
        (B4, 11, ["EHOSTUNREACH"]),
        (B4, 12, ["EPROTO!"]),
        (B6, 1, V6),
        (B6, 2, ["EMSGSIZE!"]),
        (B6, 3, ["EHOSTUNREACH"]),
        (B6, 4, ["EPROTO!"]),
    )
    for code, name in enumerate(names)
]


@pytest.mark.parametrize(("far", "type_", "code", "error", "hard"), CASES)
def test_a_connected_datagram_socket_hears_of_hard_errors(
    far: bytes, type_: int, code: int, error: int, hard: bool
) -> None:
    for connected in (True, False):
        sim = StackSim(1)
        near = Bound()
        socket = sim.a.bind_udp(Claim((4 if far is B4 else 6,), None, 0), near)
        if connected:
            socket.connect((far, 9))
        socket.send_to(b"hello", (far, 9), sim.now)
        sim.a.receive([error_about(sent(sim), type_, code)], (far,), sim.now)
        assert near.errors == ([error] if hard and connected else [])


@pytest.mark.parametrize(("far", "type_", "code", "error", "hard"), CASES)
def test_a_stream_being_opened_ends_and_an_open_one_goes_on(
    far: bytes, type_: int, code: int, error: int, hard: bool
) -> None:
    del hard  # is of datagrams only
    sim = StackSim(2)
    client = Program(sim)
    client.conn = sim.a.connect_tcp(far, 80, client, sim.now)
    sim.a.receive([error_about(sent(sim), type_, code)], (far,), sim.now)
    assert client.errors == ([] if error == errno.EMSGSIZE else [error])

    sim = StackSim(3)
    client, server = sim.connect(ipv6=far is B6)
    sim.run(1)
    client.send(b"lost")
    sim.a.receive([error_about(sent(sim), type_, code)], (far,), sim.now)
    assert not client.ended
    # Heard of again: what ICMP told is forgotten.
    sim.run(30, lambda: bytes(server.received) == b"lost")
    sim.run(1)
    sim.forth.loss = 1.0
    client.send(b"lost for good")
    sim.run(2000)
    assert client.errors == [errno.ETIMEDOUT]

    sim = StackSim(4)
    client, server = sim.connect(ipv6=far is B6)
    sim.run(1)
    sim.forth.loss = 1.0
    client.send(b"lost for good")
    sim.a.receive([error_about(sent(sim), type_, code)], (far,), sim.now)
    sim.run(2000)
    assert client.errors == [errno.ETIMEDOUT if error == errno.EMSGSIZE else error]


def test_an_error_has_to_quote_what_went_to_who_tells_it() -> None:
    sim = StackSim(5)
    near = Bound()
    socket = sim.a.bind_udp(Claim((4,), None, 0), near)
    socket.connect((B4, 9))
    socket.send_to(b"hello", (B4, 9), sim.now)
    packet = sent(sim)
    message = icmp.build_port_unreachable(bytes((10, 0, 0, 9)), A4, packet)
    forged = bytes(ip.build(bytes((10, 0, 0, 9)), A4, ip.ICMP, len(message))) + message
    sim.a.receive([memoryview(forged)], (bytes((10, 0, 0, 9)),), sim.now)
    assert sim.a.drops[Drop.ICMP_FOREIGN_QUOTE] == 1
    # About a fragment that is not the first: of no flow.
    later = bytearray(packet)
    later[7] = 8
    sim.a.receive([error_about(bytes(later), 3, 3)], (B4,), sim.now)
    assert sim.a.drops[Drop.ICMP_MALFORMED] == 1
    assert near.errors == []


@pytest.mark.parametrize("far", [B4, B6])
def test_a_closed_port_is_told_of_fragmented_datagrams_too(far: bytes) -> None:
    sim = StackSim(6)
    near = Bound()
    socket = sim.a.bind_udp(Claim((4 if far is B4 else 6,), None, 0), near)
    socket.connect((far, 9))
    socket.send_to(bytes(5000), (far, 9), sim.now)
    sim.run(1)
    assert near.errors == [errno.ECONNREFUSED]
