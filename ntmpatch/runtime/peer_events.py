"""A node's events, from what its tunnels, paths and negotiation do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntmpatch.handover.bindings import RelayedEndpoint
from ntmpatch.wire import local

if TYPE_CHECKING:
    from ntmpatch.handover.networks import Change, Picture
    from ntmpatch.packet.tunnel.peer import Peer
    from ntmpatch.packet.tunnel.tunnel import Tunnel
    from ntmpatch.runtime.carrier import Path
    from ntmpatch.runtime.event_feed import EventFeed
    from ntmpatch.signalling.effects import Assigned

NO_PATH_ANSWERS = "no path answers"
NO_HANDSHAKE = "no handshake is answered"
HEARD_AGAIN = "heard again"


class PeerEvents:
    """Tells ``feed`` of peers by their names; what has none (a server) is nobody's business."""

    def __init__(self, feed: EventFeed, tunnel: Tunnel[Path], names: dict[bytes, str]) -> None:
        self._feed = feed
        self._tunnel = tunnel
        self._names = names
        self._paths: dict[bytes, str] = {}
        """Of each peer, the path that was told last."""
        self._unreachable: set[bytes] = set()

    def tunnel_ready(self, public_key: bytes, *, again: bool) -> None:
        """A tunnel that was directed has shaken hands: Fig. 3 (19), Fig. 5 (29)."""
        peer, name = self._tunnel.peers.get(public_key), self._names.get(public_key)
        if peer is None or name is None or (public_key in self._paths and not again):
            return  # a server, or a session's successor
        old, self._paths[public_key] = self._paths.get(public_key, ""), path_text(peer.endpoint)
        reason = "directed again" if again else "tunnel created"
        self._tell(local.TUNNEL_READY, peer, name, old=old, reason=reason)

    def path_changed(self, public_key: bytes, *, abrupt: bool) -> None:
        """Data goes another way."""
        peer, name = self._tunnel.peers.get(public_key), self._names.get(public_key)
        if peer is None or name is None:
            return
        old, new = self._paths.get(public_key, ""), path_text(peer.endpoint)
        if new != old:
            self._paths[public_key] = new
            reason = "the path before is given up" if abrupt else "a better path"
            self._tell(local.PATH_CHANGED, peer, name, old=old, reason=reason)

    def unreachable(self, public_key: bytes, reason: str = NO_PATH_ANSWERS) -> None:
        """Something is to be sent to the peer, and nothing comes back; told once."""
        name = self._names.get(public_key)
        if name is not None and public_key not in self._unreachable:
            self._unreachable.add(public_key)
            old = self._paths.get(public_key, "")
            self._feed.tell(local.PEER_UNREACHABLE, name, old=old, reason=reason)

    def look(self) -> None:
        """Has anything been heard of those that could not be reached?"""
        for public_key in list(self._unreachable):
            peer = self._tunnel.peers.get(public_key)
            if peer is None:
                self._unreachable.discard(public_key)
            elif peer.current is not None and peer.waiting_since is None:
                self._unreachable.discard(public_key)
                old, self._paths[public_key] = (
                    self._paths.get(public_key, ""),
                    path_text(peer.endpoint),
                )
                name = self._names.get(public_key, "")
                self._tell(local.PEER_REACHABLE, peer, name, old=old, reason=HEARD_AGAIN)

    def gone(self, public_key: bytes) -> None:
        """The peer is forgotten. To be called while its name is still known."""
        name = self._names.get(public_key)
        self._unreachable.discard(public_key)
        old = self._paths.pop(public_key, "")
        if name is not None:
            self._feed.tell(local.PEER_GONE, name, old=old)

    def networks_changed(self, change: Change) -> None:
        """Fig. 5 (1), as the kernel says."""
        reason = "interrupted" if change.interrupted else "another network"
        self._feed.tell(
            local.NETWORK_CHANGED,
            old=_addresses(change.old),
            new=_addresses(change.new),
            reason=reason,
        )

    def rebound(self, old: str, new: str) -> None:
        """Fig. 5 (1), as somebody says."""
        self._feed.tell(local.NETWORK_CHANGED, old=old, new=new, reason="rebind")

    def registered(self, assigned: Assigned) -> None:
        """The coordinator has given us our virtual addresses, or others."""
        given = filter(None, (assigned.ipv4, assigned.ipv6))
        new = ", ".join(map(local.address_text, given))
        self._feed.tell(local.REGISTERED, assigned.fqdn, new=new)

    def _tell(self, kind: str, peer: Peer[Path], name: str, *, old: str, reason: str) -> None:
        is_relayed = isinstance(peer.endpoint, RelayedEndpoint)
        new = path_text(peer.endpoint)
        self._feed.tell(kind, name, old=old, new=new, relayed=is_relayed, reason=reason)


def path_text(path: Path | None) -> str:
    """A path for people: an endpoint, and whether it is a relay's."""
    if path is None:
        return ""
    return f"{path.relay} (relay)" if isinstance(path, RelayedEndpoint) else str(path)


def _addresses(picture: Picture) -> str:
    return ", ".join(network.address for network in picture if network.has_default) or "none"
