"""Two nodes' tunnels and path managers in virtual time, with NATs, a relay, and silent deaths.

What runtime/carrier.py does with sockets is done here with a queue.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import DropCounter
from ntmpatch.handover.paths import PathManager
from ntmpatch.handover.ways import Ends, PathChanged, PathLost, Unreachable
from ntmpatch.packet.tunnel.tunnel import Established, HeardElsewhere, Tunnel, Waiting
from ntmpatch.wire.paths import PATH_BYTE
from ntmpatch.wire.wireguard import MIN_DATA_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

RELAY = Endpoint("203.0.113.9", 3473)
APPLICATION_BYTE = 0x45
EPOCH = 1_800_000_000.0
INTERVAL = 0.01
"""Seconds between the messages of `Echo`."""


class Relayed(NamedTuple):
    """Through the session that there is at a relay."""

    relay: Endpoint


class Through(NamedTuple):
    """By another end than the preferred one."""

    end: str
    remote: Endpoint


Path: TypeAlias = Endpoint | Relayed | Through


@dataclass(eq=False)
class Nat:
    """A NAT as RFC 4787 describes one: ``hard`` maps every destination to a port of its own."""

    host: str
    hard: bool = False
    filtering: str = "port"
    """``none``, ``address`` or ``port`` (-dependent)."""
    timeout: float = 120.0
    ports: dict[tuple[Endpoint, Endpoint | None], int] = field(default_factory=dict)
    inside: dict[int, Endpoint] = field(default_factory=dict)
    used: dict[tuple[int, str], float] = field(default_factory=dict)
    at_random: bool = False
    """Ports are drawn from all there are, not counted up."""
    next_port: int = 40000

    def out(self, source: Endpoint, destination: Endpoint, now: float) -> Endpoint:
        key = (source, destination if self.hard else None)
        if key not in self.ports:
            self.next_port += 7
            if self.at_random:
                self.next_port = random.Random(f"{source} {destination}").randint(1024, 65535)
            self.ports[key] = self.next_port
            self.inside[self.next_port] = source
        port = self.ports[key]
        for scope in ("", destination.host, str(destination)):
            self.used[port, scope] = now
        return Endpoint(self.host, port)

    def into(self, source: Endpoint, port: int, now: float) -> Endpoint | None:
        scope = {"none": "", "address": source.host, "port": str(source)}[self.filtering]
        if now - self.used.get((port, scope), float("-inf")) > self.timeout:
            return None
        return self.inside.get(port)

    def forget(self) -> None:
        """It has restarted: mappings are gone, and new ones are others."""
        self.ports.clear()
        self.inside.clear()
        self.used.clear()


class Node:
    """One end."""

    def __init__(
        self, net: PathNet, name: str, endpoint: Endpoint, nat: Nat | None, *, keeps_warm: bool
    ) -> None:
        rng = random.Random(net.rng.random())
        self.net = net
        self.name = name
        self.endpoint = endpoint
        self.nat = nat
        self.ends: dict[str, tuple[Endpoint, Nat | None]] = {}
        """Other ends, by name."""
        self.others: dict[bool, Endpoint] = {}
        """By family (is it IPv6), where the preferred end is in another one than ``endpoint``'s."""
        self.relay: Endpoint | None = None
        """The only address of the relay that it has a way to; None: that of its peer."""
        self.costs: dict[str, int] = {}
        self.tunnel: Tunnel[Path] = Tunnel(
            rng.randbytes(32),
            now=net.now,
            rng=rng,
            wall_clock=lambda: EPOCH + net.now,
            entropy=rng.randbytes,
        )
        self.drops = DropCounter()
        self.paths: PathManager[Path] = PathManager(
            self.tunnel.public_key,
            ends=Ends(
                is_relayed=lambda path: isinstance(path, Relayed),
                paths_to=self._paths_to,
                remote=_remote,
                cost=lambda path: self.costs.get(path.end, 1) if isinstance(path, Through) else 0,
            ),
            keeps_warm=keeps_warm,
            open_ports=self._open_ports,
            close_ports=self._close_ports,
            entropy=rng.randbytes,
            drops=self.drops,
        )
        self.received: list[tuple[float, int, Path]] = []
        """Application messages: when, which, and by which path."""
        self.changes: list[tuple[float, bool]] = []
        self.lost: list[Path] = []
        self.unreachable: list[float] = []
        self.sent_to: dict[Endpoint, int] = {}
        """Bytes by destination, as the network sees them."""

    def _paths_to(self, endpoint: Endpoint) -> list[Path]:
        names = [name for name in self.ends if not name.startswith("port")]
        further = [Through(name, endpoint) for name in names]
        return [endpoint, *further] if self._has_way(endpoint) else [*further]

    def _has_way(self, path: Path) -> bool:
        if isinstance(path, Relayed):
            return self.relay in (None, path.relay)
        return not isinstance(path, Endpoint) or self.source(path) is not None

    def source(self, destination: Endpoint) -> Endpoint | None:
        """Where the preferred end is in the family of ``destination``; None: it is not."""
        is_same = self.endpoint.is_ipv6 == destination.is_ipv6
        return self.endpoint if is_same else self.others.get(destination.is_ipv6)

    def _open_ports(self, endpoint: Endpoint, count: int) -> list[Path]:
        opened: list[Path] = []
        for _ in range(count):
            name = f"port {next(self.net.counter)}"
            self.costs[name] = 0
            self.ends[name] = Endpoint(self.endpoint.host, 10_000 + len(self.ends)), self.nat
            opened.append(Through(name, endpoint))
        return opened

    def _close_ports(self, paths: Collection[Path]) -> None:
        for path in paths:
            if isinstance(path, Through) and path.end.startswith("port"):
                del self.ends[path.end]

    def all_ends(self) -> list[tuple[str, Endpoint, Nat | None]]:
        """Where datagrams leave and arrive; the preferred end has no name."""
        others = [(name, *end) for name, end in self.ends.items()]
        further = [("", end, None) for end in self.others.values()]
        return [("", self.endpoint, self.nat), *further, *others]

    @property
    def seen(self) -> Endpoint:
        """Where others would send to, having seen us talk to the relay."""
        return (
            self.endpoint if self.nat is None else self.nat.out(self.endpoint, RELAY, self.net.now)
        )

    def meet(
        self,
        other: Node,
        paths: list[Path],
        *,
        initiate: bool,
        endpoints: Sequence[Endpoint] = (),
    ) -> None:
        peer = self.tunnel.add_peer(other.tunnel.public_key, first_retries=(0.1, 0.2, 0.4, 0.8))
        self.paths.watch(peer, paths, self.net.now, endpoints)
        if initiate:
            peer.initiate(self.net.now)

    def send(self, other: Node, number: int, size: int = 100) -> None:
        """An application message; its answer is expected to be another."""
        peer = self.tunnel.peers[other.tunnel.public_key]
        body = bytes((APPLICATION_BYTE,)) + number.to_bytes(8) + bytes(size - 9)
        if peer.budget is not None:
            if size > peer.budget:
                return
            peer.budget -= size
        peer.send(body, self.net.now)

    def path_to(self, other: Node) -> Path | None:
        return self.tunnel.peers[other.tunnel.public_key].endpoint

    def rtt_to(self, other: Node) -> list[dict[str, object]]:
        known = self.paths.of(other.tunnel.public_key)
        return known.describe() if known is not None else []

    def receive(self, source: Path, data: bytes) -> None:
        now = self.net.now
        for peer, packets in self.tunnel.receive(memoryview(data), len(data), source, now):
            for packet in packets:
                if packet[0] == PATH_BYTE:
                    self.paths.message(peer, packet, source, now)
                    continue
                if source != peer.endpoint:
                    self.paths.elsewhere(peer, source, len(packet), now)
                number = int.from_bytes(packet[1:9])
                self.received.append((now, number, source))
                self.net.on_message(self, number)

    def move(self, endpoint: Endpoint, nat: Nat | None) -> None:
        """The old address is gone, the new one is there, and the handover module knows."""
        self.endpoint = endpoint
        self.nat = nat
        self.net.bind(self)
        self.paths.closed(lambda path: not self._has_way(path), self.net.now)
        self.paths.network_changed(self.net.now)

    def flush(self) -> None:
        now = self.net.now
        while True:
            while (event := self.tunnel.poll_event()) is not None:
                if isinstance(event, Waiting):
                    self.paths.waiting(event.peer, now)
                elif isinstance(event, HeardElsewhere):
                    self.paths.elsewhere(event.peer, event.source, MIN_DATA_SIZE, now)
                elif isinstance(event, Established):
                    self.paths.established(event.peer, now)
            while (told := self.paths.poll_event()) is not None:
                if isinstance(told, PathChanged):
                    self.changes.append((now, told.abrupt))
                elif isinstance(told, PathLost):
                    self.lost.append(told.path)
                elif isinstance(told, Unreachable):
                    self.unreachable.append(now)
            transmit = self.tunnel.poll_transmit()
            if transmit is None:
                return
            self.net.transmit(self, *transmit)


