"""At which of its addresses a server is called: a move may leave one family and bring the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ntmpatch.base.addresses import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ntmpatch.packet.tunnel.peer import Peer
    from ntmpatch.runtime.carrier import Path
    from ntmpatch.signalling.effects import Contact

ANSWER_TIMEOUT = 1.0
"""Seconds in which a server that is there has said something; parties call again after more."""


class _Call(NamedTuple):
    at: float
    rx_bytes: int
    """What had been heard of the server by then."""


class ServerEnds:
    """Sets the endpoints of servers' channels, which follow authenticated data besides.

    ``reachable(endpoints)``: those that this machine has a way to, or else all of
    families that there is a port for; ``has_way(end)``: whether it has one to this.
    """

    def __init__(
        self,
        reachable: Callable[[Sequence[Endpoint]], list[Endpoint]],
        has_way: Callable[[Endpoint], bool],
    ) -> None:
        self._reachable = reachable
        self._has_way = has_way
        self._calls: dict[bytes, _Call] = {}

    def called(self, peer: Peer[Path], contact: Contact, now: float) -> None:
        """The server is called again; if nothing was heard since the last time, elsewhere."""
        key = contact.public_key
        before = self._calls.get(key)
        if not contact.initiate or (before is not None and now < before.at + ANSWER_TIMEOUT):
            return
        self._calls[key] = _Call(now, peer.rx_bytes)
        known = self._reachable(contact.endpoints)
        if before is None or before.rx_bytes != peer.rx_bytes or not known:
            return
        index = known.index(peer.endpoint) if peer.endpoint in known else -1
        following = known[(index + 1) % len(known)]
        if following != peer.endpoint:
            peer.endpoint = following
            peer.abandon_handshake()  # or its next request is seconds away

    def moved(self, peer: Peer[Path], contact: Contact) -> None:
        """This machine's networks are others: is there a way yet to where the server is?"""
        end = peer.endpoint
        if not isinstance(end, Endpoint):
            return
        known = self._reachable(contact.endpoints)
        if known and end not in known and not self._has_way(end):
            peer.endpoint = known[0]
            if peer.current is None:
                peer.abandon_handshake()

    def silent(self, peer: Peer[Path], contact: Contact) -> bool:
        """The server is not heard: call it in the other family. Whether there is a way."""
        end = peer.endpoint
        if not isinstance(end, Endpoint):
            return False
        others = [each for each in contact.endpoints if each.is_ipv6 != end.is_ipv6]
        usable = [each for each in self._reachable(others) if self._has_way(each)]
        if usable:
            peer.endpoint = usable[0]
            peer.abandon_handshake()
        return bool(usable)

    def forget(self, public_key: bytes) -> None:
        """The server is none of ours any more."""
        self._calls.pop(public_key, None)
