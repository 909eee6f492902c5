"""SYN cookies: a flood costs nothing that is kept, and who is real still gets in."""

from __future__ import annotations

import random

import pytest
from stack_sim import A4, A6, B4, B6, Program, StackSim

from ntmpatch.base.drops import Drop
from ntmpatch.packet.stack import Claim
from ntmpatch.packet.stack.tcp.states import State
from ntmpatch.wire import ip, tcp
from ntmpatch.wire.segments import cut

BACKLOG = 8
FORGED = 100_000


class Server:
    """A listener on b whose half-open backlog is full of forged SYNs."""

    def __init__(self, sim: StackSim, *, ipv6: bool = False) -> None:
        self.sim = sim
        self.ends = (A6, B6) if ipv6 else (A4, B4)
        self.rng = random.Random(1)
        self.accepted: list[Program] = []
        family = 6 if ipv6 else 4
        self.listener = sim.b.listen_tcp(
            Claim((family,), None, 80), backlog=BACKLOG, accept=self.accept
        )

    def accept(self, conn: object) -> Program:
        program = Program(self.sim)
        program.conn = conn  # type: ignore[assignment]
        self.accepted.append(program)
        return program

    def segment(self, port: int, *, seq: int, ack: int, flags: int, options: bytes = b"") -> None:
        source, destination = self.ends
        header = tcp.build(port, 80, seq=seq, ack=ack, flags=flags, window=65535, options=options)
        packet = ip.build(source, destination, ip.TCP, len(header)) + header
        self.sim.b.receive([memoryview(packet)], (source,), self.sim.now)

    def flood(self, count: int) -> None:
        """Forged SYNs; whoever they seem to be from never answers."""
        for _ in range(count):
            self.segment(
                self.rng.randrange(1, 32768), seq=self.rng.getrandbits(32), ack=0, flags=tcp.SYN
            )

    def forget_answers(self) -> list[tcp.Segment]:
        """Take what b sends, so that nobody gets it."""
        scratch = memoryview(bytearray(1 << 18))
        answers = []
        while (segment := self.sim.b.poll_transmit(self.sim.now)) is not None:
            for packet in cut(segment, scratch, checksums=False):
                body = ip.parse_untrusted(memoryview(bytes(packet))).payload
                answers.append(tcp.parse_untrusted(body))
        return answers


