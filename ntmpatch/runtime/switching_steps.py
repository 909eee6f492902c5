"""Fig. 5 (24), (25), (27), (29), (30): what a tunnel does once it has been directed again.

(3)-(23) are control messages and tell of themselves; (26) and (28) the relay tells
(runtime/servers.py). These happen between negotiation, the tunnel and the relay, so only the nodes
can tell of them. Where no relay is needed, Fig. 3 (17) and (18) are what happens.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ntmpatch.handover.bindings import RelayedEndpoint
from ntmpatch.signalling.figures import NETWORK_SWITCHING

if TYPE_CHECKING:
    from ntmpatch.packet.tunnel.tunnel import Established
    from ntmpatch.runtime.station import Station
    from ntmpatch.signalling.effects import Contact

_DIRECTIONS = frozenset({NETWORK_SWITCHING.direct_called, NETWORK_SWITCHING.direct_calling})


class SwitchingSteps:
    """Tells of these steps, once a direction; and sends the keep-alive that is (30)."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self._under_way: dict[bytes, Contact] = {}
        """Directions whose handshake is yet to come, by the peer's key."""

    def directed(self, contact: Contact) -> bool:
        """(24) and (25), of which the station has sent the first; whether it is Fig. 5 at all.

        (24) is the binding at the relay: it is what opens the mapping of the new NAT.
        """
        if contact.step not in _DIRECTIONS:
            self._under_way.pop(contact.public_key, None)
            return False
        known = self._under_way.get(contact.public_key)
        self._under_way[contact.public_key] = contact
        is_news = known is None or known.relay != contact.relay
        if contact.relay is not None and _is_ours(contact) and is_news:
            for relay in self._station.reachable(contact.relay.endpoints)[:1]:
                self._station.trace("5.24", f"RS {relay}", "relay binding")
        if contact.initiate:
            peer = self._station.tunnel.peers.get(contact.public_key)
            path = None if peer is None else peer.endpoint
            step = "5.25" if isinstance(path, RelayedEndpoint) else "3.17"
            self._station.trace(step, _place(path, contact), "tunnel request")
        return True

    def shaken_hands(self, event: Established, now: float) -> bool:
        """(27), if the request was the peer's; (29) and (30), if we had asked for the direction.

        Whether the handshake was awaited because of Fig. 5.
        """
        peer = event.peer
        contact = self._under_way.pop(peer.public_key, None)
        if contact is None:
            return False
        path = peer.newest_from
        is_relayed = isinstance(path, RelayedEndpoint)
        if not event.initiator:
            # Confirmed only now, by the peer's first packet; it was sent when the request came.
            step = "5.27" if is_relayed else "3.18"
            at = peer.last_initiation_at
            self._station.trace(step, _place(path, contact), "tunnel response", at=at)
        if _is_ours(contact):
            self._station.trace("5.29", message="ready", at=now)
            if is_relayed:
                peer.keepalive(time.monotonic())
                self._station.trace("5.30", _place(path, contact), "keep-alive")
        return True

    def forget(self, public_key: bytes) -> None:
        """The peer is gone."""
        self._under_way.pop(public_key, None)


def _is_ours(contact: Contact) -> bool:
    """Whether this node is the figure's MN: it has asked for the direction."""
    return contact.step == NETWORK_SWITCHING.direct_calling


def _place(path: object, contact: Contact) -> str:
    """The first station of a tunnel message on its way to the peer."""
    return f"RS {path.relay}" if isinstance(path, RelayedEndpoint) else f"node {contact.name}"
