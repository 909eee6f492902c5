"""What is known of the paths to one peer: how each does, and which of two is the better one."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeAlias, TypeVar

from ntmpatch.handover import pace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.handover.candidates import Exchange
    from ntmpatch.handover.guessing import Guess
    from ntmpatch.packet.tunnel.peer import Peer

P = TypeVar("P")

DEFAULT_RTT = 0.1
"""Seconds, of a path that was never measured."""
MIN_RTT = 0.02
MAX_RTT = 0.5
"""Bounds of what probes are timed by: a smaller one would only burden the machine."""
UNREACHABLE_AFTER = 0.8
"""Seconds of vain probes of all paths until Unreachable is told, the first time."""
DWELL_TIME = 5.0
"""Seconds between two changes for the sake of a shorter round trip, or of what a path costs."""
BETTER_SHARE = 0.75
BETTER_BY = 0.005
"""Hysteresis: a path of the same kind has to be that much faster than the one in use."""
FORGIVEN_AFTER = 60.0
"""Seconds without another failure after which a path counts as one that never failed."""
FIRST_DISTRUST = 10.0
MAX_DISTRUST = 60.0
"""Hysteresis: seconds in which a path that has failed again, soon after it had come back, is not
returned to while another works; doubled each time. After its first failure it is, at once."""
CROSSING_RTTS = 1.25
"""Round trips after a change in which what the peer sent before it knew may still come."""
MAX_REMOTES = 12
"""Endpoints of one peer that are kept in mind."""
COST_METERED = 2
"""Of a path over a network that is paid by the byte: everything else is better."""


class PortedEndpoint(NamedTuple):
    """A peer as it is reached from another port of ours than the one that is everybody's."""

    port: int
    """Number of the port, as whoever opened it gave it."""
    remote: Endpoint
    name: str
    """What the port is for."""

    def __str__(self) -> str:
        return f"{self.remote} by {self.name}"


class PathChanged(NamedTuple):
    """Data goes another way. ``abrupt``: what was under way on the old one is taken for lost."""

    public_key: bytes
    abrupt: bool


class Unreachable(NamedTuple):
    """No path to the peer answers, and something is to be sent to it."""

    public_key: bytes


class Suspected(NamedTuple):
    """The path in use does not answer, or we have moved: all are challenged."""

    public_key: bytes


class PathLost(NamedTuple, Generic[P]):
    """A path that had worked, and was not in use or is left, does not answer any more."""

    public_key: bytes
    path: P


PathEvent: TypeAlias = PathChanged | PathLost[P] | Suspected | Unreachable


class Alarm(enum.Enum):
    """What is waited for, of a peer or of one of its paths."""

    PROBE = 1
    WATCH = 2
    SETTLE = 3
    TRIAL = 4
    HELP = 5
    LOOK_AROUND = 6
    CANDIDATES = 7
    GUESS = 8


class Ends(NamedTuple, Generic[P]):
    """What paths are to whom they are opaque; ``P`` is compared, and nothing else."""

    is_relayed: Callable[[P], bool]
    paths_to: Callable[[Endpoint], Sequence[P]]
    """Every way to an endpoint, by each end that we have; the one that is preferred is first."""
    remote: Callable[[P], Endpoint | None]
    """Where a direct path leads to; None for one through a relay."""
    cost: Callable[[P], int]
    """0: the preferred network, 1: another one, 2: one that is metered."""


@dataclass(slots=True, eq=False)
class Way(Generic[P]):
    """A path of one peer, as far as it is known."""

    path: P
    relayed: bool
    cost: int = 0
    proven: bool = False
    leaving: bool = False
    """It works, and will not for long: any other that is proven is better."""
    rtt: float | None = None
    answered_at: float = float("-inf")
    pending: dict[bytes, float] = field(default_factory=dict)
    """Challenges on their way, and when they were sent."""
    intervals: Sequence[float] = ()
    attempt: int = 0
    ban: float = 0.0
    banned_until: float = float("-inf")
    failures: int = 0
    failed_at: float = float("-inf")

    def failed(self, now: float) -> None:
        """It is left for its silence."""
        self.failures = self.failures + 1 if now - self.failed_at < FORGIVEN_AFTER else 1
        self.failed_at = now

    def is_trusted(self, now: float) -> bool:
        """Whether to return to it for no other reason than that it is the better kind."""
        if self.failures < 2:
            return True
        distrust = min(FIRST_DISTRUST * 2.0 ** min(self.failures - 2, 8), MAX_DISTRUST)
        return now - self.failed_at >= distrust

    def timing(self) -> float:
        """The round trip to count with."""
        return min(max(self.rtt or DEFAULT_RTT, MIN_RTT), MAX_RTT)

    def rank(self) -> tuple[bool, bool, bool, int]:
        """What decides before the round trip does; less is better."""
        return self.leaving, self.cost >= COST_METERED, self.relayed, self.cost

    def order(self) -> tuple[bool, tuple[bool, bool, bool, int], float]:
        """Of several ways the least is to be taken."""
        return not self.proven, self.rank(), self.timing()