def test_a_client_connects_during_a_flood() -> None:
    sim = StackSim()
    server = Server(sim)
    most = 0
    for _ in range(FORGED // 500):
        server.flood(500)
        server.forget_answers()
        most = max(most, len(sim.b.tcp.connections))
    assert most == BACKLOG
    client, _ = sim.connect(80, listen=False)
    assert sim.run(1, until=lambda: bool(server.accepted))
    assert sim.b.tcp.cookies.accepted == 1
    data = sim.rng.randbytes(300_000)
    client.send(data, end=True)
    assert sim.run(5, until=lambda: server.accepted[0].eof)
    assert server.accepted[0].received == data
    assert len(sim.b.tcp.connections) <= BACKLOG + 1


@pytest.mark.parametrize("ipv6", [False, True])
def test_options_and_data_come_through_a_cookie(ipv6: bool) -> None:
    sim = StackSim()
    server = Server(sim, ipv6=ipv6)
    server.flood(BACKLOG)
    server.forget_answers()
    client, _ = sim.connect(80, ipv6=ipv6, listen=False)
    client.send(b"with the ACK")
    assert sim.run(1, until=lambda: bool(server.accepted and server.accepted[0].received))
    ours, theirs = server.accepted[0].conn, client.conn
    assert ours is not None
    assert theirs is not None
    assert sim.b.tcp.cookies.accepted == 1
    assert (ours.timestamps, ours.sack, ours.snd_scale) == (True, True, theirs.rcv_scale)
    assert ours.snd_scale
    assert ours.mss == theirs.mss  # of the default MTU the table has the exact value
    assert server.accepted[0].received == b"with the ACK"


def test_data_comes_alone_where_the_ack_was_lost() -> None:
    sim = StackSim()
    server = Server(sim)
    server.flood(BACKLOG)
    server.forget_answers()
    client, _ = sim.connect(80, listen=False)
    assert sim.run(1, until=lambda: sim.b.tcp.cookies.sent > 0)
    sim.forth.loss = 1.0
    assert sim.run(1, until=lambda: client.is_established)
    sim.run(0.01)
    sim.forth.loss = 0.0
    assert not server.accepted
    client.send(b"data")
    assert sim.run(1, until=lambda: bool(server.accepted and server.accepted[0].received))
    assert server.accepted[0].received == b"data"


def cookie_for(server: Server, irs: int, options: bytes = b"") -> tcp.Segment:
    """The answer to a SYN from port 40000 while the backlog is full."""
    server.forget_answers()
    server.segment(40000, seq=irs, ack=0, flags=tcp.SYN, options=options)
    (answer,) = server.forget_answers()
    return answer


def test_without_timestamps_there_are_no_options() -> None:
    sim = StackSim()
    server = Server(sim)
    server.flood(BACKLOG)
    offer = tcp.build_syn_options(1400, window_scale=9, sack_permitted=True, timestamps=None)
    answer = cookie_for(server, 5000, offer)
    assert answer.options.window_scale is None
    assert not answer.options.sack_permitted
    server.segment(40000, seq=5001, ack=answer.seq + 1 & 0xFFFFFFFF, flags=tcp.ACK)
    (program,) = server.accepted
    assert program.conn is not None
    assert program.conn.state is State.ESTABLISHED
    # The far end's 1400 became the table's 1380, of which our MTU leaves less.
    assert (program.conn.snd_scale, program.conn.sack, program.conn.mss) == (0, False, 1336)


@pytest.mark.parametrize(
    ("elapsed", "is_taken"), [(0.0, True), (64.0, True), (128.0, False), (10_000.0, False)]
)
def test_a_cookie_grows_old(elapsed: float, is_taken: bool) -> None:
    sim = StackSim()
    server = Server(sim)
    server.flood(BACKLOG)
    answer = cookie_for(server, 5000)
    sim.now += elapsed
    server.flood(2 * BACKLOG)  # cookies are still sent, so ACKs are still examined
    server.segment(40000, seq=5001, ack=answer.seq + 1 & 0xFFFFFFFF, flags=tcp.ACK)
    assert bool(server.accepted) is is_taken
    assert sim.b.drops[Drop.TCP_BAD_COOKIE] == (not is_taken)


def test_what_is_no_cookie_is_reset() -> None:
    """Another sequence number, port, or option than the cookie was made for, and mere guesses."""
    sim = StackSim()
    server = Server(sim)
    server.flood(BACKLOG)
    stamps = tcp.build_syn_options(1400, window_scale=9, sack_permitted=True, timestamps=(7, 0))
    answer = cookie_for(server, 5000, stamps)
    ack = answer.seq + 1 & 0xFFFFFFFF
    assert answer.options.timestamp is not None
    echo = tcp.build_timestamps(8, answer.options.timestamp)
    forged = tcp.build_timestamps(8, answer.options.timestamp ^ 1)
    tries = [(40001, 5001, ack, echo), (40000, 5002, ack, echo), (40000, 5001, ack, forged)]
    tries += [(40000, 5001, ack, b""), (40000, 5001, ack + 8, echo)]
    tries += [(40000, 5001, server.rng.getrandbits(32), echo) for _ in range(500)]
    for port, seq, number, options in tries:
        server.segment(port, seq=seq, ack=number, flags=tcp.ACK, options=options)
        (reset,) = server.forget_answers()
        assert reset.flags & tcp.RST
    assert not server.accepted
    assert sim.b.drops[Drop.TCP_BAD_COOKIE] == len(tries)
    server.segment(40000, seq=5001, ack=ack, flags=tcp.ACK, options=echo)
    assert len(server.accepted) == 1


def test_no_cookies_while_there_is_room() -> None:
    sim = StackSim()
    server = Server(sim)
    server.flood(BACKLOG)
    assert sim.b.tcp.cookies.sent == 0
    server.segment(40000, seq=5, ack=6, flags=tcp.ACK)
    assert sim.b.drops[Drop.TCP_BAD_COOKIE] == 0
    assert sim.b.drops[Drop.TCP_NO_CONNECTION] == 1


def test_whom_the_program_does_not_accept_waits_outside() -> None:
    """Linux's other bound: SYNs and the handshakes' last ACKs are dropped until it accepts."""
    sim = StackSim()
    server = Server(sim)
    waiting = 0
    server.listener.count_unaccepted = lambda: waiting
    client, _ = sim.connect(80, listen=False)
    assert sim.run(1, until=lambda: bool(server.listener.half_open))
    waiting = BACKLOG + 1
    late, _ = sim.connect(80, listen=False)
    sim.run(0.9)
    assert client.is_established
    assert not server.accepted
    assert not late.is_established
    assert sim.b.drops[Drop.TCP_BACKLOG_FULL] >= 2
    waiting = BACKLOG
    assert sim.run(10, until=lambda: late.is_established and len(server.accepted) == 2)
