"""The node: negotiation, tunnels, stack and door together, in a private thread.

``start_local_node`` is what a program's first virtual socket calls. With an identity from an AS the
node registers, and is told of its peers; with static peers in the configuration it needs no server
and no negotiation, and its peers may be any WireGuard implementation.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import random
import socket
import time
from typing import TYPE_CHECKING, Any

import gevent
import gevent.event

from ntmpatch.base.addresses import Endpoint, in_domain
from ntmpatch.base.drops import DropCounter
from ntmpatch.negotiation.node import NameUnknown, NodeNegotiation
from ntmpatch.packet.tunnel.tunnel import EndpointChanged, Established, Expired, Tunnel
from ntmpatch.runtime.carrier import Carrier
from ntmpatch.runtime.door import Door, NameLookupError
from ntmpatch.runtime.hub import HubThread
from ntmpatch.runtime.packets import PacketSide, Route
from ntmpatch.runtime.station import Station
from ntmpatch.runtime.trace import TraceWriter
from ntmpatch.signalling.effects import (
    Assigned,
    Contact,
    Failed,
    Forget,
    Persist,
    Ready,
    Resolved,
    Unresolved,
)
from ntmpatch.wire import local

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.packet.stack import Stack
    from ntmpatch.packet.tunnel.peer import Peer
    from ntmpatch.packet.tunnel.tunnel import TunnelEvent
    from ntmpatch.runtime.carrier import Path
    from ntmpatch.signalling.effects import Effect

log = logging.getLogger("ntmpatch.node")

STOP_TIMEOUT = 3.0
"""Seconds a program's end may wait for queued bytes and the farewell to the DC."""

_LOOKUP_TIMEOUT = 12.0
"""Seconds after which a look-up is given up whatever negotiation thinks: EAI_AGAIN."""


class Node:
    """Everything of one node that lives in its hub; the door's ``NodeService``.

    Made and used in the node's thread only, save for ``post``.
    """

    def __init__(
        self, settings: NodeSettings, post: Callable[..., None], *, control_path: str = ""
    ) -> None:
        self.drops = DropCounter()
        self._settings = settings
        self._post = post
        self._packets = PacketSide(mtu=settings.mtu, drops=self.drops)
        self.stack: Stack = self._packets.stack
        self._trace = TraceWriter()
        self._started_at = time.monotonic()
        self.peers: ManagedPeers | StaticPeers
        if settings.static is not None:
            self.peers = StaticPeers(settings.static, settings, self._packets)
        else:
            self.peers = ManagedPeers(settings, self._packets, self._trace)
        self._packets.attach(self.peers.carrier)
        self.door = Door(self, control_path=control_path)

    def open(self) -> None:
        """Open the ports and the door; OSError if a port is taken."""
        self.peers.carrier.bind(_usable(self._settings.binds))
        self.peers.start()
        self.door.open()
        self.flush()

    def close(self) -> None:
        """Let queued bytes out for a bounded time, say goodbye, close everything."""
        self.door.finish()
        with gevent.Timeout(STOP_TIMEOUT, False):
            while self.stack.has_unacknowledged_data():
                self.flush()
                gevent.sleep(0.005)
        self.door.close()
        self.flush()
        self.peers.close()
        self._trace.close()

    # --- NodeService --------------------------------------------------------------------

    def post(self, function: Callable[..., object], *arguments: object) -> None:
        """Call in the node's thread, from any thread."""
        self._post(function, *arguments)

    def now(self) -> float:
        """The stack's clock."""
        return time.monotonic()

    def flush(self) -> None:
        """Send what is queued."""
        self.peers.carrier.wake()

    def welcome(self) -> local.Welcome:
        """Who this node is now."""
        return self.peers.welcome()

    def resolve(self, name: str) -> local.Resolved:
        """Fig. 3 (1): a program looks a name up."""
        return self.peers.resolve(name)

    def reverse_resolve(self, address: bytes) -> str | None:
        """The name behind a virtual address."""
        return self.peers.reverse_resolve(address)

    def rebind(self, addresses: tuple[str, ...]) -> None:
        """Move to other local addresses (Fig. 5 begins here when nothing of the kernel did)."""
        binds = tuple(Endpoint(str(ipaddress.ip_address(text)), 0) for text in addresses)
        if not binds:
            raise OSError(22, os.strerror(22))
        self.peers.rebind(binds)
        self.flush()

    def status(self) -> dict[str, object]:
        """Facts for people and monitors."""
        now = time.monotonic()
        welcome = self.peers.welcome()
        return {
            "fqdn": welcome.fqdn,
            "ipv4": _text(welcome.ipv4),
            "ipv6": _text(welcome.ipv6),
            "pid": os.getpid(),
            "uptime_seconds": round(now - self._started_at, 3),
            "endpoints": [str(end) for end in self.peers.carrier.local_endpoints],
            "sockets": len(self.door.sockets),
            "peers": self.peers.describe(now),
            "drops": (self.drops + self.peers.carrier.tunnel.drops).by_name(),
        }


