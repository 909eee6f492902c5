"""Peers from the configuration: no servers, and any WireGuard implementation at the far end."""

from __future__ import annotations

import base64
import errno
import ipaddress
import os
import random
import socket
import time
from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop
from ntmpatch.packet.tunnel.tunnel import EndpointChanged, Established, Expired, Tunnel
from ntmpatch.runtime.carrier import Carrier
from ntmpatch.runtime.door import NameLookupError
from ntmpatch.runtime.keylog import key_log
from ntmpatch.runtime.packets import PacketSide, Route
from ntmpatch.runtime.peer_events import NO_HANDSHAKE, PeerEvents
from ntmpatch.wire import local

if TYPE_CHECKING:
    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.packet.tunnel.peer import Peer
    from ntmpatch.packet.tunnel.tunnel import TunnelEvent
    from ntmpatch.runtime.carrier import Path
    from ntmpatch.runtime.event_feed import EventFeed
    from ntmpatch.runtime.settings import NodeSettings, StaticNetwork


class StaticPeers:
    """The static counterpart of ManagedPeers."""

    def __init__(
        self,
        static: StaticNetwork,
        settings: NodeSettings,
        packets: PacketSide,
        events: EventFeed,
    ) -> None:
        self._static = static
        self._packets = packets
        tunnel: Tunnel[Path] = Tunnel(
            settings.private_key,
            now=time.monotonic(),
            rng=random.Random(os.urandom(16)),
            entropy=os.urandom,
            wall_clock=time.time,
            timers=settings.timers,
            on_handshake=key_log(),
        )
        self.carrier = Carrier(
            tunnel,
            on_packets=packets.receive,
            on_control=self._control,
            on_event=self._tunnel_event,
            before_wait=packets.flush,
            gso=settings.offload,
        )
        self._events = PeerEvents(events, tunnel)
        packets.assign(static.addresses)
        for peer in static.peers:
            tunnel.add_peer(
                peer.public_key,
                preshared_key=peer.preshared_key,
                endpoint=peer.endpoint,
                persistent_keepalive_interval=peer.persistent_keepalive_interval,
            )
            self._events.met(peer.public_key, peer.name or peer.public_key[:8].hex())
            packets.add_route(Route(peer.public_key, frozenset(peer.addresses), kernel=True))

    def start(self) -> None:
        """There is nobody to register with."""

    def _names(self) -> tuple[str, ...]:
        names = [self._static.fqdn, *(peer.name for peer in self._static.peers)]
        return tuple(dict.fromkeys(name for name in names if name))

    def _prefixes(self) -> tuple[str, ...]:
        hosts = [address for peer in self._static.peers for address in peer.addresses]
        return tuple(str(ipaddress.ip_network(host)) for host in (*self._static.addresses, *hosts))

    def close(self) -> None:
        """Close the ports."""
        self.carrier.close()

    def welcome(self) -> local.Welcome:
        """Names and addresses as configured."""
        addresses = self._static.addresses
        return local.Welcome(
            version=local.VERSION,
            fqdn=self._static.fqdn,
            ipv4=next((a for a in addresses if len(a) == 4), None),
            ipv6=next((a for a in addresses if len(a) == 16), None),
            domains=(),
            names=self._names(),
            prefixes=self._prefixes(),
            control_path="",
        )

    def resolve(self, name: str) -> local.Resolved:
        """A peer's name; the tunnel comes up with the first packet."""
        found = self._static.addresses if name == self._static.fqdn else None
        for peer in self._static.peers:
            if peer.name == name:
                found = peer.addresses
        if found is None:
            raise NameLookupError(socket.EAI_NONAME, f"no peer is called {name}")
        return local.Resolved(
            next((a for a in found if len(a) == 4), None),
            next((a for a in found if len(a) == 16), None),
            name,
        )

    def resolved(self, name: str) -> None:
        """Nothing follows: no tunnel was made for it."""

    def reverse_resolve(self, address: bytes) -> str | None:
        """The peer with that address."""
        if address in self._static.addresses:
            return self._static.fqdn or None
        return next((p.name for p in self._static.peers if address in p.addresses), None)

    def rebind(self, binds: tuple[Endpoint, ...]) -> None:
        """Other local addresses; peers learn them by roaming."""
        self.carrier.bind(binds)
        self.carrier.announce()
        now = time.monotonic()
        for peer in self._static.peers:
            self._packets.path_changed(peer.public_key, now)

    def wake(self, _payload: bytes) -> None:
        """No coordinator wants us."""
        raise OSError(errno.EOPNOTSUPP, "a node with static peers has no coordinator")

    def describe(self, now: float) -> list[dict[str, object]]:
        """The peers for status output."""
        tunnel_peers = self.carrier.tunnel.peers
        return [
            {"name": peer.name, **describe_peer(tunnel_peers[peer.public_key], now)}
            for peer in self._static.peers
        ]

    def _control(self, _peer: Peer[Path], _payload: memoryview, _path: Path, _now: float) -> None:
        self._packets.drops.drop(Drop.CONTROL_STRANGER)

    def _tunnel_event(self, event: TunnelEvent, now: float) -> None:
        key = event.peer.public_key
        if isinstance(event, EndpointChanged):
            self._packets.path_changed(key, now)
            self._events.path_changed(key, abrupt=True)
        elif isinstance(event, Established):
            self._events.tunnel_ready(key, again=False)
            self._events.look()
        elif isinstance(event, Expired):
            self._events.unreachable(key, NO_HANDSHAKE)


def describe_peer(peer: Peer[Path], now: float) -> dict[str, object]:
    """A tunnel peer's facts for status output."""
    last = peer.last_handshake_at
    return {
        "public_key": base64.b64encode(peer.public_key).decode(),
        "endpoint": str(peer.endpoint) if peer.endpoint is not None else None,
        "last_handshake_seconds": round(now - last, 3) if last is not None else None,
        "sent_bytes": peer.tx_bytes,
        "received_bytes": peer.rx_bytes,
    }