@dataclass(slots=True, eq=False)
class PeerPaths(Generic[P]):
    """A peer and its paths."""

    peer: Peer[P]
    controlling: bool
    """Of two ends that both could choose among like paths, whether this one does."""
    ways: dict[P, Way[P]] = field(default_factory=dict)
    remotes: dict[Endpoint, int] = field(default_factory=dict)
    """Where the peer may be, and what it costs there; oldest first."""
    suspected: bool = False
    suspected_at: float = float("-inf")
    """Since then only what answers counts: other paths may have died with the one in use."""
    is_untold: bool = False
    """Data goes another way than was told, which is yet to be proven."""
    false_alarms: int = 0
    unrest: int = 0
    """How often the path in use was left for its silence, not long ago."""
    left_at: float = float("-inf")
    trial_before: P | None = None
    """Where the peer was before it was followed to where it is yet to be proven."""
    on_trial: bool = False
    changed_at: float = float("-inf")
    help_interval: float = UNREACHABLE_AFTER
    heard_bytes: int = 0
    """As of the last look around."""
    exchange: Exchange | None = None
    guess: Guess[P] | None = None

    @property
    def current(self) -> Way[P] | None:
        """The path in use."""
        return None if self.peer.endpoint is None else self.ways.get(self.peer.endpoint)

    def has_direct(self) -> bool:
        """Whether a direct path is known to work."""
        return any(way.proven and not way.relayed for way in self.ways.values())

    def patience(self) -> float:
        """Seconds that data may go unanswered until the path in use is suspected."""
        rtt = DEFAULT_RTT if self.current is None else self.current.timing()
        waits = pace.SUSPECT_RTTS * rtt * 2.0 ** min(self.false_alarms, 6)
        return min(waits, pace.MAX_PATIENCE)

    def settles_at(self, now: float) -> float:
        """Until when the path in use may answer its challenge, where another one has."""
        current = self.current
        if current is None:
            return now
        grace = max(pace.GRACE_RTTS * current.timing(), pace.MIN_GRACE)
        if now - self.left_at < FORGIVEN_AFTER:  # its answers may be lost again, and not itself
            grace = min(grace * 2.0 ** min(self.unrest, 8), grace + pace.MAX_FURTHER_GRACE)
        return min(current.pending.values(), default=now) + grace

    def was_silent(self, now: float) -> bool:
        """Whether the path in use, which has answered, did not for longer than it may take to."""
        current = self.current
        if current is None or not self.suspected:
            return False
        return now - self.suspected_at > pace.GRACE_RTTS * current.timing()

    def other(self, since: float = float("-inf")) -> Way[P] | None:
        """The best way beside the one in use, of those that have answered since then."""
        current = self.current
        return min(
            (
                way
                for way in self.ways.values()
                if way.proven and way is not current and way.answered_at >= since
            ),
            key=Way.order,
            default=None,
        )

    def substitute(self, before: Way[P] | None) -> Way[P]:
        """What to use in place of a way that is gone: what works; if nothing is known to, its like.

        Who was reached directly probably is in the other family, too; who was not may not be.
        """
        was_relayed = before is not None and before.relayed
        return min(
            self.ways.values(),
            key=lambda way: (not way.proven, way.relayed != was_relayed, way.order()),
        )

    def is_better(self, way: Way[P], current: Way[P], now: float) -> bool:
        """Whether to leave a path that works for ``way``, which does as well."""
        rank, rank_now = way.rank(), current.rank()
        has_dwelt = now - self.changed_at >= DWELL_TIME
        if rank != rank_now:
            # From a relay to a direct way at once; what costs less may wait until it has lasted.
            is_due = has_dwelt or rank[:3] < rank_now[:3]
            return rank < rank_now and is_due and way.is_trusted(now)
        if not self.controlling or not has_dwelt or way.rtt is None or current.rtt is None:
            return False
        return way.rtt < BETTER_SHARE * current.rtt - BETTER_BY

    def leave(self, way: Way[P], now: float) -> None:
        """Data leaves a path for its silence."""
        way.failed(now)
        self.unrest = self.unrest + 1 if now - self.left_at < FORGIVEN_AFTER else 1
        self.left_at = now

    def forgive(self) -> None:
        """We are elsewhere: what was learned of losses counts no more."""
        self.false_alarms = self.unrest = 0
        for way in self.ways.values():
            way.failures = 0

    def is_lost(self) -> bool:
        """Whether nothing is known to work: any way by which the peer is heard is a good one."""
        current = self.current
        is_vain = current is not None and not current.proven
        return self.suspected and is_vain and not self.on_trial

    def is_under_way(self, now: float) -> bool:
        """Whether data may still come that the peer sent before it knew of our change of path."""
        current = self.current
        if current is None or not current.proven or self.suspected:
            return False
        return now - self.changed_at <= CROSSING_RTTS * current.timing()

    def has_crossed(self, way: Way[P], now: float) -> bool:
        """Whether the peer told us to use ``way`` before it knew that we use a better one.

        Both ends have changed at once then; if each followed the other, they would do so for ever.
        """
        current = self.current
        if current is None or not self.is_under_way(now):
            return False
        rank, rank_now = way.rank(), current.rank()
        return rank > rank_now or (rank == rank_now and self.controlling)

    def remember(self, endpoint: Endpoint, cost: int) -> None:
        """The peer may be there; what was said longest ago is forgotten when there are too many."""
        self.remotes.pop(endpoint, None)
        self.remotes[endpoint] = cost
        if len(self.remotes) > MAX_REMOTES:
            del self.remotes[next(iter(self.remotes))]

    def describe(self) -> list[dict[str, object]]:
        """The paths, for status output: times in milliseconds."""
        return [
            {
                "path": str(way.path),
                "relayed": way.relayed,
                "cost": way.cost,
                "proven": way.proven,
                "in_use": way is self.current,
                "round_trip_ms": None if way.rtt is None else round(1000 * way.rtt, 3),
            }
            for way in self.ways.values()
        ]
