"""What connections cost that do nothing."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

from stack_sim import B4, StackSim

from ntmpatch.packet.stack import Claim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.packet.stack import TcpConnection

COUNT = 10_000
LIMIT = 8 << 10


class Quiet:
    """A handler that takes what comes, and costs nothing itself."""

    __slots__ = ()

    def established(self) -> None:
        pass

    def deliver(self, views: Sequence[memoryview]) -> int:
        return sum(map(len, views))

    def end_of_stream(self) -> None:
        pass

    def writable(self) -> None:
        pass

    def closed(self, error: int) -> None:
        raise AssertionError(error)


def resident_size() -> int:
    """Of this process, bytes."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_ten_thousand_idle_connections_cost_little_memory_and_no_timers() -> None:
    sim = StackSim(1)
    handler = Quiet()
    accepted: list[TcpConnection] = []

    def accept(conn: TcpConnection) -> Quiet:
        accepted.append(conn)
        return handler

    sim.b.listen_tcp(Claim((4,), None, 80), backlog=4096, accept=accept)
    before = resident_size()
    opened: list[TcpConnection] = []
    while len(opened) < COUNT:
        opened += [sim.a.connect_tcp(B4, 80, handler, sim.now) for _ in range(1000)]
        sim.run(1.0)
    for index, conn in enumerate(opened):  # idle, but not unused
        conn.send_space()[:100] = bytes(100)
        conn.commit(100, sim.now)
        if index % 100 == 99:
            sim.run(0.1)
    sim.run(5.0)
    used = resident_size() - before
    assert len(accepted) == COUNT
    assert all(conn.bytes_received == 100 for conn in accepted)
    assert used / (2 * COUNT) < LIMIT
    print(f"{used / (2 * COUNT):.0f} bytes a connection")
    for stack in (sim.a, sim.b):
        assert stack.poll_timeout() is None
        assert stack.poll_transmit(sim.now) is None