class ManagedPeers:
    """Peers that a direction coordinator directs tunnels to."""

    def __init__(self, settings: NodeSettings, packets: PacketSide, trace: TraceWriter) -> None:
        self._settings = settings
        self._packets = packets
        self._assigned: Assigned | None = None
        self._failure: Exception | None = None
        self._registered = gevent.event.Event()
        self._lookups: dict[int, gevent.event.AsyncResult[Resolved]] = {}
        self._names: dict[bytes, str] = {}
        self._station = Station(
            settings.private_key,
            self._make_negotiation,
            admit=None,
            trace=trace,
            on_effect=self._effect,
            on_packets=packets.receive,
            on_event=self._tunnel_event,
            before_wait=packets.flush,
            gso=settings.gso,
        )
        self.carrier: Carrier = self._station.carrier

    def _make_negotiation(self, public_key: bytes) -> NodeNegotiation:
        settings = self._settings
        self._negotiation = NodeNegotiation(
            public_key,
            token=settings.token,
            state=settings.state,
            now=time.monotonic(),
            rng=random.Random(os.urandom(16)),
            wall_clock=time.time,
            drops=self._packets.drops,
        )
        return self._negotiation

    def start(self) -> None:
        """Begin to register."""
        now = time.monotonic()
        self._negotiation.begin(self._local_endpoints(), now)
        self.carrier.wake()

    def close(self) -> None:
        """Leave the DC and close."""
        self._negotiation.leave(time.monotonic())
        self.carrier.wake()
        self._station.close()

    def welcome(self) -> local.Welcome:
        """Who the node is; addresses are None until it is registered."""
        assigned = self._assigned
        prefixes = self._negotiation.virtual_prefixes()
        return local.Welcome(
            version=local.VERSION,
            fqdn=self._negotiation.fqdn,
            ipv4=(assigned.ipv4 or None) if assigned else None,
            ipv6=(assigned.ipv6 or None) if assigned else None,
            domains=self._domains(),
            prefixes=tuple(prefixes),
            control_path="",
        )

    def _domains(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self._negotiation.domain, *self._settings.domains)))

    def resolve(self, name: str) -> local.Resolved:
        """Have a tunnel to ``name`` directed, and wait for it."""
        if not any(in_domain(name, domain) for domain in self._domains()):
            raise NameLookupError(socket.EAI_NONAME, f"{name} is in no domain of this node")
        if name == self._negotiation.fqdn:
            return self._own(name)
        now = time.monotonic()
        self.carrier.tunnel.hold_unknown(now + _LOOKUP_TIMEOUT)
        request_id = self._negotiation.resolve(name, now)
        answer: gevent.event.AsyncResult[Resolved] = gevent.event.AsyncResult()
        self._lookups[request_id] = answer
        self.carrier.wake()
        try:
            found = answer.get(timeout=_LOOKUP_TIMEOUT)
        except NameUnknown as error:
            raise NameLookupError(socket.EAI_NONAME, str(error)) from error
        except (gevent.Timeout, Exception) as error:
            raise NameLookupError(socket.EAI_AGAIN, str(error)) from error
        finally:
            self._lookups.pop(request_id, None)
        return local.Resolved(found.ipv4 or None, found.ipv6 or None, found.fqdn)

    def _own(self, name: str) -> local.Resolved:
        if not self._registered.wait(timeout=_LOOKUP_TIMEOUT) or self._assigned is None:
            raise NameLookupError(socket.EAI_AGAIN, "this node is not registered yet")
        return local.Resolved(self._assigned.ipv4 or None, self._assigned.ipv6 or None, name)

    def reverse_resolve(self, address: bytes) -> str | None:
        """The name of a peer, or of this node."""
        if address in self._packets.own_addresses:
            return self._negotiation.fqdn
        route = self._packets.route_to(address)
        return self._names.get(route.public_key) if route is not None else None

    def rebind(self, binds: tuple[Endpoint, ...]) -> None:
        """Fig. 5 (2) on: the access network is another one."""
        self._station.rebind(binds)
        now = time.monotonic()
        self._negotiation.network_changed(self._local_endpoints(), now)
        for public_key in list(self.carrier.tunnel.peers):
            self._packets.path_changed(public_key, now)

    def describe(self, now: float) -> list[dict[str, object]]:
        """The peers for status output."""
        return [
            {
                "name": self._names.get(key, key[:8].hex()),
                **_describe(peer, now),
            }
            for key, peer in self.carrier.tunnel.peers.items()
        ]

    def _local_endpoints(self) -> tuple[Endpoint, ...]:
        towards = self._negotiation.server_endpoints()
        return _concrete(self.carrier.local_endpoints, towards)

    def _tunnel_event(self, event: TunnelEvent, now: float) -> None:
        key = event.peer.public_key
        if isinstance(event, Established):
            self._negotiation.tunnel_established(key, now)
        elif isinstance(event, Expired):
            self._negotiation.tunnel_expired(key, now)
        elif isinstance(event, EndpointChanged):
            self._packets.path_changed(key, now)

    def _effect(self, effect: Effect, now: float) -> None:
        match effect:
            case Contact():
                self._names[effect.public_key] = effect.name
                addresses = frozenset(address for address in (effect.ipv4, effect.ipv6) if address)
                if addresses:
                    self._packets.add_route(Route(effect.public_key, addresses))
            case Forget():
                self._names.pop(effect.public_key, None)
                self._packets.remove_route(effect.public_key)
            case Assigned():
                self._assigned = effect
                self._packets.assign(a for a in (effect.ipv4, effect.ipv6) if a)
                self._registered.set()
            case Resolved():
                answer = self._lookups.get(effect.request_id)
                if answer is not None:
                    answer.set(effect)
            case Unresolved():
                answer = self._lookups.get(effect.request_id)
                if answer is not None:
                    answer.set_exception(effect.error)
            case Persist():
                pool: Any = gevent.get_hub().threadpool
                pool.spawn(self._settings.save_state, effect.state)
            case Failed() if effect.fatal:
                self._failure = effect.error
            case Ready():
                log.info("%s %s is ready", effect.role, effect.name)
            case _:
                pass


