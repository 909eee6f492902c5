"""The packet side of a node: its stack, and which peer carries which virtual address.

Fig. 4 as a whole: what the stack emits is encapsulated for the peer that has the destination's
address, and what a peer's tunnel delivers is handed to the stack, if the peer may use the source.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop
from ntmpatch.packet.capsulation import MAX_PACKET_SIZE
from ntmpatch.packet.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ntmpatch.base.drops import DropCounter
    from ntmpatch.base.policy import Access
    from ntmpatch.packet.tunnel.peer import Peer
    from ntmpatch.runtime.carrier import Carrier, Path


@dataclass(slots=True, frozen=True)
class Route:
    """A peer's virtual addresses, and whether a kernel's stack is behind it."""

    public_key: bytes
    addresses: frozenset[bytes]
    kernel: bool = False
    """Its stack verifies checksums, and ours must verify what it sends."""
    access: Access = None
    """Ports of ours that it may reach."""


class PacketSide:
    """Moves packets between ``stack`` and the tunnels of a carrier."""

    def __init__(self, *, mtu: int, drops: DropCounter) -> None:
        self.drops = drops
        self.stack = Stack(
            rng=random.Random(os.urandom(16)),
            now=time.monotonic(),
            mtu=mtu,
            max_mtu=MAX_PACKET_SIZE,
            drops=drops,
        )
        self._by_address: dict[bytes, Route] = {}
        self._by_key: dict[bytes, Route] = {}
        self._own: set[bytes] = set()
        self._carrier: Carrier | None = None
        self._unused: dict[bytes, Callable[[], None]] = {}

    def on_first_use(self, public_key: bytes, call: Callable[[], None]) -> None:
        """Call once, when the next packet goes to this peer."""
        self._unused[public_key] = call

    def attach(self, carrier: Carrier) -> None:
        """Send through ``carrier`` from now on."""
        self._carrier = carrier

    @property
    def own_addresses(self) -> frozenset[bytes]:
        """This node's virtual addresses."""
        return frozenset(self._own)

    def assign(self, addresses: Iterable[bytes]) -> None:
        """Set this node's virtual addresses; those that stay keep their sockets."""
        wanted = set(addresses)
        for address in self._own - wanted:
            self.stack.remove_address(address)
        for address in wanted - self._own:
            self.stack.add_address(address)
        self._own = wanted

    def add_route(self, route: Route) -> None:
        """Let a peer use these addresses, and send what is for them to it."""
        self.remove_route(route.public_key)
        self._by_key[route.public_key] = route
        for address in route.addresses:
            self._by_address[address] = route
            self.stack.access.allow(address, route.access)

    def remove_route(self, public_key: bytes) -> None:
        """The peer has no addresses any more."""
        route = self._by_key.pop(public_key, None)
        if route is None:
            return
        for address in route.addresses:
            if self._by_address.get(address) is route:
                del self._by_address[address]
                self.stack.access.allow(address, None)

    def route_to(self, address: bytes) -> Route | None:
        """Who has this virtual address."""
        return self._by_address.get(address)

    def receive(self, peer: Peer[Path], packets: list[memoryview], now: float) -> None:
        """Fig. 4 (5), (6): packets that a peer's tunnel delivered."""
        route = self._by_key.get(peer.public_key)
        if route is None:
            self.drops.drop(Drop.PACKET_FROM_UNROUTED_PEER, len(packets))
            return
        self.stack.receive(packets, route.addresses, now, verify=route.kernel)

    def flush(self, now: float) -> float | None:
        """Run what is due in the stack and send what it has; when it wants to run next."""
        stack = self.stack
        carrier = self._carrier
        due_at = stack.poll_timeout()
        if due_at is not None and due_at <= now:
            stack.handle_timeout(now)
        if carrier is None:
            return stack.poll_timeout()
        peers = carrier.tunnel.peers
        while not carrier.congested:
            segment = stack.poll_transmit(now)
            if segment is None:
                break
            route = self._by_address.get(segment.destination)
            peer = None if route is None else peers.get(route.public_key)
            if route is None or peer is None:
                self.drops.drop(Drop.PACKET_WITHOUT_ROUTE, segment.packet_count)
                stack.host_unreachable(segment.destination, now)
                continue
            if self._unused:
                first_use = self._unused.pop(route.public_key, None)
                if first_use is not None:
                    first_use()
            if not carrier.send_segment(peer, segment, now, checksums=route.kernel):
                stack.packet_refused(segment, now)
        return stack.poll_timeout()

    def path_changed(self, public_key: bytes, now: float, *, abrupt: bool = True) -> None:
        """The way to a peer is another one: its connections go on at once.

        ``abrupt``: what is under way is lost.
        """
        route = self._by_key.get(public_key)
        if route is not None:
            for address in route.addresses:
                self.stack.path_changed(address, now, abrupt=abrupt)