class PathNet:
    """The network between them."""

    def __init__(self, seed: int, *, delay: float = 0.0255, relay_delay: float = 0.01) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.delay = delay
        self.relay_delay = relay_delay
        """Added where the relay is in the way."""
        self.loss = 0.0
        self.nodes: list[Node] = []
        self.bound: dict[int, Endpoint] = {}
        self.relay_is_up = True
        self.unbound: set[Endpoint] = set()
        """Relays at which a session is, and not both ends yet, or no more."""
        self.blocked: Callable[[Endpoint, Endpoint], bool] = lambda _source, _destination: False
        self.shorter: Callable[[Endpoint, Endpoint], bool] = lambda _source, _destination: False
        """What takes a fifth of the delay."""
        self.on_message: Callable[[Node, int], None] = lambda _node, _number: None
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self.counter = itertools.count()

    def node(
        self, name: str, host: str, nat: Nat | None = None, *, keeps_warm: bool = False
    ) -> Node:
        node = Node(self, name, Endpoint(host, 5000), nat, keeps_warm=keeps_warm)
        self.nodes.append(node)
        self.bind(node)
        return node

    def bind(self, node: Node) -> None:
        """The node's end of the relayed session is where the node is now."""
        source = node.endpoint
        if node.nat is not None:
            source = node.nat.out(source, RELAY, self.now)
        index = self.nodes.index(node)
        self.at(self.now + self.delay, lambda: self.bound.__setitem__(index, source))

    def at(self, due_at: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (due_at, next(self.counter), action))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        end = self.now + seconds
        for _ in range(3_000_000):
            for node in self.nodes:
                node.flush()
            if until():
                return True
            instants = [self._queue[0][0]] if self._queue else []
            for node in self.nodes:
                due = (node.tunnel.poll_timeout(), node.paths.poll_timeout())
                instants += [instant for instant in due if instant is not None]
            next_at = max(min(instants, default=end + 1), self.now)
            if next_at > end:
                self.now = end
                return until()
            self.now = next_at
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
            for node in self.nodes:
                for core in (node.tunnel, node.paths):
                    due_at = core.poll_timeout()
                    if due_at is not None and due_at <= self.now:
                        core.handle_timeout(self.now)
        raise AssertionError("the network does not come to rest")

    def transmit(self, node: Node, path: Path, data: bytes) -> None:
        index = self.nodes.index(node)
        source, nat = node.endpoint, node.nat
        if isinstance(path, Through):
            if path.end not in node.ends:
                return
            source, nat = node.ends[path.end]
        destination = path if isinstance(path, Endpoint) else path[-1]
        assert isinstance(destination, Endpoint)
        if isinstance(path, Endpoint):
            source = node.source(path) or source
        if source.is_ipv6 != destination.is_ipv6:
            return
        node.sent_to[destination] = node.sent_to.get(destination, 0) + len(data)
        if nat is not None:
            source = nat.out(source, destination, self.now)
        if self.loss and self.rng.random() < self.loss:
            return
        if isinstance(path, Relayed):

            def relay() -> None:
                far = self.nodes[1 - index]
                via = path if far.relay is None else Relayed(far.relay)
                is_up = self.relay_is_up and path.relay not in self.unbound
                to = self.bound.get(1 - index)
                if is_up and self.bound.get(index) == source and to is not None:
                    arrive = lambda: self._arrive(via.relay, to, data, via)  # noqa: E731  # a closure of this datagram
                    self.at(self.now + self.delay, arrive)

            self.at(self.now + self.relay_delay, relay)
            return
        self.inject(source, destination, data)

    def inject(self, source: Endpoint, destination: Endpoint, data: bytes) -> None:
        """Let a datagram arrive that shows these addresses."""
        if not self.blocked(source, destination):
            delay = self.delay / 5 if self.shorter(source, destination) else self.delay
            self.at(self.now + delay, lambda: self._arrive(source, destination, data, source))

    def _arrive(self, source: Endpoint, destination: Endpoint, data: bytes, path: Path) -> None:
        for node in self.nodes:
            for end, endpoint, nat in node.all_ends():
                inside: Endpoint | None = destination
                if nat is not None:
                    if destination.host != nat.host:
                        continue
                    inside = nat.into(source, destination.port, self.now)
                if inside == endpoint:
                    node.receive(Through(end, source) if end else path, data)
                    return


