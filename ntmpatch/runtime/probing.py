"""Is a server there, and how far is it? Each asked by what it answers to anybody.

AS and DC shake hands with any key, so one made for the purpose shows that the holder of the
server's own key answers. An RS answers STUN, an NS takes a TCP connection. All from sockets of our
own, so that the node's tunnels notice nothing.
"""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, NamedTuple

import gevent
import gevent.event
from gevent import socket as cooperative

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import DropCounter
from ntmpatch.handover.nat import NatDiscovery
from ntmpatch.packet.tunnel.tunnel import Established, Tunnel
from ntmpatch.runtime.udp import UdpPort

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WAITS = (0.4, 0.8, 1.2)
"""Seconds for the answer to each of the handshakes that are begun with a server."""
CONNECT_TIMEOUT = 2.4


class Probe(NamedTuple):
    """What came of one."""

    answered: bool
    rtt: float | None = None
    """Seconds; None if nothing answered, or only to a repetition, which one is not known."""


def _port(is_ipv6: bool, on_batch: Callable[[memoryview, int, Endpoint], None]) -> UdpPort:
    bind = Endpoint("::" if is_ipv6 else "0.0.0.0", 0)
    nothing: Callable[[], None] = lambda: None  # noqa: E731 - for both
    return UdpPort(bind, on_batch=on_batch, on_idle=nothing, on_writable=nothing, gso=False)


def shake_hands(public_key: bytes, endpoint: Endpoint) -> Probe:
    """A handshake with a server, by a key that nobody knows; blocks the greenlet."""
    rng = random.Random(os.urandom(16))
    tunnel: Tunnel[Endpoint] = Tunnel(
        os.urandom(32), now=time.monotonic(), rng=rng, wall_clock=time.time
    )
    peer = tunnel.add_peer(public_key, endpoint=endpoint)
    answered = gevent.event.Event()

    def heard(buffer: memoryview, segment_size: int, source: Endpoint) -> None:
        tunnel.receive(buffer, segment_size, source, time.monotonic())
        while (event := tunnel.poll_event()) is not None:
            if isinstance(event, Established):
                answered.set()

    try:
        port = _port(endpoint.is_ipv6, heard)
    except OSError:
        return Probe(answered=False)
    try:
        began_at = time.monotonic()
        for attempt, seconds in enumerate(WAITS):
            peer.restart_handshake(time.monotonic())
            while (transmit := tunnel.poll_transmit()) is not None:
                port.send(transmit[1], len(transmit[1]), transmit[0])
            if answered.wait(seconds):
                return Probe(True, time.monotonic() - began_at if attempt == 0 else None)
        return Probe(answered=False)
    finally:
        port.close()


def ask_by_stun(servers: Sequence[Endpoint], *, is_ipv6: bool) -> dict[Endpoint, Probe]:
    """Which of the servers, all of one family, answer STUN; blocks the greenlet."""
    changed = gevent.event.Event()
    discovery = NatDiscovery(
        entropy=os.urandom, drops=DropCounter(), on_change=lambda _is_ipv6: None
    )

    def heard(buffer: memoryview, segment_size: int, source: Endpoint) -> None:
        for start in range(0, len(buffer), segment_size):
            datagram = buffer[start : start + segment_size]
            discovery.receive(datagram, source, time.monotonic())
        changed.set()

    try:
        port = _port(is_ipv6, heard)
    except OSError:
        return dict.fromkeys(servers, Probe(answered=False))
    try:
        discovery.look(None, servers, (port.local,), time.monotonic())
        while discovery.is_asking:
            discovery.handle_timeout(time.monotonic())
            while (transmit := discovery.poll_transmit()) is not None:
                port.send(transmit[1], len(transmit[1]), transmit[0])
            due_at = discovery.poll_timeout()
            if due_at is not None:
                changed.wait(max(0.0, due_at - time.monotonic()))
                changed.clear()
    finally:
        port.close()
    found = {seen.server: Probe(True, seen.rtt) for seen in discovery.seen(is_ipv6)}
    return {server: found.get(server, Probe(answered=False)) for server in servers}


def connect(endpoint: Endpoint) -> Probe:
    """Whether a TCP connection comes up; it is closed at once. Blocks the greenlet."""
    family = cooperative.AF_INET6 if endpoint.is_ipv6 else cooperative.AF_INET
    began_at = time.monotonic()
    try:
        sock = cooperative.socket(family, cooperative.SOCK_STREAM | cooperative.SOCK_CLOEXEC)
        with sock:
            sock.settimeout(CONNECT_TIMEOUT)
            sock.connect(tuple(endpoint))
            return Probe(True, time.monotonic() - began_at)
    except OSError:
        return Probe(answered=False)
