"""Which pairs of nodes meet at which relay server, so that they can be directed to another one.

Kept in memory by the coordinator that asked for the session. After a restart it knows none: the
nodes then ask by themselves once the relay is silent.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ntmpatch.base.errors import NtmpatchError
from ntmpatch.servers.direction.locations import ANNOUNCEMENT_INTERVAL
from ntmpatch.signalling.effects import Failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.servers.direction.server import DirectionServer
    from ntmpatch.signalling.process import Process

MAX_PAIRS = 65536
"""Relayed pairs that are remembered; beyond, the one directed longest ago is forgotten."""
MAX_MOVES_AT_ONCE = 16
"""Pairs that are directed at the same time when a relay server goes."""

MAX_FAILURES = 3
"""Moves of a pair that fail before it is left to its nodes, which ask when they need it."""


@dataclass(slots=True, frozen=True)
class RelayedPair:
    """Two nodes and the relay server between them."""

    calling: bytes
    called: bytes
    called_fqdn: str
    relay: bytes
    expires_at: float
    reserve: bool = False
    """They do not need it now."""
    failures: int = 0

    @property
    def ends(self) -> frozenset[bytes]:
        """The keys of both."""
        return frozenset((self.calling, self.called))


class RelayedPairs:
    """The pairs that this coordinator had relayed, and their move when a relay server goes.

    ``direct(pair)`` directs a pair again, away from its relay.
    """

    def __init__(
        self, party: DirectionServer, direct: Callable[[RelayedPair], Process[None]]
    ) -> None:
        self._party = party
        self._direct = direct
        self._pairs: OrderedDict[frozenset[bytes], RelayedPair] = OrderedDict()
        self._moving: deque[RelayedPair] = deque()
        self._movers = 0
        self._watches = False

    def __len__(self) -> int:
        return len(self._pairs)

    def put(self, pair: RelayedPair) -> None:
        """A pair was directed through a relay server."""
        self._pairs.pop(pair.ends, None)
        self._pairs[pair.ends] = pair
        if len(self._pairs) > MAX_PAIRS:
            self._pairs.popitem(last=False)
        self._watch_later()

    def remove(self, ends: frozenset[bytes]) -> None:
        """A pair meets at no relay server any more."""
        self._pairs.pop(ends, None)

    def leave(self, relay: bytes) -> None:
        """Direct all pairs of this relay server to another one, some at a time."""
        party = self._party
        others = party.locations.servers("rs", party.now)
        if all(server.public_key == relay for server in others):
            return  # a relay that ends carries them longer than none
        pairs = [pair for pair in self._pairs.values() if pair.relay == relay]
        queued = {pair.ends for pair in self._moving}
        self._moving.extend(pair for pair in pairs if pair.ends not in queued)
        if pairs:
            party.note("leaving-relay", relay=party.peer_name(relay), pairs=len(pairs))
        while self._moving and self._movers < MAX_MOVES_AT_ONCE:
            self._movers += 1
            party.start(self._move())

    def _move(self) -> Process[None]:
        """Direct one pair after the other, while there are any."""
        party = self._party
        try:
            while self._moving:
                pair = self._moving.popleft()
                if self._pairs.get(pair.ends) is not pair:
                    continue  # it has been directed meanwhile
                try:
                    yield from self._direct(pair)
                except (NtmpatchError, ValueError) as failure:
                    party.emit(Failed(failure, f"another relay to {pair.called_fqdn}"))
                    self._failed(pair)
        finally:
            self._movers -= 1

    def _failed(self, pair: RelayedPair) -> None:
        """Try again when its relay is looked at next; a few times, for the nodes may be gone."""
        if self._pairs.get(pair.ends) is not pair:
            return
        if pair.failures + 1 < MAX_FAILURES:
            self._pairs[pair.ends] = replace(pair, failures=pair.failures + 1)
        else:
            del self._pairs[pair.ends]

    # --- relay servers that die without a word ---------------------------------------------

    def _watch_later(self) -> None:
        if not self._watches:
            self._watches = True
            due_at = self._party.now + ANNOUNCEMENT_INTERVAL
            self._party.call_at("relayed pairs", due_at, self._watch)

    def _watch(self) -> None:
        """Forget pairs whose session has ended; leave relays that announce themselves no more."""
        party = self._party
        self._watches = False
        for ends, pair in list(self._pairs.items()):
            if pair.expires_at <= party.now:
                del self._pairs[ends]
        for relay in {pair.relay for pair in self._pairs.values()}:
            server = party.locations.server(relay, party.now)
            if server is None or server.draining:
                self.leave(relay)
        if self._pairs:
            self._watch_later()
