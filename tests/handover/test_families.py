"""Moves between networks of IPv4 and of IPv6: the peer is known in both, or its relay is."""

from __future__ import annotations

import pytest
from path_net import INTERVAL, RELAY, Echo, Node, PathNet, Relayed

from ntmpatch.base.addresses import Endpoint

A4, A6 = Endpoint("198.51.100.1", 5000), Endpoint("2001:db8:a::1", 5000)
RELAY6 = Endpoint("2001:db8:9::9", RELAY.port)
B4, B6 = Endpoint("198.51.100.2", 5000), Endpoint("2001:db8:b::2", 5000)


def _pair(net: PathNet, *, relayed: bool = False) -> tuple[Node, Node]:
    """A has IPv4 only, B both; A was told of all of B's endpoints while it could not use them."""
    a, b = net.node("a", A4.host), net.node("b", B4.host)
    b.others[True] = B6
    relay = [Relayed(RELAY)] if relayed else []
    net.run(0.1)
    a.meet(b, [*relay, B4], initiate=True, endpoints=[B4, B6])
    b.meet(a, [*relay, A4], initiate=False, endpoints=[A4])
    return a, b


def test_a_move_to_the_other_family_is_felt_for_a_round_trip() -> None:
    net = PathNet(11)
    a, b = _pair(net)
    echo = Echo(net, a, b)
    net.run(2.0)
    assert (a.path_to(b), b.path_to(a)) == (B4, A4)
    for here, there in ((A6, B6), (A4, B4), (A6, B6)):
        moved_at = net.now
        a.move(here, None)
        net.run(2.0)
        assert echo.gap_after(moved_at) <= 2 * net.delay + INTERVAL + 1e-6
        assert (a.path_to(b), b.path_to(a)) == (there, here)
        assert b.tunnel.peers[a.tunnel.public_key].budget is None, "not proven"


@pytest.mark.parametrize("kept", [A4, A6])
def test_the_loss_of_one_of_two_families_is_felt_for_a_round_trip(kept: Endpoint) -> None:
    net = PathNet(12)
    a, b = _pair(net)
    echo = Echo(net, a, b)
    a.others[True] = A6
    a.paths.ends_changed(net.now)
    net.run(2.0)
    a.others.clear()
    moved_at = net.now
    a.move(kept, None)
    net.run(2.0)
    assert echo.gap_after(moved_at) <= 2 * net.delay + INTERVAL + 1e-6
    assert b.path_to(a) == kept


def test_who_was_reached_through_a_relay_is_reached_so_until_a_direct_path_is_proven() -> None:
    """B's firewall lets nothing in: not even in the other family."""
    net = PathNet(13)
    net.blocked = lambda _source, _destination: True
    a, b = _pair(net, relayed=True)
    echo = Echo(net, a, b)
    net.run(4.0)
    assert a.path_to(b) == Relayed(RELAY)
    echo.on = False
    net.run(1.0)  # nothing under way from B may show A the path
    a.endpoint = A6
    net.bind(a)
    net.run(net.delay)  # the bind frame goes before the data
    moved_at = net.now
    echo = Echo(net, a, b)
    a.relay, b.relay = RELAY6, RELAY
    a.paths.watch(a.tunnel.peers[b.tunnel.public_key], [Relayed(RELAY6)], net.now)
    a.move(A6, None)
    net.run(2.0)
    assert echo.gap_after(moved_at) <= 2 * (net.delay + net.relay_delay) + INTERVAL + 1e-6
    assert (a.path_to(b), b.path_to(a)) == (Relayed(RELAY6), Relayed(RELAY))
    net.blocked = lambda _source, _destination: False
    net.run(25.0)
    assert (a.path_to(b), b.path_to(a)) == (B6, A6)
