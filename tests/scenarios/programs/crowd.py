"""Many nodes in one process that have tunnels directed among each other, at a rate, for ever.

    crowd.py RATE < TOKENS

Each node is the real negotiation over the real tunnel; only the stack is left out. A line of JSON
on standard output tells of each set-up how it ended and how long it took. Ends when input ends.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from typing import Any

import gevent
import gevent.event

from ntmpatch.base.addresses import Endpoint
from ntmpatch.crypto.token import Token, parse_token
from ntmpatch.negotiation.node import NodeNegotiation
from ntmpatch.packet.tunnel.tunnel import Established, Expired, TunnelEvent
from ntmpatch.runtime.station import Station
from ntmpatch.runtime.trace import TraceWriter
from ntmpatch.signalling.effects import Effect, Ready, Resolved, Unresolved

HOST = "127.0.0.1"
LOOKUP_TIMEOUT = 12.0


class CrowdNode:
    """One node without a stack."""

    def __init__(self, token: Token) -> None:
        self.fqdn = token.fqdn
        self.ready = gevent.event.Event()
        self._token = token
        self._answers: dict[int, gevent.event.AsyncResult[str]] = {}
        self.station = Station(
            os.urandom(32),
            self._make,
            admit=None,
            trace=TraceWriter(),
            on_effect=self._effect,
            on_event=self._event,
        )
        self.station.carrier.bind([Endpoint(HOST, 0)])
        self.negotiation.begin(self.station.carrier.local_endpoints, time.monotonic())
        self.station.carrier.wake()

    def _make(self, public_key: bytes) -> NodeNegotiation:
        self.negotiation = NodeNegotiation(
            public_key,
            token=self._token,
            state=None,
            now=time.monotonic(),
            rng=random.Random(os.urandom(16)),
            wall_clock=time.time,
        )
        return self.negotiation

    def _event(self, event: TunnelEvent, now: float) -> None:
        if isinstance(event, Established):
            self.negotiation.tunnel_established(event.peer.public_key, now)
        elif isinstance(event, Expired):
            self.negotiation.tunnel_expired(event.peer.public_key, now)

    def _effect(self, effect: Effect, _now: float) -> None:
        match effect:
            case Ready():
                self.ready.set()
            case Resolved():
                self._end(effect.request_id, "up")
            case Unresolved():
                self._end(effect.request_id, type(effect.error).__name__)
            case _:
                pass

    def _end(self, request_id: int, outcome: str) -> None:
        answer = self._answers.pop(request_id, None)
        if answer is not None:
            answer.set(outcome)

    def look_up(self, other: CrowdNode) -> str:
        """Have a tunnel directed and wait for it: how that ended."""
        request_id = self.negotiation.resolve(other.fqdn, time.monotonic())
        answer = self._answers[request_id] = gevent.event.AsyncResult()
        self.station.carrier.wake()
        try:
            outcome = answer.get(timeout=LOOKUP_TIMEOUT)
        except gevent.Timeout:
            return "never answered"
        assert outcome is not None
        return outcome

    def part(self, other: CrowdNode) -> None:
        """Forget the tunnel, so that the next one is a new one."""
        peer = self.negotiation.peers.of_key(other.negotiation.public_key)
        if peer is not None:
            self.negotiation.drop(peer)
            self.station.carrier.wake()


def set_up(calling: CrowdNode, called: CrowdNode, free: list[CrowdNode]) -> None:
    """One tunnel, from the look-up to its end."""
    began_at = time.monotonic()
    outcome = calling.look_up(called)
    record = {"at": began_at, "took": time.monotonic() - began_at, "outcome": outcome}
    print(json.dumps(record), flush=True)
    for one, other in ((calling, called), (called, calling)):
        one.part(other)
        free.append(one)


def main() -> None:
    """Make the nodes, tell when all are registered, and begin."""
    rate = float(sys.argv[1])
    tokens = [parse_token(line) for line in iter(sys.stdin.readline, "\n")]
    nodes = [CrowdNode(token) for token in tokens]
    gevent.wait([node.ready for node in nodes])
    print(json.dumps({"ready": len(nodes)}), flush=True)
    free = list(nodes)
    rng = random.Random(len(nodes))
    parent: Any = gevent.get_hub().loop.io(sys.stdin.fileno(), 1)
    ended = gevent.event.Event()
    parent.start(ended.set)
    while not ended.wait(timeout=1.0 / rate):
        if len(free) >= 2:
            calling = free.pop(rng.randrange(len(free)))
            called = free.pop(rng.randrange(len(free)))
            gevent.spawn(set_up, calling, called, free)
    for node in nodes:
        node.station.close()


if __name__ == "__main__":
    main()
