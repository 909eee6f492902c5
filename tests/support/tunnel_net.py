"""Two tunnels over a seeded lossy network in virtual time."""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING, Any

from ntmpatch.packet.tunnel.tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntmpatch.packet.tunnel.constants import Timers


class TunnelNet:
    """Carries datagrams between tunnels that have addresses; addresses are plain strings."""

    def __init__(self, seed: int = 0, *, loss: float = 0.0, delay: float = 0.02) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.loss = loss
        self.delay = delay
        self.lose: Callable[[str, str, bytes], bool] = lambda *_: False
        """What is lost besides: asked with source, destination and datagram."""
        self.tunnels: dict[str, Tunnel[str]] = {}
        self.received: dict[str, list[bytes]] = {}
        self.events: dict[str, list[Any]] = {}
        self.sent: list[tuple[str, str, bytes]] = []
        self._queue: list[tuple[float, int, str, str, bytes]] = []
        self._count = 0

    def add(self, address: str, *, timers: Timers | None = None, **options: Any) -> Tunnel[str]:
        rng = random.Random(self.rng.random())
        tunnel: Tunnel[str] = Tunnel(
            rng.randbytes(32),
            now=self.now,
            rng=rng,
            wall_clock=lambda: self.now,
            entropy=rng.randbytes,
            timers=timers,
            **options,
        )
        self.tunnels[address] = tunnel
        self.received[address] = []
        self.events[address] = []
        return tunnel

    def move(self, old: str, new: str) -> None:
        """The tunnel at ``old`` is at ``new`` from now on; what is under way to ``old`` is lost."""
        self.tunnels[new] = self.tunnels.pop(old)
        self.received[new] = self.received.pop(old)
        self.events[new] = self.events.pop(old)

    def inject(self, source: str, destination: str, datagram: bytes, delay: float = 0.0) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay, self._count, source, destination, datagram))

    def collect(self) -> None:
        for address, tunnel in list(self.tunnels.items()):
            while (transmit := tunnel.poll_transmit()) is not None:
                destination, datagram = transmit
                self.sent.append((address, destination, datagram))
                if self.rng.random() >= self.loss and not self.lose(address, destination, datagram):
                    delay = self.delay * (0.8 + 0.4 * self.rng.random())
                    self.inject(address, destination, datagram, delay)
            while (event := tunnel.poll_event()) is not None:
                self.events[address].append(event)

    def run(self, duration: float) -> None:
        """Let virtual time pass."""
        end = self.now + duration
        while True:
            self.collect()
            instants = [t.poll_timeout() for t in self.tunnels.values()]
            due = [instant for instant in instants if instant is not None]
            if self._queue:
                due.append(self._queue[0][0])
            at = min(due, default=None)
            if at is None or at > end:
                break
            self.now = max(self.now, at)
            for tunnel in self.tunnels.values():
                timeout = tunnel.poll_timeout()
                if timeout is not None and timeout <= self.now:
                    tunnel.handle_timeout(self.now)
            while self._queue and self._queue[0][0] <= self.now:
                _, _, source, destination, datagram = heapq.heappop(self._queue)
                self._deliver(source, destination, datagram)
        self.now = end

    def _deliver(self, source: str, destination: str, datagram: bytes) -> None:
        tunnel = self.tunnels.get(destination)
        if tunnel is None:
            return
        batch = memoryview(datagram)
        for _, packets in tunnel.receive(batch, max(1, len(batch)), source, self.now):
            self.received[destination] += [bytes(packet) for packet in packets]
