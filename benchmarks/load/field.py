"""The field of a measurement: servers, drivers, and a population of registered nodes."""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from load.figures import Figure, percentile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from load.driver import Drivers, Tally
    from load.servers import Servers

ATTEMPTS = 30
CONCURRENCY = 64
"""Operations under way at once, of all drivers together: as many as keep a server busy."""


class Run:
    """One run of a load: what came of it, and what the servers spent on it."""

    def __init__(self, tallies: Sequence[Tally], cpu: dict[str, float]) -> None:
        self.done = sum(tally.done for tally in tallies)
        self.failed = sum(tally.failed for tally in tallies)
        self.wall_time = max(tally.wall_time for tally in tallies)
        self.latencies = [latency for tally in tallies for latency in tally.latencies]
        self.first_latencies = [latency for tally in tallies for latency in tally.first_latencies]
        self.errors = Counter(error for tally in tallies for error in tally.errors)
        self.bytes = sum(tally.bytes for tally in tallies)
        self.packets = sum(tally.packets for tally in tallies)
        self.cpu = cpu

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.done / self.wall_time

    def cost(self, role: str) -> float:
        """Seconds of a core that one operation took a server."""
        return self.cpu[role] / max(1, self.done)


class Field:
    """Runs loads against one domain. Every failure of an operation is told."""

    def __init__(self, servers: Servers, drivers: Drivers, *, seconds: float, runs: int) -> None:
        self.servers = servers
        self.drivers = drivers
        self.seconds = seconds
        self.runs = runs
        self.population: range = range(0)
        self.everywhere("meet", world=servers.world())

    def everywhere(self, name: str, **arguments: Any) -> list[Any]:
        """The same call to every driver."""
        return self.drivers.call(name, [arguments] * len(self.drivers))

    def shared(self, name: str, numbers: Sequence[int], **arguments: Any) -> Run:
        """A load by these nodes, each at its driver."""
        arguments.setdefault("concurrency", max(1, CONCURRENCY // len(self.drivers)))
        return self.run(
            name, [{"numbers": share, **arguments} for share in self.drivers.share(numbers)]
        )

    def run(self, name: str, arguments: Sequence[dict[str, Any]]) -> Run:
        """One call each to the drivers, while the servers' processor time is counted."""
        before = {role: process.cpu_time() for role, process in self.servers.processes.items()}
        tallies = self.drivers.call(name, arguments)
        after = {role: process.cpu_time() for role, process in self.servers.processes.items()}
        run = Run(tallies, {role: after[role] - before[role] for role in before})
        for error, count in run.errors.most_common(3):
            print(f"  {name}: {count} failed: {error}", file=sys.stderr)
        if run.failed and not run.errors:
            print(f"  {name}: {run.failed} without answer", file=sys.stderr)
        return run

    def repeat(self, load: Callable[[], Run]) -> list[Run]:
        """Several runs."""
        return [load() for _ in range(self.runs)]

    def look_up(self, seconds: float, rate: float = 0.0) -> Run:
        """Set-ups of tunnels between any two of the population; ``rate`` 0: to saturation."""
        return self.shared(
            "look_up",
            self.population,
            called=self.population,
            rate=rate / len(self.drivers),
            seconds=seconds,
        )

    def grow(self, count: int) -> tuple[Run, Run] | None:
        """Let nodes come until there are ``count``: their registrations, then their connections."""
        fresh = range(len(self.population), count)
        if not fresh:
            return None
        self.servers.add_enrolled(fresh)
        self.drivers.call("populate", [{"numbers": share} for share in self.drivers.share(fresh)])
        if not self.population:
            self._await_notification_server(fresh[0])
        registrations = self.shared("register", fresh)
        connections = self.shared("attach", fresh)
        self.population = range(count)
        return registrations, connections

    def _await_notification_server(self, number: int) -> None:
        """A DC that has just been started hears of its NS within some seconds."""
        for _ in range(ATTEMPTS):
            self.shared("register", [number])
            answers = self.drivers.call("named_servers", [{"number": number}])
            if "ns" in answers[0]:
                return
            time.sleep(1.0)
        raise RuntimeError("the DC names no NS")


def rates(key: str, what: str, runs: Sequence[Run], *, nodes: bool = True) -> Figure:
    """The row of a load that was run to saturation; ``nodes``: it was made by light nodes."""
    cpu = {role: statistics.median(run.cost(role) for run in runs) for role in runs[0].cpu}
    done = max(1, sum(run.done for run in runs))
    traffic = (
        sum(run.packets for run in runs) / done if nodes else 0.0,
        sum(run.bytes for run in runs) / done if nodes else 0.0,
    )
    return Figure(key, what, "1/s", [run.rate for run in runs], cpu, traffic)


def latencies(key: str, what: str, samples: Sequence[Sequence[float]], share: float) -> Figure:
    """The row of one percentile, in milliseconds."""
    return Figure(key, what, "ms", [1000 * percentile(each, share) for each in samples])
