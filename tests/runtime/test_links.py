"""The notification service's connection on real sockets: made again, replaced, limited, probed."""

from __future__ import annotations

import os
import random
import socket
import time
from typing import TYPE_CHECKING, Any

import gevent
import pytest

from ntmpatch.base.addresses import Endpoint
from ntmpatch.runtime import links, streams
from ntmpatch.runtime.links import NotificationLinks
from ntmpatch.runtime.station import Station
from ntmpatch.runtime.streams import TunnelStream
from ntmpatch.runtime.trace import TraceWriter
from ntmpatch.signalling.effects import CheckConnection, Contact, Forget, KeepAlive, Reconnect
from ntmpatch.signalling.party import Party
from ntmpatch.signalling.process import ask
from ntmpatch.wire.control_messages import Ack
from ntmpatch.wire.control_registration import Deregistration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ntmpatch.signalling.effects import Effect

HOST = "127.0.0.1"


class Talker(Party):
    """Acknowledges; remembers who was disconnected."""

    role = "talker"
    provisional_limit = 8

    def __init__(self, public_key: bytes, **settings: Any) -> None:
        super().__init__(public_key, **settings)
        self.disconnections: list[bytes] = []
        self.on(Deregistration, lambda _, __: Ack())

    def disconnected(self, peer: bytes, _now: float) -> None:
        self.disconnections.append(peer)


class End:
    """A station with a talker, on loopback."""

    def __init__(self) -> None:
        self.failures: list[bytes] = []
        self.station = Station(
            os.urandom(32),
            lambda key: Talker(
                key,
                name="",
                now=time.monotonic(),
                rng=random.Random(1),
                wall_clock=time.time,
            ),
            admit=lambda key: self.talker.admit(key, time.monotonic()),
            trace=TraceWriter(),
            on_effect=lambda *_: None,
            on_link_failed=lambda key, _: self.failures.append(key),
        )
        self.talker: Any = self.station.party
        self.station.carrier.bind([Endpoint(HOST, 0)])

    def emit(self, effect: Effect) -> None:
        self.talker.emit(effect)
        self.station.carrier.wake()

    def hears(self, other: End) -> bool:
        """Whether ``other`` answers."""
        answers: list[object] = []
        self.talker.start(
            ask(other.talker.public_key, Deregistration(), Ack),
            lambda answer, _: answers.append(answer),
        )
        self.station.carrier.wake()
        wait_for(lambda: bool(answers))
        return answers == [Ack()]

    def stream_to(self, other: End) -> TunnelStream:
        stream = self.station.tunnel.peers[other.talker.public_key].endpoint
        assert isinstance(stream, TunnelStream)
        return stream


class Server(End):
    """The far end, with a port."""

    def __init__(self, **limits: int) -> None:
        super().__init__()
        limits = {"limit": 100, "limit_per_host": 100, **limits}
        self.links = NotificationLinks(Endpoint(HOST, 0), self.station, **limits)

    @property
    def count(self) -> int:
        return len(self.links._listener)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        gevent.sleep(0.005)
    raise AssertionError("it did not happen")


@pytest.fixture
def node() -> Iterator[End]:
    end = End()
    yield end
    end.station.close()


@pytest.fixture
def server() -> Iterator[Server]:
    end = Server()
    yield end
    end.links.close()
    end.station.close()


def link(node: End, server: Server, *before: Endpoint) -> Contact:
    contact = Contact(
        server.talker.public_key, (*before, server.links.local), initiate=True, connection=True
    )
    node.emit(contact)
    assert node.hears(server)
    server.talker.admission.confirm(node.talker.public_key)
    return contact


def test_a_connection_that_is_made_again_replaces_the_one_before(node: End, server: Server) -> None:
    link(node, server)
    key = node.talker.public_key
    for _ in range(3):
        old = server.stream_to(node)
        assert old.peer_key == key
        # The far end is not told of the end: as if the network had changed.
        half_open = node.stream_to(server)
        node.station._links[server.talker.public_key]._stream = None
        node.emit(Reconnect(server.talker.public_key))
        wait_for(lambda old=old: old.closed)
        wait_for(lambda half_open=half_open: half_open.closed)
        assert server.count == 1
        assert not server.stream_to(node).closed
        assert server.hears(node)
        assert node.hears(server)
    assert server.talker.disconnections == []
    assert node.failures == []


def test_a_connection_that_breaks_is_made_again_and_told_of_at_both_ends(
    node: End, server: Server
) -> None:
    link(node, server)
    key = node.talker.public_key
    server.stream_to(node).close()
    assert server.talker.disconnections == [key]
    wait_for(lambda: node.failures == [server.talker.public_key])
    wait_for(lambda: server.count == 1 and not server.stream_to(node).closed)
    assert server.hears(node)
    server.emit(Forget(key))  # its service is over: so is its connection
    wait_for(lambda: len(node.failures) == 2)
    node.emit(Forget(server.talker.public_key))
    wait_for(lambda: server.count == 0)


def test_of_an_ns_with_several_endpoints_any_will_do_and_a_mute_one_is_left(
    node: End, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "CONNECT_TIMEOUT", 0.2)
    monkeypatch.setattr(links, "FIRST_RETRY_INTERVAL", 0.05)
    with socket.create_server((HOST, 0)) as mute, socket.socket() as closed:
        closed.bind((HOST, 0))
        link(
            node,
            server,
            Endpoint(*mute.getsockname()),
            Endpoint(*closed.getsockname()),
            Endpoint("::1", 9),  # of a family that the node has no port for
        )
    assert len(node.failures) == 2


def test_strangers_go_after_a_while_and_are_few(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STRANGER_TIMEOUT", 0.1)
    few = Server(limit_per_host=3)
    place = (few.links.local.host, few.links.local.port)
    strangers = [socket.create_connection(place) for _ in range(5)]
    wait_for(lambda: few.count == 3 and few.links._listener.refused == 2)
    strangers[0].sendall(b"\x00\x04what")
    wait_for(lambda: few.count == 0)
    assert few.links._listener._sweeper is None
    for stranger in strangers:
        stranger.close()
    few.links.close()
    few.station.close()
    assert server.count == 0


@pytest.mark.once
def test_probes_of_the_far_ends_kernel_are_counted(node: End, server: Server) -> None:
    link(node, server)
    server.emit(KeepAlive(node.talker.public_key, 1.0))
    counts: list[int | None] = []

    def look() -> int | None:
        node.emit(CheckConnection(server.talker.public_key, lambda n, _: counts.append(n)))
        return counts[-1]

    first = look()
    assert first is not None
    gevent.sleep(0.5)
    settled = look()
    wait_for(lambda: look() != settled)
    assert node.stream_to(server).segments_received() == counts[-1]
    node.stream_to(server).close()
    assert look() is None
