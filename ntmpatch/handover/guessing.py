"""A port for every destination at one end, one port for all at the other: the ports are guessed.

The end whose NAT is symmetric cannot say which port the other is to send to. It opens many, all to
the other's one endpoint, and so has as many mappings; the other tries random ports, each of which
also opens its own NAT for what may come from there. With 256 of 64,512 ports, 2,400 guesses fail
once in 14,000 times (the birthday problem turned around: one end's draws against another's).
Whatever arrives at all is answered, and becomes a path like any other.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from ntmpatch.base.addresses import Endpoint
from ntmpatch.handover.ways import Alarm
from ntmpatch.wire.paths import (
    CHALLENGE,
    IDENTIFIER_SIZE,
    Candidate,
    CandidateKind,
    PathMessage,
    encode_path_message,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ntmpatch.base.timers import TimerQueue
    from ntmpatch.handover.ways import PeerPaths, Way

P = TypeVar("P")

BEGIN_AFTER = 1.5
"""Seconds from the exchange of candidates: those of them that work have answered by then."""
PORTS = 256
GUESSES = 2400
PORT_RANGE = (1024, 65536)
TICK = 0.1
"""Seconds between bursts."""
GUESSES_A_TICK = 20
"""200 a second, some 120 kbit/s: what a router's table and a slow uplink bear."""
PORTS_A_TICK = 32
REFRESH_INTERVAL = 10.0
"""Seconds after which a port's mapping is refreshed: many NATs hold those of UDP for 30."""
PAUSES = (30.0, 300.0, 1800.0)
"""Seconds after an attempt in vain until the next; each last one longer than the one before."""


@dataclass(slots=True, eq=False)
class Guess(Generic[P]):
    """An attempt with one peer."""

    target: Endpoint
    """What to send to; of the peer with the symmetric NAT only the address counts."""
    is_symmetric: bool
    """Whether it is our NAT that has a port for every destination."""
    ports: list[int] = field(default_factory=list)
    """Those that are yet to be guessed."""
    paths: list[P] = field(default_factory=list)
    """By the ports that were opened."""
    ticks: int = 0
    ends_at: float = 0.0
    is_over: bool = False
    failures: int = 0


class PortGuessing(Generic[P]):
    """Guesses ports for peers to which nothing but a relay leads.

    ``open_ports(endpoint, count)`` gives paths from as many fresh ports; ``close_ports(paths)``
    is told which are not wanted any more.
    """

    def __init__(
        self,
        timers: TimerQueue[tuple[PeerPaths[P], Alarm, Way[P] | None]],
        entropy: Callable[[int], bytes],
        paths_to: Callable[[Endpoint], Sequence[P]],
        open_ports: Callable[[Endpoint, int], list[P]],
        close_ports: Callable[[Collection[P]], None],
    ) -> None:
        self._timers = timers
        self._entropy = entropy
        self._paths_to = paths_to
        self._open_ports = open_ports
        self._close_ports = close_ports

    def consider(self, known: PeerPaths[P], own: Sequence[Candidate], now: float) -> None:
        """Candidates were exchanged: guess soon, if that is what is left."""
        if known.guess is not None and not known.guess.is_over:
            return
        if _roles(own, known) is not None:
            self._timers.arm((known, Alarm.GUESS, None), now + BEGIN_AFTER)

    def go_on(self, known: PeerPaths[P], own: Sequence[Candidate], now: float) -> None:
        """The next burst, the beginning or the end of an attempt."""
        guess = known.guess
        roles = _roles(own, known)
        if known.has_direct() or roles is None or known.peer.current is None:
            self.stop(known)
            return
        if guess is None or guess.is_over or guess.target != roles[0]:
            self.stop(known)
            failures = guess.failures if guess is not None and guess.target == roles[0] else 0
            guess = known.guess = self._begin(*roles, failures, now)
        if now >= guess.ends_at:
            pause = PAUSES[min(guess.failures, len(PAUSES) - 1)]
            guess.failures += 1
            self.stop(known)
            self._timers.arm((known, Alarm.GUESS, None), now + pause)
            return
        self._burst(known, guess, now)
        self._timers.arm((known, Alarm.GUESS, None), now + TICK)

    def stop(self, known: PeerPaths[P]) -> None:
        """End the attempt; ports that became paths which work stay."""
        guess = known.guess
        self._timers.cancel((known, Alarm.GUESS, None))
        if guess is not None and not guess.is_over:
            guess.is_over = True
            for path in guess.paths:
                way = known.ways.get(path)
                is_needed = way is known.current or path == known.trial_before
                if way is not None and not way.proven and not is_needed:
                    self._timers.cancel((known, Alarm.PROBE, way))
                    del known.ways[path]
            self._close_ports([path for path in guess.paths if path not in known.ways])
            guess.paths, guess.ports = [], []

    def _begin(self, target: Endpoint, is_symmetric: bool, failures: int, now: float) -> Guess[P]:
        seconds = GUESSES / GUESSES_A_TICK * TICK
        guess: Guess[P] = Guess(target, is_symmetric, failures=failures)
        if is_symmetric:
            guess.paths = self._open_ports(target, PORTS)
        else:
            guess.ports = random.Random(self._entropy(16)).sample(range(*PORT_RANGE), GUESSES)
        guess.ends_at = now + seconds + 2.0  # the two ends do not begin in the same instant
        return guess

    def _burst(self, known: PeerPaths[P], guess: Guess[P], now: float) -> None:
        """One identifier serves all: an answer proves nothing, as any path is challenged then."""
        challenge = encode_path_message(PathMessage(CHALLENGE, 0, self._entropy(IDENTIFIER_SIZE)))
        if guess.is_symmetric:
            tick = guess.ticks % round(REFRESH_INTERVAL / TICK)
            guess.ticks += 1
            batch = guess.paths[tick * PORTS_A_TICK : (tick + 1) * PORTS_A_TICK]
        else:
            batch = []
            for _ in range(min(GUESSES_A_TICK, len(guess.ports))):
                end = Endpoint(guess.target.host, guess.ports.pop())
                batch += self._paths_to(end)[:1]
        for path in batch:
            known.peer.send_by(path, challenge, now)


def _roles(own: Sequence[Candidate], known: PeerPaths[P]) -> tuple[Endpoint, bool] | None:
    """Whom to send to, and whether ours is the symmetric NAT; None: guessing would not help.

    Where both are, neither can say what the other has to aim at.
    """
    theirs = known.exchange.theirs if known.exchange is not None else ()
    for is_ipv6 in (False, True):
        ours_symmetric = _first(own, CandidateKind.SYMMETRIC, is_ipv6=is_ipv6)
        theirs_symmetric = _first(theirs, CandidateKind.SYMMETRIC, is_ipv6=is_ipv6)
        if ours_symmetric is not None and theirs_symmetric is None:
            target = _first(theirs, CandidateKind.MAPPED, is_ipv6=is_ipv6)
            if target is not None:
                return target, True
        ours_fixed = _first(own, CandidateKind.MAPPED, is_ipv6=is_ipv6)
        if theirs_symmetric is not None and ours_symmetric is None and ours_fixed is not None:
            return theirs_symmetric, False
    return None


def _first(
    candidates: Sequence[Candidate], kind: CandidateKind, *, is_ipv6: bool
) -> Endpoint | None:
    return next(
        (c.endpoint for c in candidates if c.kind is kind and c.endpoint.is_ipv6 == is_ipv6), None
    )
