"""What a node tells of a peer, from the tunnel's creation to its end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ntmpatch.base.addresses import Endpoint
from ntmpatch.handover.networks import Change, Network
from ntmpatch.runtime.carrier import RelayedEndpoint
from ntmpatch.runtime.event_feed import EventFeed
from ntmpatch.runtime.peer_events import PeerEvents
from ntmpatch.wire.relay import data_header

KEY, SERVER = bytes(32), bytes([1]) * 32
DIRECT, ELSEWHERE = Endpoint("192.0.2.1", 4460), Endpoint("2001:db8::1", 4460)
RELAYED = RelayedEndpoint(Endpoint("192.0.2.9", 3473), data_header(77))


class Scene:
    """A feed, and a tunnel of one peer and one server as far as events look at it."""

    def __init__(self):
        self.feed = EventFeed()
        self.peer = SimpleNamespace(endpoint=DIRECT, current=object(), waiting_since=None)
        tunnel = SimpleNamespace(peers={KEY: self.peer, SERVER: self.peer})
        self.events = PeerEvents(self.feed, tunnel)
        self.events.met(KEY, "cam.home.example")
        self.number = 0

    def told(self):
        """What is new: kind, old, new, relayed; the names are checked."""
        told = self.feed.after(self.number, 0.0)
        self.number = told.number
        assert {event.fqdn for event in told.events} <= {"cam.home.example"}
        return [(event.kind, event.old, event.new, event.relayed) for event in told.events]


@pytest.fixture
def scene():
    return Scene()


def test_a_peer_is_told_of_from_its_tunnels_beginning_to_its_end(scene):
    scene.events.tunnel_ready(KEY, again=False)
    scene.events.tunnel_ready(KEY, again=False)  # its next session
    scene.events.tunnel_ready(SERVER, again=False)
    assert scene.told() == [("tunnel_ready", "", "192.0.2.1:4460", False)]
    scene.peer.endpoint = RELAYED
    scene.events.path_changed(KEY, abrupt=True)
    scene.events.path_changed(KEY, abrupt=True)  # two changes, but no other path in the end
    scene.events.path_changed(SERVER, abrupt=True)
    relay = "192.0.2.9:3473 (relay)"
    assert scene.told() == [("path_changed", "192.0.2.1:4460", relay, True)]
    scene.events.tunnel_ready(KEY, again=True)
    assert scene.told() == [("tunnel_ready", relay, relay, True)]
    scene.peer.endpoint = DIRECT
    scene.events.tunnel_ready(KEY, again=True)  # who only wants changes of paths is told, too
    assert scene.told() == [
        ("path_changed", relay, "192.0.2.1:4460", False),
        ("tunnel_ready", "192.0.2.1:4460", "192.0.2.1:4460", False),
    ]
    scene.events.gone(KEY)
    scene.events.gone(KEY)
    scene.events.gone(SERVER)
    assert scene.told() == [("peer_gone", "192.0.2.1:4460", "", False)]


def test_who_cannot_be_reached_is_told_once_and_again_when_it_is_heard(scene):
    scene.events.tunnel_ready(KEY, again=False)
    scene.told()
    scene.peer.waiting_since = 5.0
    scene.events.unreachable(KEY)
    scene.events.unreachable(KEY)
    scene.events.look()
    assert scene.told() == [("peer_unreachable", "192.0.2.1:4460", "", False)]
    scene.peer.endpoint, scene.peer.waiting_since = ELSEWHERE, None
    scene.events.look()
    scene.events.look()
    old, new = "192.0.2.1:4460", "[2001:db8::1]:4460"
    assert scene.told() == [
        ("path_changed", old, new, False),
        ("peer_reachable", new, new, False),
    ]
    scene.events.unreachable(KEY)
    scene.events.gone(KEY)
    scene.events.look()
    assert [kind for kind, *_ in scene.told()] == ["peer_unreachable", "peer_gone"]


def test_networks_are_told_by_the_addresses_that_lead_somewhere(scene):
    loopback = Network("127.0.0.1", 8, "lo", 1, has_default=False, metric=0)
    lan = Network("192.0.2.1", 24, "eth0", 2, has_default=True, metric=100)
    scene.events.networks_changed(Change((loopback, lan), (loopback,), interrupted=True))
    (event,) = scene.feed.after(0, 0.0).events
    assert (event.kind, event.old, event.new) == ("network_changed", "192.0.2.1", "none")
    assert event.reason == "interrupted"
