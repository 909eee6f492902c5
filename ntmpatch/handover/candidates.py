"""Candidates told in the tunnel: where each end may be reached besides (RFC 8445, section 5).

The coordinators tell two nodes where they were when the tunnel was directed. What a node learns
later, of its other interfaces, its NAT, or after a move, it tells its peers itself, by whatever
path works. An answer comes back, so that both ends begin to challenge at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from ntmpatch.base.drops import Drop
from ntmpatch.handover.ways import Alarm
from ntmpatch.wire.paths import (
    CANDIDATES,
    IDENTIFIER_SIZE,
    MAX_CANDIDATES,
    Candidate,
    CandidateKind,
    PathMessage,
    encode_path_message,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ntmpatch.base.drops import DropCounter
    from ntmpatch.base.timers import TimerQueue
    from ntmpatch.handover.ways import PeerPaths, Way

P = TypeVar("P")

RETRY_INTERVALS = (0.2, 0.4, 0.8, 1.6, 3.2)
"""Seconds between repetitions of a list that is not answered."""
MIN_INTERVAL = 0.25
"""Seconds between lists of one peer that are heeded: each makes us send to where it says."""


@dataclass(slots=True, eq=False)
class Exchange:
    """What was told to a peer, and what it told."""

    told: tuple[Candidate, ...] | None = None
    identifier: bytes = b""
    is_answered: bool = False
    attempt: int = 0
    theirs: tuple[Candidate, ...] = ()
    heard: bytes = b""
    """Identifier of their last list."""
    heard_at: float = float("-inf")


class Candidates(Generic[P]):
    """Tells all peers of `own`, and keeps what they tell."""

    def __init__(
        self,
        timers: TimerQueue[tuple[PeerPaths[P], Alarm, Way[P] | None]],
        entropy: Callable[[int], bytes],
        drops: DropCounter,
    ) -> None:
        self.own: tuple[Candidate, ...] = ()
        self._timers = timers
        self._entropy = entropy
        self._drops = drops

    def use(self, own: Sequence[Candidate]) -> None:
        """Where this node may be reached; the rest is `offer`."""
        self.own = tuple(dict.fromkeys(own))[:MAX_CANDIDATES]

    def offer(self, known: PeerPaths[P], now: float, *, afresh: bool = False) -> None:
        """Tell a peer, unless it knows; ``afresh``: it has to look once more in any case."""
        exchange = known.exchange
        if exchange is None:
            exchange = known.exchange = Exchange()
        if exchange.told == self.own and not afresh:
            return
        if known.peer.current is None or not (self.own or exchange.told):
            return
        exchange.told = self.own
        exchange.identifier = self._entropy(IDENTIFIER_SIZE)
        exchange.is_answered = False
        exchange.attempt = 0
        self._tell(known, exchange, now)

    def tell_again(self, known: PeerPaths[P], now: float) -> None:
        """The time for an answer is over."""
        exchange = known.exchange
        if exchange is None or exchange.is_answered or exchange.told is None:
            return
        exchange.attempt += 1
        if exchange.attempt < len(RETRY_INTERVALS):
            self._tell(known, exchange, now)
        else:
            exchange.told = None  # the next handshake, or move, is another chance

    def answered(self, known: PeerPaths[P], identifier: bytes) -> bool:
        """Whether an answer is one to our list; the first one only."""
        exchange = known.exchange
        if exchange is None or exchange.is_answered or exchange.identifier != identifier:
            return False
        exchange.is_answered = True
        self._timers.cancel((known, Alarm.CANDIDATES, None))
        return True

    def heard(self, known: PeerPaths[P], message: PathMessage, now: float) -> bool | None:
        """A list came: whether it is news. None: too soon after another; it will be repeated."""
        exchange = known.exchange
        if exchange is None:
            exchange = known.exchange = Exchange()
        if exchange.heard == message.identifier:
            return False
        if now - exchange.heard_at < MIN_INTERVAL:
            self._drops.drop(Drop.PATH_TOO_SOON)
            return None
        exchange.heard = message.identifier
        exchange.heard_at = now
        exchange.theirs = message.candidates
        return True

    def _tell(self, known: PeerPaths[P], exchange: Exchange, now: float) -> None:
        endpoint = known.peer.endpoint
        if endpoint is not None:
            message = PathMessage(CANDIDATES, 0, exchange.identifier, self.own)
            known.peer.send_by(endpoint, encode_path_message(message), now)
        interval = RETRY_INTERVALS[exchange.attempt]
        self._timers.arm((known, Alarm.CANDIDATES, None), now + interval)


def reachable(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that can be sent to as they are."""
    return [each for each in candidates if each.kind is not CandidateKind.SYMMETRIC]
