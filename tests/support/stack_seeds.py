"""One seed, one story: two stacks, a bad network, connections that do what programs do.

At the end every byte has arrived once and in order, every connection has ended, nothing is left.
"""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING

from stack_sim import A4, A6, B4, B6, Burst, Path, Program, StackSim

from ntmpatch.packet.stack.tcp.rto import MAX_RTO
from ntmpatch.packet.stack.tcp.timeouts import GIVE_UP_AFTER

if TYPE_CHECKING:
    from ntmpatch.packet.stack import TcpConnection

PATIENCE = 7200.0
"""Virtual seconds for everything to arrive."""
SILENCE = GIVE_UP_AFTER - 2 * MAX_RTO
"""Virtual seconds without a packet, after which a connection may have timed out."""
AFTERMATH = 1500.0
"""Until the last timer has run: TIME-WAIT, or a time-out without an answer."""


class Story:
    """What happens under one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        choose = self.random.choice
        self.verify = choose([False, False, False, True])
        self.sim = StackSim(
            seed,
            mtu=choose([1280, 1376, 1376, 1376, 9000]),
            max_mtu=choose([None, None, 9000]),
            verify=self.verify,
        )
        self.sim.a.tcp.offers_ecn = choose([True, False])
        self.slowest = 1e9
        for path in (self.sim.forth, self.sim.back):
            self._set(path)
        self.pairs: list[tuple[Program, Program]] = []
        self.data: list[tuple[bytes, bytes]] = []
        self.aborted: set[int] = set()

    def _set(self, path: Path) -> None:
        choose = self.random.choice
        path.loss = choose([0.0, 0.0, 0.01, 0.05, 0.15])
        path.reorder = choose([0.0, 0.0, 0.1, 0.3])
        path.duplicate = choose([0.0, 0.0, 0.05])
        path.delay = choose([0.0005, 0.01, 0.05, 0.3])  # each way its own
        path.rate = choose([0.0, 0.0, 1e5, 2e5, 1e6])
        path.queue_size = choose([10_000, 64_000])
        path.corrupt = choose([0.0, 0.02]) if self.verify else 0.0
        path.mark = choose([0.0, 0.0, 0.01, 0.2])
        path.burst = choose([None, None, Burst(begins=0.01, ends=0.3), Burst(0.002, 0.05)])
        if path.rate:
            self.slowest = min(self.slowest, path.rate)

    def run(self) -> None:
        """Play it; AssertionError where the stack fails."""
        choose = self.random.choice
        sim = self.sim
        size = choose([1, 1000, 20_000, 60_000, 200_000])
        for index in range(choose([1, 1, 1, 3])):
            ipv6 = choose([True, False])
            pair = sim.connect(80 + index, ipv6=ipv6)
            for program in pair:
                program.closes_at_end = True
                program.trickle = choose([None, None, None, 7000])
            forth, back = self.random.randbytes(size), self.random.randbytes(size // 3)
            self.pairs.append(pair)
            self.data.append((forth, back))
            pair[0].send(forth, end=True)
            pair[1].send(back, end=True)
        for _ in range(choose([0, 0, 1, 3])):
            sim.run(choose([0.01, 0.2, 1.0, 5.0]))
            self._event()
        assert sim.run(PATIENCE, until=self._is_over), self._report()
        for index in range(len(self.pairs)):
            self._check(index)
        sim.run(AFTERMATH)
        self._check_nothing_left()

    def _event(self) -> None:
        """Something that happens to programs, or to the network under them."""
        choose = self.random.choice
        sim = self.sim
        client, server = choose(self.pairs)
        kind = choose(["cut", "cut", "path", "path", "pause", "silence", "abort"])
        if kind == "cut":
            for path in (sim.forth, sim.back):
                path.mtu = 1280
                path.tells = choose([True, False])
        elif kind == "path":
            for path in (sim.forth, sim.back):
                self._set(path)
            sim.a.path_changed(B4, sim.now)
            sim.a.path_changed(B6, sim.now)
            if choose([True, False]):
                sim.b.path_changed(A4, sim.now)
                sim.b.path_changed(A6, sim.now)
        elif kind == "pause":
            reader = choose([client, server])
            reader.reads = False
            sim.run(choose([0.5, 5.0, 90.0]))
            reader.resume()
        elif kind == "silence":
            kept = sim.forth.loss, sim.back.loss
            sim.forth.loss = sim.back.loss = 1.0
            sim.run(choose([0.5, 5.0, 60.0 if server.is_established else 1.0]))
            sim.forth.loss, sim.back.loss = kept
        else:
            index = self.pairs.index((client, server))
            loser = choose([client, server])
            if loser.conn is not None:
                self.aborted.add(index)
                for program in (client, server):
                    if program.conn is not None:  # the reset may be lost
                        program.conn.set_keepalive((10.0, 5.0, 3), sim.now)
                loser.conn.abort(sim.now)

    def _is_over(self) -> bool:
        for index, (client, server) in enumerate(self.pairs):
            if client.errors == [errno.ETIMEDOUT] and not client.is_established:
                self.aborted.add(index)  # the network lost seven SYNs, or all their answers
            elif index not in self.aborted:
                self._excuse_silence(index)
            if index in self.aborted:
                if not client.ended or (server.conn is not None and not server.ended):
                    return False
            elif not (client.eof and server.eof):
                return False
        return True

    def _excuse_silence(self, index: int) -> None:
        """Whoever heard nothing at all for a quarter of an hour gives up, and can tell nobody."""
        pair = self.pairs[index]
        for name, program, other in zip("ab", pair, reversed(pair), strict=True):
            if program.errors == [errno.ETIMEDOUT] and program.silence[name] > SILENCE:
                self.aborted.add(index)
                if other.conn is not None and not other.ended:
                    other.conn.set_keepalive((10.0, 5.0, 3), self.sim.now)

    def _check(self, index: int) -> None:
        (client, server), (forth, back) = self.pairs[index], self.data[index]
        if index in self.aborted:
            assert forth.startswith(server.received)
            assert back.startswith(client.received)
        else:
            assert server.received == forth
            assert client.received == back

    def _check_nothing_left(self) -> None:
        for index, pair in enumerate(self.pairs):
            for name, program in zip("ab", pair, strict=True):
                if program.errors == [errno.ETIMEDOUT] and program.silence[name] > SILENCE:
                    continue  # one story of many thousands: all that came after the data was lost
                assert index in self.aborted or program.errors == [0], (name, program.errors)
        for stack in (self.sim.a, self.sim.b):
            assert not stack.tcp.connections, stack.tcp.connections
            assert not stack.has_unacknowledged_data()
            assert stack.poll_timeout() is None, stack.poll_timeout()
            budget = stack.tcp.budget
            assert budget.granted == budget.held == 0, (budget.granted, budget.held)

    def _report(self) -> str:
        lines = [f"{self.sim.now:.3f}: not over; {self.sim.forth} {self.sim.back}"]
        programs = [program for pair in self.pairs for program in pair]
        lines += [_describe(program.conn, len(program.received)) for program in programs]
        return "\n".join(lines)


def _describe(conn: TcpConnection | None, received: int) -> str:
    if conn is None:
        return "never connected"
    return (
        f"{conn} received {received}, unacknowledged {conn.flight}, to send "
        f"{conn.data_end - conn.snd_nxt}, window {conn.snd_wnd}, mss {conn.mss}, "
        f"cwnd {conn.congestion.cwnd}, rto {conn.rtt.rto:.3f}, time-outs {conn.timeouts}"
    )


def run_seed(seed: int) -> None:
    """Play one seed to its end; AssertionError if the stack fails."""
    Story(seed).run()