def _remote(path: Path) -> Endpoint | None:
    if isinstance(path, Relayed):
        return None
    return path if isinstance(path, Endpoint) else path.remote


class Echo:
    """A sends a message every 10 ms, and B answers each at once."""

    def __init__(self, net: PathNet, a: Node, b: Node) -> None:
        self.net, self.a, self.b = net, a, b
        self.sent_at: dict[int, float] = {}
        self.echoed_at: dict[int, float] = {}
        self.on = True
        net.on_message = self._message
        self._tick(0)

    def _tick(self, number: int) -> None:
        if self.on:
            self.sent_at[number] = self.net.now
            self.a.send(self.b, number)
            self.net.at(self.net.now + INTERVAL, lambda: self._tick(number + 1))

    def _message(self, node: Node, number: int) -> None:
        if node is self.b:
            self.b.send(self.a, number)
        else:
            self.echoed_at.setdefault(number, self.net.now)

    def gap_after(self, moved_at: float) -> float:
        """From then to the first echo of a message sent afterwards."""
        return min(
            echoed_at - moved_at
            for number, echoed_at in self.echoed_at.items()
            if self.sent_at[number] >= moved_at
        )


def pair(
    net: PathNet,
    nat_a: Nat | None = None,
    nat_b: Nat | None = None,
    *,
    relayed: bool,
    told: bool = True,
) -> tuple[Node, Node]:
    """Two nodes that were directed to each other; ``told``: with the endpoints of each."""
    a = net.node("a", "10.0.1.2" if nat_a else "198.51.100.1", nat_a)
    b = net.node("b", "10.0.2.2" if nat_b else "198.51.100.2", nat_b)
    relay = [Relayed(RELAY)] if relayed else []
    net.run(0.1)
    a.meet(b, [*relay, b.seen] if told else [*relay], initiate=True)
    b.meet(a, [*relay, a.seen] if told else [*relay], initiate=False)
    return a, b
