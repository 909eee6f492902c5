"""One run: networks, a peer, a switch in the midst of its messages, and what became of them."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lab import Lab, LabError

from handover_lab.messages import RECOVERED
from handover_lab.world import World

if TYPE_CHECKING:
    from threading import Lock

    from lab import Process

    from handover_lab.cases import Case
    from handover_lab.peers import Peer

START_TIMEOUT = 60.0
QUIET = 1.0
"""Seconds after a switch in which nothing else begins, unless the peer recovers sooner."""
SPARE = 30.0
"""Seconds for the client's end beside what it was told to wait."""


@dataclass(frozen=True)
class Run:
    """Instants are seconds from the end of the switch."""

    sent: list[float]
    echoed: list[tuple[int, float]]
    wrong: int

    @property
    def recovery(self) -> float | None:
        """From the end of the switch to the first echo of a message sent after it; seconds."""
        times = [at for sequence, at in self.echoed if self.sent[sequence] > 0]
        return min(times, default=None)

    @property
    def lost(self) -> int:
        """Messages, of those sent in the whole run, whose echo never came."""
        return len(self.sent) - len(self.echoed)


@dataclass
class Result:
    """All runs of a peer in a case, with messages of one kind."""

    case: str
    peer: str
    kind: str
    runs: list[Run] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Runs that came to no measurement."""

    @property
    def recoveries(self) -> list[float]:
        """Of the runs that recovered; seconds."""
        return [run.recovery for run in self.runs if run.recovery is not None]

    @property
    def median(self) -> float | None:
        """The upper one of an even number, and runs that never recovered count as the longest.

        None if that one never recovered, or nothing was measured."""
        if not self.runs:
            return None
        middle = statistics.median_high([*self.recoveries, *self._never])
        return None if middle == float("inf") else middle

    @property
    def worst(self) -> float | None:
        """None if a run never recovered, or nothing was measured."""
        return None if self._never else max(self.recoveries, default=None)

    @property
    def _never(self) -> list[float]:
        return [float("inf")] * (len(self.runs) - len(self.recoveries))

    @property
    def is_whole(self) -> bool:
        """Every message came back, and in order if it was a stream."""
        return not any(run.lost or run.wrong for run in self.runs)


def play(case: Case, kind: type[Peer], messages: str, timeout: float, quiet: Lock) -> Run:
    """LabError if the peer does not get so far as to exchange messages before the switch.

    ``quiet`` is held while programs start and while the recovery is awaited, so that of several
    runs side by side none disturbs another's by more than its messages."""
    with contextlib.ExitStack() as closing:
        with quiet:
            lab = Lab()
            closing.callback(_close, lab, quiet)
            world = World(lab)
            case.prepare(world)
            peer = kind()
            peer.start(world)
            word, report = world.directory / "word", world.directory / "report.json"
            words = [messages, str(word), str(report), str(timeout), str(case.tail)]
            client = peer.ask(world, *words)
            client.wait_for("asking", START_TIMEOUT)
        time.sleep(case.warm_up)
        with quiet:
            switched_at = case.switch(world)
            half_written = word.with_suffix(".new")
            half_written.write_text(repr(switched_at))
            half_written.rename(word)
            _await_recovery(client)
        client.check(timeout + case.tail + SPARE)
        facts = json.loads(report.read_text())
    return Run(
        sent=[at - switched_at for at in facts["sent"]],
        echoed=[(sequence, at - switched_at) for sequence, at in facts["echoed"]],
        wrong=facts["wrong"],
    )


def _close(lab: Lab, quiet: Lock) -> None:
    with quiet:
        lab.close()


def _await_recovery(client: Process) -> None:
    """Not for longer than ``QUIET``, as some never recover."""
    with contextlib.suppress(LabError):
        client.wait_for(RECOVERED, QUIET)
