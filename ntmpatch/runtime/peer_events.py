"""A node's events, from what its tunnels, paths and negotiation do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ntmpatch.handover.bindings import RelayedEndpoint
from ntmpatch.wire import local

if TYPE_CHECKING:
    from ntmpatch.handover.networks import Change, Picture
    from ntmpatch.packet.tunnel.tunnel import Tunnel
    from ntmpatch.runtime.carrier import Path
    from ntmpatch.runtime.event_feed import EventFeed
    from ntmpatch.signalling.effects import Assigned

NO_PATH_ANSWERS = "no path answers"
NO_HANDSHAKE = "no handshake is answered"
HEARD_AGAIN = "heard again"


class PeerEvents:
    """Tells ``feed`` of the nodes that it has been told to have `met`; of nobody else."""

    def __init__(self, feed: EventFeed, tunnel: Tunnel[Path]) -> None:
        self._feed = feed
        self._tunnel = tunnel
        self._names: dict[bytes, str] = {}
        self._paths: dict[bytes, str] = {}
        """Of each peer whose tunnel has been up, the path that was told last."""
        self._unreachable: set[bytes] = set()

    def met(self, public_key: bytes, name: str) -> None:
        """There is or will be a tunnel to this node."""
        self._names[public_key] = name

    def tunnel_ready(self, public_key: bytes, *, again: bool) -> None:
        """A tunnel that was directed has shaken hands: Fig. 3 (19), Fig. 5 (29)."""
        is_up = public_key in self._paths
        if is_up and again:
            self.path_changed(public_key, abrupt=True)
            self._tell(local.TUNNEL_READY, public_key, "directed again")
        elif not is_up:  # else it is a session's successor
            self._tell(local.TUNNEL_READY, public_key, "tunnel created")

    def path_changed(self, public_key: bytes, *, abrupt: bool) -> None:
        """Data goes another way, if that is not known yet."""
        peer, old = self._tunnel.peers.get(public_key), self._paths.get(public_key)
        if peer is not None and old is not None and path_text(peer.endpoint) != old:
            reason = "the path before is given up" if abrupt else "a better path"
            self._tell(local.PATH_CHANGED, public_key, reason)

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
                self.path_changed(public_key, abrupt=True)
                self._tell(local.PEER_REACHABLE, public_key, HEARD_AGAIN)

    def gone(self, public_key: bytes) -> None:
        """The peer is forgotten."""
        name = self._names.pop(public_key, None)
        old = self._paths.pop(public_key, "")
        self._unreachable.discard(public_key)
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

    def _tell(self, kind: str, public_key: bytes, reason: str) -> None:
        """With the path that was told last as the old one, and that in use as the new one."""
        peer, name = self._tunnel.peers.get(public_key), self._names.get(public_key)
        if peer is None or name is None:
            return
        old, new = self._paths.get(public_key, ""), path_text(peer.endpoint)
        self._paths[public_key] = new
        is_relayed = isinstance(peer.endpoint, RelayedEndpoint)
        self._feed.tell(kind, name, old=old, new=new, relayed=is_relayed, reason=reason)


def path_text(path: Path | None) -> str:
    """A path for people: an endpoint, and whether it is a relay's."""
    if path is None:
        return ""
    return f"{path.relay} (relay)" if isinstance(path, RelayedEndpoint) else str(path)


def _addresses(picture: Picture) -> str:
    return ", ".join(network.address for network in picture if network.has_default) or "none"
