"""A driver: a process with many light nodes, told over a pipe what load to make with them."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import random
import resource
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from load.client import LightClient, Traffic
from load.dns import DnsLoad
from load.loop import Loop
from load.relay import RelayLoad
from load.world import node_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection

    from load.world import World
    from ntmpatch.crypto.token import Token

OPERATION_TIMEOUT = 60.0
"""Seconds after the last operation was begun within which all must have ended."""


@dataclass
class Tally:
    """What came of a load."""

    wall_time: float = 0.0
    done: int = 0
    failed: int = 0
    latencies: list[float] = field(default_factory=list)
    """Seconds, of each operation that succeeded."""
    first_latencies: list[float] = field(default_factory=list)
    """Of look-ups: until the direction came; the tunnel is up later."""
    errors: list[str] = field(default_factory=list)
    bytes: int = 0
    """Between the nodes and the servers, with the headers of IP; of a relay, what it carried."""
    packets: int = 0


class Driver:
    """The far side of `Drivers`: its methods whose names are sent are called."""

    def __init__(self, pipe: Connection, seed: int) -> None:
        self._pipe = pipe
        self._loop = Loop()
        self._rng = random.Random(seed)
        self._clients: dict[int, LightClient] = {}
        self._traffic = Traffic()
        self._world: World | None = None
        self._loop.watch(pipe.fileno(), lambda _: None)

    def serve(self) -> None:
        """Do as told until the pipe is closed."""
        while True:
            self._loop.run(self._pipe.poll, timeout=float("inf"))
            try:
                name, arguments = self._pipe.recv()
            except EOFError:
                return
            traffic = self._traffic
            traffic.messages = traffic.bytes = 0
            try:
                answer = getattr(self, name)(**arguments)
                if isinstance(answer, Tally) and not answer.bytes:
                    answer.bytes, answer.packets = traffic.bytes, traffic.messages
                self._pipe.send(answer)
            except Exception:
                self._pipe.send(traceback.format_exc())

    # --- what is told ------------------------------------------------------------------

    def meet(self, world: World) -> None:
        """Use these servers, and forget the nodes of others."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self._world = world

    def populate(self, numbers: Sequence[int], *, enrolled: bool = True) -> None:
        """Make nodes; nothing is sent yet."""
        assert self._world is not None
        for number in numbers:
            self._clients[number] = LightClient(
                self._loop,
                number,
                self._world,
                self._rng,
                traffic=self._traffic,
                enrolled=enrolled,
            )
        gc.collect()
        gc.freeze()  # tens of thousands of objects that stay: not to be looked at again

    def register(
        self, *, numbers: Sequence[int], concurrency: int, seconds: float = 0.0, moved: bool = False
    ) -> Tally:
        """Registrations, one a node, or as many as there is time for."""
        return self._closed(
            numbers,
            lambda client, done: client.run(client.party.register(moved=moved), done),
            concurrency,
            seconds,
        )

    def attach(self, *, numbers: Sequence[int], concurrency: int) -> Tally:
        """Connections to the NS, one a node."""
        return self._closed(
            numbers, lambda client, done: client.run(client.party.attach(), done), concurrency, 0.0
        )

    def shake_hands(self, *, numbers: Sequence[int], concurrency: int, seconds: float) -> Tally:
        """Handshakes with the DC."""
        assert self._world is not None
        coordinator = self._world.coordinator
        return self._closed(
            numbers,
            lambda client, done: client.shake_hands(coordinator, done),
            concurrency,
            seconds,
        )

    def enrol(self, *, tokens: dict[int, Token], concurrency: int) -> Tally:
        """Enrolments, one a token."""
        return self._closed(
            list(tokens),
            lambda client, done: client.run(
                client.party.enrol_by(tokens[client.number].token_id, tokens[client.number].secret),
                done,
            ),
            concurrency,
            0.0,
        )

    def look_up(
        self,
        *,
        numbers: Sequence[int],
        called: Sequence[int],
        concurrency: int = 0,
        rate: float = 0.0,
        seconds: float,
    ) -> Tally:
        """Set-ups of tunnels to any of ``called``: so many at once, or so many a second."""

        def begin(client: LightClient, done: Callable[[Any, Exception | None], None]) -> None:
            # No pair twice, in neither direction, for as long as that goes.
            client.calls = client.calls % (len(called) - 1) + 1
            number = called[(client.number + client.calls) % len(called)]
            client.tunnel.hold_unknown(time.monotonic() + OPERATION_TIMEOUT)
            client.run(client.party.look_up(node_name(number)), done)

        if rate:
            return self._open(numbers, begin, rate, seconds)
        return self._closed(numbers, begin, concurrency, seconds)

    def query(self, *, names: Sequence[str], window: int, seconds: float) -> Tally:
        """DNS queries, so many at once."""
        assert self._world is not None
        load = DnsLoad(self._loop, self._world.dns, names, window)
        return Tally(*load.run(seconds))

    def relay(self, *, pair: tuple[int, int], payload_size: int, seconds: float) -> Tally:
        """Datagrams through the RS between two nodes of this driver."""
        calling, called = (self._clients[number] for number in pair)
        outcome: list[Exception | None] = []
        for client in (calling, called):
            client.run(client.party.register(hidden=True), lambda _, error: outcome.append(error))
        self._loop.run(lambda: len(outcome) == 2, 10.0)
        process = calling.party.look_up(node_name(called.number))
        calling.run(process, lambda _, error: outcome.append(error))
        self._loop.run(lambda: len(outcome) == 3, 10.0)
        if any(outcome) or len(outcome) < 3:
            raise RuntimeError(f"no relay session: {outcome}")
        legs = (
            calling.party.directions[called.party.public_key].relay,
            called.party.directions[calling.party.public_key].relay,
        )
        load = RelayLoad(self._loop, legs, (calling.host, called.host), payload_size)
        return Tally(**load.run(seconds))

    def named_servers(self, *, number: int) -> list[str]:
        """The roles of the servers that the DC named to a node when it registered."""
        answer = self._clients[number].party.answer
        return [] if answer is None else [server.role for server in answer.servers]

    def rest(self, *, seconds: float) -> Tally:
        """Only answer what comes."""
        self._loop.run(lambda: False, seconds)
        return Tally(wall_time=seconds)

    def lost_connections(self) -> int:
        """Connections to the NS that broke."""
        return sum(client.lost_connections for client in self._clients.values())

    # --- loads -------------------------------------------------------------------------

    def _closed(
        self,
        numbers: Sequence[int],
        begin: Callable[[LightClient, Callable[[Any, Exception | None], None]], None],
        concurrency: int,
        seconds: float,
    ) -> Tally:
        """So many operations at once, each by another node: one a node, or ``seconds`` long."""
        tally = Tally()
        clients: Iterator[int] = itertools.cycle(numbers) if seconds else iter(numbers)
        begun = time.monotonic()
        ends_at = begun + seconds if seconds else float("inf")
        under_way = 0

        def start(_: float = 0.0) -> None:
            nonlocal under_way
            number = next(clients, None)
            if number is None or time.monotonic() >= ends_at:
                under_way -= 1
            else:
                self._begin(self._clients[number], begin, tally, ended)

        def ended() -> None:
            # By way of the loop: an operation may end within its beginning.
            self._loop.call_at(0.0, start)

        for _ in range(min(concurrency, len(numbers))):
            under_way += 1
            start()
        self._loop.run(lambda: under_way == 0)
        tally.wall_time = time.monotonic() - begun
        return tally

    def _open(
        self,
        numbers: Sequence[int],
        begin: Callable[[LightClient, Callable[[Any, Exception | None], None]], None],
        rate: float,
        seconds: float,
    ) -> Tally:
        """Operations that begin at random, ``rate`` a second, whatever became of those before."""
        tally = Tally()
        clients = itertools.cycle(numbers)
        begun = time.monotonic()
        instants: list[float] = []
        at = begun + self._rng.expovariate(rate)
        while at < begun + seconds:
            instants.append(at)
            at += self._rng.expovariate(rate)
        ended = 0

        def end() -> None:
            nonlocal ended
            ended += 1

        for due_at in instants:
            self._loop.call_at(
                due_at, lambda _: self._begin(self._clients[next(clients)], begin, tally, end)
            )
        self._loop.run(lambda: ended == len(instants), seconds + OPERATION_TIMEOUT)
        tally.wall_time = time.monotonic() - begun
        return tally

    @staticmethod
    def _begin(
        client: LightClient,
        begin: Callable[[LightClient, Callable[[Any, Exception | None], None]], None],
        tally: Tally,
        ended: Callable[[], None],
    ) -> None:
        begun = time.monotonic()

        def done(result: Any, error: Exception | None) -> None:
            if error is None:
                tally.done += 1
                tally.latencies.append(time.monotonic() - begun)
                if isinstance(result, tuple):
                    tally.first_latencies.append(result[0] - begun)
            else:
                tally.failed += 1
                tally.errors.append(str(error))
            ended()

        begin(client, done)


