"""A station whose network of one family is silent: its servers are tried in the other one."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from ntmpatch.base.addresses import Endpoint
from ntmpatch.runtime.station import Station
from ntmpatch.runtime.trace import TraceWriter
from ntmpatch.signalling.effects import Contact, RelayRoute
from ntmpatch.signalling.party import Party

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ntmpatch.signalling.effects import Effect

IPV4, IPV6 = Endpoint("127.0.0.1", 9), Endpoint("::1", 9)
SERVER, PEER = bytes([7]) * 32, bytes([9]) * 32


@pytest.fixture
def station() -> Iterator[Station]:
    made = Station(
        os.urandom(32),
        lambda key: Party(
            key, name="", now=time.monotonic(), rng=random.Random(1), wall_clock=time.time
        ),
        admit=None,
        trace=TraceWriter(),
        on_effect=lambda *_: None,
    )
    made.carrier.bind([Endpoint("127.0.0.1", 0)])
    carry_out(made, Contact(SERVER, (IPV4, IPV6), initiate=True, role="dc"))
    yield made
    made.close()


def carry_out(station: Station, effect: Effect) -> None:
    station.party.emit(effect)
    station.carrier.wake()


def test_silent_servers_are_tried_in_the_other_family(station: Station) -> None:
    peers = station.tunnel.peers
    assert peers[SERVER].endpoint == IPV4
    assert not station.turn_from_silent_servers(), "there is no port of it"
    station.carrier.bind([Endpoint("127.0.0.1", 0), Endpoint("::1", 0)])
    station.change_families()
    assert peers[SERVER].endpoint == IPV4
    assert station.turn_from_silent_servers()
    assert peers[SERVER].endpoint == IPV6
    assert station.turn_from_silent_servers()
    assert peers[SERVER].endpoint == IPV4


def test_a_relay_is_reached_in_the_family_that_the_coordinator_is(station: Station) -> None:
    station.carrier.bind([Endpoint("127.0.0.1", 0), Endpoint("::1", 0)])
    for session in (1, 2):
        route = RelayRoute(bytes(32), (IPV4, IPV6), session, 0, bytes(32))
        carry_out(station, Contact(PEER, relay=route))
        relayed = station.tunnel.peers[PEER].endpoint
        assert getattr(relayed, "relay", None) == station.tunnel.peers[SERVER].endpoint
        station.tunnel.peers[PEER].endpoint = None
        station.turn_from_silent_servers()


def test_a_session_goes_on_by_its_relays_other_address_whatever_was_directed_since(
    station: Station,
) -> None:
    route = RelayRoute(bytes(32), (IPV4, IPV6), 1, 0, bytes(32))
    carry_out(station, Contact(PEER, relay=route))
    carry_out(station, Contact(PEER, (IPV4,)))
    station.carrier.bind([Endpoint("::1", 0)])
    station.change_families()
    path = station.relays.path(PEER)
    assert path is not None
    assert path.relay == IPV6


def test_what_the_kernel_merges_of_a_relay_servers_port_is_taken_apart(station: Station) -> None:
    """UDP_GRO: datagrams of one flow and one size, and a smaller one behind them."""
    seen: list[bytes] = []

    def claim(buffer: memoryview, segment_size: int, _source: Endpoint) -> bool:
        starts = range(0, len(buffer), segment_size)
        assert len({buffer[at] for at in starts}) == 1, "of one kind"
        seen.extend(bytes(buffer[at : at + segment_size]) for at in starts)
        return True

    station.carrier._on_datagram = claim
    frame, small = b"\xc1" + bytes(200), b"\xc1" + bytes(31)
    stun = b"\x01\x01" + bytes(30)
    for batch, size in (([frame, frame, stun], 201), ([stun, small, stun], 32), ([frame] * 3, 201)):
        seen.clear()
        station.carrier._batch(memoryview(b"".join(batch)), size, IPV4)
        assert seen == batch
