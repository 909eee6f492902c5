"""What is watched of a soak: memory, descriptors, what nodes say, what the traffic says."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lab import LabError
from lab_domain import resident_size

if TYPE_CHECKING:
    from lab import Process
    from lab_domain import DomainNode

MIB = 1 << 20
GROWTH_SHARE = 0.05
GROWTH_SIZE = 2 * MIB
"""Memory is flat if the median of the last third is at most that of the first, behind the warm-up,
and a twentieth of it, or 2 MiB where that is more: an arena of the allocator is no leak."""
WARM_UP_SHARE = 0.1
KINDS_OF_PAUSE = ("stream_pause", "datagram_pause")
LEAST_SAMPLES = 90
"""Below, memory is shown and not judged: caches and buffers are still growing."""


@dataclass
class Memory:
    """Resident sizes of a process over time, in bytes."""

    samples: list[int] = field(default_factory=list)

    def sample(self, process: Process) -> None:
        """Now; a process that is being restarted has none."""
        try:
            self.samples.append(resident_size(process.pid))
        except (OSError, LabError, StopIteration):
            return

    @property
    def last(self) -> int:
        """The newest; 0 without any."""
        return self.samples[-1] if self.samples else 0

    @property
    def thirds(self) -> tuple[float, float]:
        """Medians of the first and of the last third behind the warm-up."""
        counted = self.samples[int(len(self.samples) * WARM_UP_SHARE) :]
        third = max(1, len(counted) // 3)
        return statistics.median(counted[:third]), statistics.median(counted[-third:])

    @property
    def is_flat(self) -> bool | None:
        """None: too short to say."""
        if len(self.samples) < LEAST_SAMPLES:
            return None
        first, last = self.thirds
        return last <= first + max(GROWTH_SIZE, GROWTH_SHARE * first)


def open_descriptors(process: Process) -> int:
    """How many; 0 if it has ended."""
    try:
        return len(os.listdir(f"/proc/{process.pid}/fd"))
    except (OSError, LabError):
        return 0


def tables_of(node: DomainNode) -> dict[str, int]:
    """Sizes of a node's tables, by `ntmpatch status --json`."""
    try:
        facts = node.status()
    except LabError:
        return {}
    return {
        "sockets": int(facts["sockets"]),
        "connections": len(facts["connections"]),
        "peers": len(facts["peers"]),
        "paths": sum(len(peer["paths"]) for peer in facts["peers"]),
        "relayed": sum(
            path["relayed"] for peer in facts["peers"] for path in peer["paths"] if path["in_use"]
        ),
    }


class Reports:
    """The JSON lines of a receiver, from where they were read last."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._read = 0
        self.latest: dict[str, Any] = {}
        self.longest = dict.fromkeys(KINDS_OF_PAUSE, 0.0)

    def news(self) -> dict[str, float]:
        """The longest pauses since the last call, in seconds; ``latest`` is up to date."""
        whole, _, _ = self.process.stdout.rpartition("\n")
        lines = whole.split("\n")
        pauses = dict.fromkeys(self.longest, 0.0)
        for line in filter(None, lines[self._read :]):
            self.latest = json.loads(line)
            for kind in pauses:
                pauses[kind] = max(pauses[kind], self.latest[kind])
        self._read = len(lines)
        for kind, pause in pauses.items():
            self.longest[kind] = max(self.longest[kind], pause)
        return pauses


class Pauses:
    """The longest pause of a minute, and of what followed each kind of move."""

    def __init__(self, takers: dict[str, Reports]) -> None:
        self._takers = takers
        self._of_minute = {name: dict.fromkeys(KINDS_OF_PAUSE, 0.0) for name in takers}
        self._since = 0.0
        self._cause: tuple[str, ...] = ()
        self.by_cause: dict[str, list[float]] = {}

    def look(self) -> None:
        """Read what the receivers say, at least each few seconds."""
        for name, reports in self._takers.items():
            for kind, pause in reports.news().items():
                minute = self._of_minute[name]
                minute[kind] = max(minute[kind], pause)
                self._since = max(self._since, pause)

    def caused_by(self, causes: tuple[str, ...]) -> None:
        """Something happened now; what was seen until now belongs to what happened before."""
        self.look()
        for cause in self._cause:
            self.by_cause.setdefault(cause, []).append(self._since)
        self._cause, self._since = causes, 0.0

    def of_minute(self) -> dict[str, dict[str, float]]:
        """By receiver and kind, in seconds; begun anew."""
        self.look()
        minute = self._of_minute
        self._of_minute = {name: dict.fromkeys(KINDS_OF_PAUSE, 0.0) for name in self._takers}
        return minute
