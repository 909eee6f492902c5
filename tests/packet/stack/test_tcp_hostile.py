"""TCP under a far end that sends anything: nothing is raised, and the books stay right."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from state_machine import STATES, THERE, Machine

from ntmpatch.packet.stack.tcp.states import State
from ntmpatch.wire import tcp

if TYPE_CHECKING:
    from ntmpatch.packet.stack import TcpConnection

SEEDS = int(os.environ.get("NTMPATCH_HOSTILE_SEEDS", "20"))
CONVERSATIONS = 50
_NOP2 = b"\x01\x01"
_USUAL_FLAGS = (
    tcp.ACK,
    tcp.ACK | tcp.PSH,
    tcp.ACK | tcp.FIN,
    tcp.SYN,
    tcp.SYN | tcp.ACK,
    tcp.RST,
    tcp.RST | tcp.ACK,
    tcp.ACK | tcp.ECE,
)


def options(rng: random.Random, ack: int) -> bytes:
    """None, right ones, SACK about anything, or noise."""
    kind = rng.randrange(6)
    if kind == 0:
        return tcp.build_timestamps(rng.getrandbits(32), rng.getrandbits(32))
    if kind == 1:
        edges = [(ack + rng.randrange(4000)) & 0xFFFFFFFF for _ in range(2)]
        return tcp.build_sack([(edges[0], edges[1])])
    if kind == 2:
        return rng.randbytes(4 * rng.randrange(10))
    if kind == 3:
        return tcp.build_syn_options(
            rng.getrandbits(16),
            window_scale=rng.randrange(16),
            sack_permitted=True,
            timestamps=(rng.getrandbits(32), 0),
        )
    return b""


def segment(machine: Machine, rng: random.Random) -> None:
    """One that is nearly right, or not at all."""
    flags = rng.choice(_USUAL_FLAGS) if rng.random() < 0.7 else rng.getrandbits(8)
    near = (0, 0, 0, 1, -1, 100, -100, 70_000, rng.getrandbits(32))
    seq = machine.far_nxt + rng.choice(near)
    ack = rng.choice([machine.snd_nxt, machine.snd_una]) + rng.choice(near)
    data = rng.randbytes(rng.choice([0, 0, 1, 100, 1300]))
    machine.receive(flags, seq, ack, data, options=options(rng, ack))


def program(machine: Machine, conn: TcpConnection, rng: random.Random) -> None:
    """The program does something."""
    now = machine.now
    stack = machine.stack
    action = rng.randrange(8)
    if action < 3:
        space = conn.send_space()
        if space:
            conn.commit(rng.randrange(1, len(space) + 1), now)
    elif action == 3:
        stack.path_changed(THERE, now)
    elif action == 4:
        stack.host_unreachable(THERE, now)
    else:
        rng.choice([conn.shutdown_write, conn.close, conn.abort, conn.resume])(now)


def check(conn: TcpConnection) -> None:
    """What holds at any time."""
    board = conn.scoreboard
    assert conn.snd_una <= conn.snd_nxt
    assert 0 <= board.sacked_size + board.lost_size <= conn.flight
    assert conn.congestion.cwnd > 0
    budget = conn.service.budget
    assert budget.held >= 0
    assert budget.granted >= 0


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_arrives_nothing_is_raised_and_nothing_stays(seed: int) -> None:
    for index in range(CONVERSATIONS):
        rng = random.Random(seed * CONVERSATIONS + index)
        machine = Machine()
        machine.enter(rng.choice(STATES))
        for _ in range(rng.randrange(1, 30)):
            what = rng.random()
            if what < 0.6:
                segment(machine, rng)
            elif what < 0.7:
                noise = memoryview(rng.randbytes(rng.randrange(120)))
                machine.stack.receive([noise], (THERE,), machine.now)
            elif what < 0.8:
                machine.give("time")
            elif machine.conn is not None:
                program(machine, machine.conn, rng)
            machine.sent()
            if machine.conn is not None:
                check(machine.conn)
        for conn in machine.stack.tcp.connections:
            conn.abort(machine.now)
        machine.sent()
        budget = machine.stack.tcp.budget
        assert not machine.stack.tcp.connections
        assert budget.held == 0
        assert budget.granted == 0


def test_nothing_is_held_that_was_sent_from_behind_the_end_of_a_stream() -> None:
    machine = Machine()
    machine.enter("ESTABLISHED")
    machine.receive(tcp.ACK, machine.far_nxt + 1, machine.snd_nxt, bytes(100))
    assert machine.stack.tcp.budget.held == 100
    machine.receive(tcp.ACK | tcp.FIN, machine.far_nxt, machine.snd_nxt)
    assert machine.conn is not None
    assert machine.conn.state is State.CLOSE_WAIT
    assert machine.stack.tcp.budget.held == 0
