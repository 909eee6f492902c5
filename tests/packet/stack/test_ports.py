"""The table of ports by itself; tests/patch/test_port_rules.py holds it against the kernel."""

from __future__ import annotations

import errno
import random
from dataclasses import replace

import pytest
from stack_sim import A4, B4, Program, StackSim

from ntmpatch.packet.stack import Claim
from ntmpatch.packet.stack.ports import EPHEMERAL_PORTS, PortTable, Use

HERE, THERE = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
EVERYWHERE = Claim((4,), None, 80)


def table(*claims: Claim) -> PortTable:
    ports = PortTable(random.Random(1))
    for each in claims:
        ports.add(each)
    return ports


def refuses(ports: PortTable, wanted: Claim) -> bool:
    try:
        ports.release(ports.claim(wanted))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def test_addresses_that_overlap_exclude_each_other() -> None:
    at_one = replace(EVERYWHERE, address=HERE)
    assert refuses(table(EVERYWHERE), at_one)
    assert refuses(table(at_one), EVERYWHERE)
    assert refuses(table(at_one), at_one)
    assert not refuses(table(at_one), replace(EVERYWHERE, address=THERE))
    assert not refuses(table(EVERYWHERE), replace(EVERYWHERE, port=81))


def test_families_exclude_each_other_only_where_both_have_one() -> None:
    both = replace(EVERYWHERE, families=(4, 6))
    assert refuses(table(EVERYWHERE), both)
    assert refuses(table(both), replace(EVERYWHERE, families=(6,)))
    assert not refuses(table(EVERYWHERE), replace(EVERYWHERE, families=(6,)))


def test_reuse_needs_both_and_no_listener() -> None:
    reusing = replace(EVERYWHERE, reuse_address=True)
    assert not refuses(table(reusing), reusing)
    assert refuses(table(EVERYWHERE), reusing)
    assert refuses(table(reusing), EVERYWHERE)
    assert refuses(table(replace(reusing, use=Use.LISTENING)), reusing)
    sharing = replace(EVERYWHERE, reuse_port=True)
    assert not refuses(table(replace(sharing, use=Use.LISTENING)), sharing)


def test_equal_claims_end_one_by_one() -> None:
    sharing = replace(EVERYWHERE, reuse_port=True)
    ports = table(sharing, sharing)
    ports.release(sharing)
    assert refuses(ports, EVERYWHERE)
    ports.release(sharing)
    assert not refuses(ports, EVERYWHERE)


def test_a_socket_is_not_in_its_own_way() -> None:
    """But a second one with the same claim is."""
    reusing = replace(EVERYWHERE, reuse_address=True)
    ports = table(replace(reusing, use=Use.LISTENING))
    with pytest.raises(OSError, match="in use"):
        ports.claim(reusing, instead_of=reusing)
    ports = table(EVERYWHERE)
    listening = ports.claim(replace(EVERYWHERE, use=Use.LISTENING), instead_of=EVERYWHERE)
    ports.release(listening)
    assert not refuses(ports, EVERYWHERE)


def test_any_port_is_one_that_is_free_in_all_families() -> None:
    others = [Claim((6,), None, port) for port in EPHEMERAL_PORTS if port != 50_000]
    ports = table(*others)
    assert ports.claim(Claim((4, 6), None, 0)).port == 50_000
    with pytest.raises(OSError, match="in use"):
        ports.claim(Claim((4, 6), None, 0))


def test_connections_share_what_no_program_has_chosen() -> None:
    """A port that was bound or accepted at is no other connection's to begin from."""
    automatic = Claim((4,), HERE, 40_000, use=Use.AUTOMATIC)
    others = [
        replace(automatic, port=port, use=Use.BOUND) for port in EPHEMERAL_PORTS if port != 40_000
    ]
    ports = table(automatic, *others)
    assert ports.choose_to_connect(lambda _: True) == 40_000
    with pytest.raises(OSError, match="assign") as caught:
        ports.choose_to_connect(lambda port: port != 40_000)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert refuses(ports, replace(EVERYWHERE, port=40_000))


def test_a_connection_keeps_the_port_until_time_wait_is_over() -> None:
    sim = StackSim()
    bound = sim.a.bind_tcp(Claim((4,), A4, 7000))
    client, server = sim.connect(local=A4, local_port=7000, bound=bound)
    assert sim.run(1, until=lambda: client.is_established)
    wanted = Claim((4,), None, 7000)
    with pytest.raises(OSError, match="in use"):
        sim.a.bind_tcp(wanted)
    client.send(b"", end=True)
    server.send(b"", end=True)
    sim.run(30)
    with pytest.raises(OSError, match="in use"):
        sim.a.bind_tcp(wanted)
    sim.run(40)
    assert client.errors == [0]
    sim.a.release_tcp(sim.a.bind_tcp(wanted))


def test_a_server_starts_again_while_its_connections_last() -> None:
    sim = StackSim()
    wanted = Claim((4,), None, 80, reuse_address=True)
    programs: list[Program] = []

    def accept(conn: object) -> Program:
        program = Program(sim)
        program.conn = conn  # type: ignore[assignment]
        programs.append(program)
        return program

    listener = sim.b.listen_tcp(wanted, backlog=8, accept=accept)
    client = Program(sim)
    client.conn = sim.a.connect_tcp(B4, 80, client, sim.now)
    assert sim.run(1, until=lambda: bool(programs))
    listener.close()
    with pytest.raises(OSError, match="in use"):
        sim.b.listen_tcp(replace(wanted, reuse_address=False), backlog=8, accept=accept)
    sim.b.listen_tcp(wanted, backlog=8, accept=accept)
