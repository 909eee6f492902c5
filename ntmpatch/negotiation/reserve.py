"""A relay in reserve: asked for once, beside the data of a tunnel whose way is a direct one.

When the direct path dies, data goes on through it within a few round trips. Whoever is idle needs
none, and a coordinator that has none to spare is not asked again soon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntmpatch.signalling.effects import Noted
from ntmpatch.signalling.errors import Refused
from ntmpatch.wire.control_messages import RefusalCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.negotiation.node import NodeNegotiation
    from ntmpatch.negotiation.peers import Peer

ASKING_AFTER = 3.0
"""Seconds behind a handshake until a tunnel in use is worth it; twice that for the end which did
not ask for the tunnel: it asks if the other cannot."""
SETTLING_TIME = 1.5
"""Seconds behind a handshake in which what it takes to set a tunnel up is not counted as use."""
MIN_TRAFFIC = 512
"""Bytes between two looks, both directions, that are more than keep-alives."""
MAX_ASKING_INTERVAL = 60.0
"""Seconds; while there is a session and no traffic, looks are twice as far apart each time."""
REFUSED_INTERVAL = 600.0
"""Seconds until a relay is asked for again where none was to spare."""


class Reserves:
    """Decides when a relay in reserve is asked for: ``ask(public_key, avoid)``.

    ``traffic(public_key)``: bytes of the tunnel so far, both directions.
    """

    def __init__(
        self,
        party: NodeNegotiation,
        ask: Callable[[bytes, bytes], None],
        traffic: Callable[[bytes], int],
    ) -> None:
        self._party = party
        self._ask = ask
        self._traffic = traffic
        self._refused_until: dict[bytes, float] = {}
        self._none_until = float("-inf")
        """Our coordinator has none to spare, whoever the peer is."""

    def established(self, peer: Peer) -> None:
        """A handshake succeeded: look in a few seconds whether the tunnel is in use."""
        if self._is_wanted(peer):
            key = peer.public_key
            share = 1.0 if peer.asked else 2.0
            self._look_at(key, SETTLING_TIME, lambda: self._look(key, ASKING_AFTER * share))

    def failed(self, peer: Peer, relay: bytes) -> None:
        """The relay held in reserve does not answer: another one, if the tunnel is in use."""
        if self._is_wanted(peer) and self._party.is_in_use(peer.public_key):
            self._ask(peer.public_key, relay)

    def refused(self, public_key: bytes, error: Exception | None) -> None:
        """There is none; a coordinator of before reserves does not even say so (``error`` None)."""
        until = self._party.now + REFUSED_INTERVAL
        self._refused_until[public_key] = until
        if isinstance(error, Refused) and error.code is RefusalCode.BUSY:
            self._none_until = until
        self._party.emit(Noted("no-relay-in-reserve", {"error": error}, level="debug"))

    def forget(self, public_key: bytes) -> None:
        """The peer is gone."""
        self._refused_until.pop(public_key, None)
        self._party.call_off(f"reserve {public_key.hex()}")

    def _is_wanted(self, peer: Peer) -> bool:
        until = max(self._refused_until.get(peer.public_key, self._none_until), self._none_until)
        return self._party.reserves_relays and not peer.relay and self._party.now >= until

    def _look_at(self, public_key: bytes, delay: float, look: Callable[[], None]) -> None:
        self._party.call_at(f"reserve {public_key.hex()}", self._party.now + delay, look)

    def _look(self, public_key: bytes, interval: float) -> None:
        """Note what the tunnel has carried, and compare it with what it has later."""
        before = self._traffic(public_key)

        def compare() -> None:
            peer = self._party.peers.of_key(public_key)
            if peer is None or not self._is_wanted(peer):
                return
            if not peer.is_up or not self._party.is_in_use(public_key):
                return  # the next handshake begins this anew
            if self._traffic(public_key) - before >= MIN_TRAFFIC:
                self._ask(public_key, b"")
            else:
                self._look(public_key, min(2.0 * interval, MAX_ASKING_INTERVAL))

        self._look_at(public_key, interval - SETTLING_TIME, compare)