class Drivers:
    """Several drivers, each a process; ``call`` has all of them do the same at once."""

    def __init__(self, count: int, seed: int) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        context = multiprocessing.get_context("fork")
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        for number in range(count):
            near, far = context.Pipe()
            process = context.Process(
                target=_run, args=(far, seed + number, [*self._pipes, near]), daemon=True
            )
            process.start()
            far.close()
            self._pipes.append(near)
            self._processes.append(process)

    def __len__(self) -> int:
        return len(self._pipes)

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10)

    def call(self, name: str, arguments: Sequence[dict[str, Any]]) -> list[Any]:
        """Send one call to each driver that there are arguments for, and wait for all answers."""
        pipes = self._pipes[: len(arguments)]
        for pipe, each in zip(pipes, arguments, strict=True):
            pipe.send((name, each))
        answers = [pipe.recv() for pipe in pipes]
        for answer in answers:
            if isinstance(answer, str):
                raise RuntimeError(f"a driver failed:\n{answer}")
        return answers

    def share(self, numbers: Sequence[int]) -> list[Sequence[int]]:
        """Each driver's part of the nodes: the same one every time."""
        return [
            [number for number in numbers if number % len(self) == index]
            for index in range(len(self))
        ]


def _run(pipe: Connection, seed: int, others: list[Connection]) -> None:
    for other in others:
        other.close()  # or it would not see the end of its own
    Driver(pipe, seed).serve()
