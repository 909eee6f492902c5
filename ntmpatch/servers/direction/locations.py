"""Who is where: the nodes that registered, and the NSs and RSs that announced themselves."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2s
from typing import TYPE_CHECKING

from ntmpatch.servers.direction.names import NameIndex, packed_hosts
from ntmpatch.servers.direction.reach import Reach, reach_of

if TYPE_CHECKING:
    import random

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.servers.direction.store import NodeRecord
    from ntmpatch.wire.control_messages import ServerLocation

ANNOUNCEMENT_INTERVAL = 5.0
ANNOUNCEMENT_LIFETIME = 3.5 * ANNOUNCEMENT_INTERVAL
"""A server that misses three announcements is taken for dead."""
SUSPICION_LIFETIME = 15.0
"""Seconds for which a server that did not answer is asked only if there is no other."""
VANTAGE_POINTS = 2
"""RSs of one family that a node is told of, to be asked how it is seen."""
LOAD_STEP = 0.1
"""Loads that differ by less count as equal: all would go to one until its next announcement."""


@dataclass(slots=True)
class Node:
    """A registered node; ``fresh`` if it registered since this coordinator started."""

    record: NodeRecord
    fresh: bool = False
    notification_server: bytes | None = None
    served_until: float = 0.0
    """When the notification service must be asked for again."""
    stored_at: float = float("-inf")
    """Since when the store holds ``record`` (but for ``registered_at``), by this party's clock."""

    @property
    def public_key(self) -> bytes:
        """The node's key."""
        return self.record.public_key

    def reach(self, seen: Endpoint | None) -> Reach:
        """How the node can be reached, given where it was ``seen`` last."""
        return reach_of(seen or self.record.seen_endpoint, self.record.local_endpoints)


@dataclass(slots=True, frozen=True)
class Server:
    """An NS or RS, as it announced itself."""

    public_key: bytes
    fqdn: str
    location: ServerLocation
    load: float
    announced_at: float
    draining: bool = False
    """It is about to end: what it serves is better moved to another one."""


class Locations:
    """All nodes and servers that this coordinator knows."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.names = NameIndex()
        """Nodes by virtual, servers by real addresses: what DNS tells."""
        self._by_key: dict[bytes, Node] = {}
        self._by_name: dict[str, Node] = {}
        self._servers: dict[bytes, Server] = {}
        self._suspected_until: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def node(self, public_key: bytes) -> Node | None:
        """The node of this key."""
        return self._by_key.get(public_key)

    def named(self, fqdn: str) -> Node | None:
        """The node of this name."""
        return self._by_name.get(fqdn)

    def nodes(self) -> list[Node]:
        """All nodes, as they are now."""
        return list(self._by_key.values())

    def put(self, node: Node) -> bytes | None:
        """Keep a node's registration; the key that its name had before, if that was another."""
        before = self._by_name.get(node.record.fqdn)
        self._by_name[node.record.fqdn] = node
        self._by_key[node.public_key] = node
        self.names.put(node.record.fqdn, (node.record.ipv4, node.record.ipv6))
        if before is None or before.public_key == node.public_key:
            return None
        self._by_key.pop(before.public_key, None)
        return before.public_key

    def remove(self, public_key: bytes) -> Node | None:
        """Forget a node."""
        node = self._by_key.pop(public_key, None)
        if node is not None and self._by_name.get(node.record.fqdn) is node:
            del self._by_name[node.record.fqdn]
            self.names.remove(node.record.fqdn)
        return node

    def announce(self, server: Server) -> None:
        """Keep a server's announcement."""
        before = self._servers.get(server.public_key)
        self._servers[server.public_key] = server
        if before is None or before.location.endpoints != server.location.endpoints:
            self.names.put(server.fqdn, packed_hosts(server.location.endpoints))

    def retire(self, public_key: bytes) -> bool:
        """Forget a server; whether it was known."""
        self._suspected_until.pop(public_key, None)
        server = self._servers.pop(public_key, None)
        if server is not None:
            self.names.remove(server.fqdn)
        return server is not None

    def suspect(self, public_key: bytes, now: float) -> None:
        """A server did not answer: others are preferred for a while."""
        if public_key in self._servers:
            self._suspected_until[public_key] = now + SUSPICION_LIFETIME

    def server(self, public_key: bytes | None, now: float) -> Server | None:
        """The server of this key, if it is alive."""
        server = None if public_key is None else self._servers.get(public_key)
        alive = server is not None and now - server.announced_at < ANNOUNCEMENT_LIFETIME
        return server if alive else None

    def vantage(self, public_key: bytes, now: float) -> list[Endpoint]:
        """Where RSs see a node from: the same ones every time, and not one for all nodes.

        At most ``VANTAGE_POINTS`` of a family, at different addresses, by rendezvous hashing.
        """
        relays = [
            server
            for key, server in self._servers.items()
            if server.location.role == "rs" and self.server(key, now) is not None
        ]
        relays.sort(key=lambda server: blake2s(public_key + server.public_key).digest())
        chosen: dict[str, Endpoint] = {}
        counts = {True: 0, False: 0}
        for server in relays:
            for endpoint in (address.endpoint() for address in server.location.endpoints):
                if counts[endpoint.is_ipv6] < VANTAGE_POINTS and endpoint.host not in chosen:
                    chosen[endpoint.host] = endpoint
                    counts[endpoint.is_ipv6] += 1
        return list(chosen.values())

    def servers(self, role: str, now: float) -> list[Server]:
        """Living servers of a role that take more: those that answer first, then by load."""
        alive = [
            server
            for server in self._servers.values()
            if server.location.role == role
            and server.load < 1.0
            and now - server.announced_at < ANNOUNCEMENT_LIFETIME
        ]
        if len(alive) > 1:
            ranks = {
                server.public_key: (
                    self._suspected_until.get(server.public_key, 0.0) > now,
                    server.load // LOAD_STEP,
                    self._rng.random(),
                )
                for server in alive
            }
            alive.sort(key=lambda server: ranks[server.public_key])
        return alive
