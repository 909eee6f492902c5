"""Hysteresis: what bounds how often the path in use changes, whatever the network does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from path_net import RELAY, Echo, Nat, Node, Path, PathNet, Relayed, Through, pair

from ntmpatch.base.addresses import Endpoint
from ntmpatch.handover.pace import MAX_WAYS

if TYPE_CHECKING:
    from ntmpatch.handover.ways import PeerPaths


def test_a_path_that_fails_again_and_again_is_returned_to_less_and_less_often() -> None:
    net = PathNet(1)
    a, b = pair(net, Nat("198.51.100.1"), Nat("198.51.100.2"), relayed=True)
    Echo(net, a, b)
    assert net.run(3.0, lambda: a.path_to(b) == b.seen and b.path_to(a) == a.seen)
    a.changes.clear()
    b.changes.clear()
    for failure in range(6):
        net.blocked = lambda source, destination: RELAY not in (source, destination)
        net.run(0.4)
        assert a.path_to(b) == b.path_to(a) == Relayed(RELAY)
        net.blocked = lambda _source, _destination: False
        net.run(2.0)
        if failure == 0:
            assert a.path_to(b) == b.seen, "after the first failure it is returned to at once"
    # Left, returned to, left, and returned to once more 10 s later.
    assert len(a.changes) <= 5
    assert len(b.changes) <= 5


@pytest.mark.parametrize("has_just_changed", [True, False])
def test_a_word_that_crossed_ours_moves_nobody_to_the_worse_path(has_just_changed: bool) -> None:
    net = PathNet(3)
    a, b = pair(net, relayed=True)
    assert net.run(3.0, lambda: a.path_to(b) == b.endpoint and b.path_to(a) == a.endpoint)
    net.run(1.0)
    ours = a.paths.of(b.tunnel.public_key)
    theirs = b.paths.of(a.tunnel.public_key)
    assert ours is not None
    assert theirs is not None
    # B took the direct path for dead, in the instant in which A changed to it or long after.
    b.paths._prober.challenge(theirs, theirs.ways[Relayed(RELAY)], net.now, used=True)
    net.run(net.delay)
    ours.changed_at = net.now if has_just_changed else net.now - 1.0
    net.run(0.1)
    assert (a.path_to(b) == b.endpoint) is has_just_changed


def _two_networks(net: PathNet) -> tuple[Node, Node, PeerPaths[Path], PeerPaths[Path]]:
    """A has a second network, by which a path is proven beforehand."""
    a = net.node("a", "198.51.100.1", keeps_warm=True)
    b = net.node("b", "198.51.100.2")
    a.ends["wifi"] = (Endpoint("203.0.113.7", 6000), None)
    a.meet(b, [b.endpoint], initiate=True, endpoints=[b.endpoint])
    b.meet(a, [a.endpoint], initiate=False)
    Echo(net, a, b)
    net.run(2.0)
    ours = a.paths.of(b.tunnel.public_key)
    theirs = b.paths.of(a.tunnel.public_key)
    assert ours is not None
    assert theirs is not None
    assert a.path_to(b) == b.endpoint
    assert ours.ways[Through("wifi", b.endpoint)].proven
    a.changes.clear()
    b.changes.clear()
    return a, b, ours, theirs


def test_data_under_way_at_a_change_does_not_call_back() -> None:
    net = PathNet(5)
    a, b, ours, _ = _two_networks(net)
    # Everything of A is to go by the other network: where it sent by is stale at once.
    ours.ways[b.endpoint].proven = False
    a.paths._use(ours, ours.ways[Through("wifi", b.endpoint)], net.now, abrupt=True)
    net.run(3.0)
    assert a.path_to(b) == Through("wifi", b.endpoint)
    assert b.path_to(a) == a.ends["wifi"][0]
    assert len(a.changes) == len(b.changes) == 1


@pytest.mark.parametrize("is_dead", [True, False])
def test_a_node_called_to_its_costlier_network_learns_whether_the_other_one_works(
    is_dead: bool,
) -> None:
    net = PathNet(6)
    a, b, _, theirs = _two_networks(net)
    if is_dead:
        net.blocked = lambda source, destination: a.endpoint in (source, destination)
    b.paths._prober.challenge(theirs, theirs.ways[a.ends["wifi"][0]], net.now, used=True)
    net.run(1.0)
    assert a.path_to(b) == Through("wifi", b.endpoint)
    assert (b.endpoint in a.lost) is is_dead
    assert a.paths.works(lambda path: path == b.endpoint) is not is_dead


def test_a_place_that_was_followed_to_in_vain_and_answers_by_now_is_followed_to() -> None:
    """Who is there is heard all the time, so that the path in use is not suspected."""
    net = PathNet(7)
    a, b, _, theirs = _two_networks(net)
    elsewhere = a.ends["wifi"][0]
    theirs.ways[elsewhere].banned_until = net.now + 5.0
    b.paths._prober.challenge(theirs, theirs.ways[elsewhere], net.now)
    net.run(0.1)
    net.blocked = lambda _source, destination: destination == a.endpoint
    assert net.run(1.0, lambda: a.path_to(b) == Through("wifi", b.endpoint))
    assert net.run(1.0, lambda: b.path_to(a) == elsewhere)


def test_a_peer_is_followed_though_as_many_paths_as_are_kept_in_mind_work() -> None:
    net = PathNet(8)
    a, b = pair(net, relayed=True)
    Echo(net, a, b)
    net.run(1.0)
    theirs = b.paths.of(a.tunnel.public_key)
    assert theirs is not None
    for port in range(30_000, 30_000 + MAX_WAYS):
        way = b.paths._prober.add(theirs, Endpoint("198.51.100.1", port))
        if way is not None:
            way.proven = True
    assert len(theirs.ways) == MAX_WAYS
    moved_at = net.now
    a.move(Endpoint("203.0.113.7", 5000), None)
    assert net.run(0.2, lambda: b.path_to(a) == a.endpoint)
    assert net.now - moved_at < 3 * net.delay
    assert len(theirs.ways) == MAX_WAYS
    assert Relayed(RELAY) in theirs.ways