class StaticPeers:
    """Peers from the configuration: no servers, and any WireGuard implementation at the far end."""

    def __init__(
        self, static: StaticNetwork, settings: NodeSettings, packets: PacketSide
    ) -> None:
        self._static = static
        self._packets = packets
        tunnel: Tunnel[Path] = Tunnel(
            settings.private_key,
            now=time.monotonic(),
            rng=random.Random(os.urandom(16)),
            entropy=os.urandom,
            wall_clock=time.time,
            timers=static.timers,
        )
        self.carrier = Carrier(
            tunnel,
            on_packets=packets.receive,
            on_control=self._control,
            on_event=self._tunnel_event,
            before_wait=packets.flush,
            gso=settings.gso,
        )
        packets.assign(static.addresses)
        for peer in static.peers:
            tunnel.add_peer(
                peer.public_key,
                preshared_key=peer.preshared_key,
                endpoint=peer.endpoint,
                persistent_keepalive_interval=peer.persistent_keepalive_interval,
            )
            packets.add_route(Route(peer.public_key, frozenset(peer.addresses), kernel=True))

    def start(self) -> None:
        """Nothing to register with."""

    def close(self) -> None:
        """Close the ports."""
        self.carrier.close()

    def welcome(self) -> local.Welcome:
        """Names and addresses as configured."""
        addresses = self._static.addresses
        peers = self._static.peers
        hosts = [address for peer in peers for address in peer.addresses]
        return local.Welcome(
            version=local.VERSION,
            fqdn=self._static.fqdn,
            ipv4=next((a for a in addresses if len(a) == 4), None),
            ipv6=next((a for a in addresses if len(a) == 16), None),
            domains=tuple(peer.name for peer in peers if peer.name),
            prefixes=tuple(str(ipaddress.ip_network(host)) for host in (*addresses, *hosts)),
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

    def describe(self, now: float) -> list[dict[str, object]]:
        """The peers for status output."""
        tunnel_peers = self.carrier.tunnel.peers
        return [
            {"name": peer.name, **_describe(tunnel_peers[peer.public_key], now)}
            for peer in self._static.peers
        ]

    def _control(self, _peer: Peer[Path], _payload: memoryview, _path: Path, _now: float) -> None:
        self._packets.drops.drop(Drop.CONTROL_STRANGER)

    def _tunnel_event(self, event: TunnelEvent, now: float) -> None:
        if isinstance(event, EndpointChanged):
            self._packets.path_changed(event.peer.public_key, now)


class LocalNode:
    """A node in this process: what ``patch`` holds of it. Any thread may call these."""

    def __init__(self, settings: NodeSettings) -> None:
        self.control_path = settings.control_path
        self._settings = settings
        self._node: Node | None = None
        self._pid = os.getpid()
        self._thread = HubThread(setup=self._open, teardown=self._close)

    def start(self) -> None:
        """Start the thread; raises what kept the node from opening its ports."""
        self._thread.start()
        atexit.register(self.stop)

    def attach(self) -> int:
        """A connected control descriptor."""
        assert self._node is not None
        return self._node.door.attach()

    def stop(self) -> None:
        """Flush and end, within a bounded time; a forked child only forgets."""
        atexit.unregister(self.stop)
        if os.getpid() == self._pid:
            self._thread.stop(2 * STOP_TIMEOUT)

    def _open(self) -> None:
        self._node = Node(self._settings, self._thread.post, control_path=self.control_path)
        self._node.open()

    def _close(self) -> None:
        if self._node is not None:
            self._node.close()


def start_local_node(settings: NodeSettings) -> LocalNode:
    """Start a node with this identity in this process."""
    node = LocalNode(settings)
    node.start()
    return node


def _usable(binds: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """Leave out wildcard families that this machine does not have."""
    usable = []
    for bind in binds:
        if bind.host == "::":
            try:
                socket_ = _socket.socket(_socket.AF_INET6, _socket.SOCK_DGRAM)
                socket_.bind(("::", 0))
                socket_.close()
            except OSError:
                continue
        usable.append(bind)
    return tuple(usable)


def _concrete(bound: tuple[Endpoint, ...], towards: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """Ports on wildcards, as seen from where the servers are: the kernel's source for that route."""
    found = []
    for end in bound:
        if end.host not in ("0.0.0.0", "::"):
            found.append(end)
            continue
        remote = next((r for r in towards if r.is_ipv6 == end.is_ipv6), None)
        if remote is None:
            continue
        probe = _socket.socket(
            _socket.AF_INET6 if end.is_ipv6 else _socket.AF_INET, _socket.SOCK_DGRAM
        )
        try:
            probe.connect((remote.host, remote.port))
            found.append(Endpoint(probe.getsockname()[0], end.port))
        except OSError:
            pass
        finally:
            probe.close()
    return tuple(found)


def _describe(peer: Peer[Path], now: float) -> dict[str, object]:
    last = peer.last_handshake_at
    return {
        "endpoint": str(peer.endpoint) if peer.endpoint is not None else None,
        "last_handshake_seconds": round(now - last, 3) if last is not None else None,
        "sent_bytes": peer.tx_bytes,
        "received_bytes": peer.rx_bytes,
    }


def _text(address: bytes | None) -> str | None:
    return str(ipaddress.ip_address(address)) if address else None
