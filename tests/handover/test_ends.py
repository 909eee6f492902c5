"""Several ends: other networks than the preferred one, candidates told in the tunnel, guesses."""

from __future__ import annotations

import pytest
from path_net import Echo, Nat, Node, PathNet, Relayed, Through, pair

from ntmpatch.base.addresses import Endpoint
from ntmpatch.handover.guessing import PORTS
from ntmpatch.wire.paths import Candidate, CandidateKind

OTHER = Endpoint("192.0.2.77", 6000)


def _two_networks(net: PathNet, *, cost: int = 1, keeps_warm: bool = False) -> tuple[Node, Node]:
    """A has a second network; both know each other's addresses, and talk by the first."""
    a = net.node("a", "198.51.100.1", keeps_warm=keeps_warm)
    b = net.node("b", "198.51.100.2")
    a.ends["second"] = OTHER, None
    a.costs["second"] = cost
    a.paths.reachable_at(
        [
            Candidate(CandidateKind.MAPPED, a.endpoint),
            Candidate(CandidateKind.MAPPED, OTHER, cost),
        ],
        net.now,
    )
    a.meet(b, [b.endpoint], initiate=True, endpoints=[b.endpoint])
    b.meet(a, [a.endpoint], initiate=False)
    return a, b


def _die(net: PathNet, host: str) -> None:
    """Nothing gets there, or from there, and nobody is told."""
    net.blocked = lambda source, destination: host in (source.host, destination.host)


@pytest.mark.parametrize("keeps_warm", [False, True])
def test_when_the_preferred_network_dies_in_silence_another_one_carries(
    *, keeps_warm: bool
) -> None:
    net = PathNet(3)
    a, b = _two_networks(net, keeps_warm=keeps_warm)
    echo = Echo(net, a, b)
    net.run(2.0)
    assert a.path_to(b) == b.endpoint
    died_at = net.now
    _die(net, a.endpoint.host)
    net.run(2.0)
    round_trip = 2 * net.delay
    # Suspicion, a challenge of all, the grace of the one that was used, and an echo.
    assert echo.gap_after(died_at) <= (2.5 + 1.25 + 1 + 0.5) * round_trip + 0.02
    assert a.path_to(b) == Through("second", b.endpoint)
    assert b.path_to(a) == OTHER
    net.blocked = lambda _source, _destination: False
    net.run(25.0)
    assert (a.path_to(b), b.path_to(a)) == (b.endpoint, a.endpoint), "returned to what is preferred"
    assert len(a.changes) == len(b.changes) == 2


def test_a_metered_network_is_used_for_nothing_while_there_is_another_way() -> None:
    net = PathNet(4)
    a, b = _two_networks(net, cost=2, keeps_warm=True)
    Echo(net, a, b)
    net.run(30.0)
    assert b.sent_to.get(OTHER, 0) == 0
    _die(net, a.endpoint.host)
    net.run(2.0)
    assert b.path_to(a) == OTHER


def test_the_peer_heeds_what_a_network_costs_the_other_end() -> None:
    """The second network is much faster, and B is the one to choose: A pays for it, though."""
    for seed in range(2):
        net = PathNet(seed, delay=0.05)
        a, b = _two_networks(net, cost=2, keeps_warm=True)
        Echo(net, a, b)
        net.run(2.0)
        net.shorter = lambda source, destination: OTHER in (source, destination)
        net.run(40.0)
        assert b.path_to(a) == a.endpoint
        assert not a.changes


def test_a_network_that_is_closed_is_left_for_the_best_of_the_others() -> None:
    net = PathNet(5)
    a, b = _two_networks(net)
    echo = Echo(net, a, b)
    net.run(1.0)
    _die(net, a.endpoint.host)
    net.run(1.0)
    net.blocked = lambda _source, _destination: False
    del a.ends["second"]
    closed_at = net.now
    a.paths.closed(lambda path: isinstance(path, Through), net.now)
    net.run(1.0)
    assert a.path_to(b) == b.endpoint
    assert echo.gap_after(closed_at) <= 2 * net.delay + 0.02


@pytest.mark.parametrize("seed", range(6))
def test_a_move_to_another_family_is_felt_for_a_round_trip(seed: int) -> None:
    """B has addresses of both; A knew the other one, and could not use it where it was."""
    net = PathNet(seed)
    a, b = net.node("a", "198.51.100.1"), net.node("b", "198.51.100.2")
    other = Endpoint("2001:db8::2", 5000)
    b.ends["other"] = other, None
    a.meet(b, [b.endpoint], initiate=True, endpoints=[b.endpoint, other])
    b.meet(a, [a.endpoint], initiate=False)
    echo = Echo(net, a, b)
    net.run(2.0)
    moved_at = net.now
    a.move(Endpoint("2001:db8::77", 5000), None)
    net.run(2.0)
    assert echo.gap_after(moved_at) <= 2 * net.delay + 0.02
    assert (a.path_to(b), b.path_to(a)) == (other, Through("other", a.endpoint))


def test_who_hears_a_peer_elsewhere_asks_whether_its_own_path_works() -> None:
    """What A sends by the second network arrives, so B's own path looks answered, and is dead."""
    for seed in range(6):
        net = PathNet(seed)
        a, b = _two_networks(net, keeps_warm=True)
        echo = Echo(net, a, b)
        net.run(2.0)
        net.blocked = lambda _source, destination: destination.host == "198.51.100.1"
        net.run(3.0)
        assert b.path_to(a) == OTHER
        recent = [n for n, at in echo.echoed_at.items() if at > net.now - 1.0]
        assert len(recent) > 80, "echoes come again"


def test_candidates_are_told_until_they_are_answered_and_open_nats() -> None:
    """Directed to each other by a relay alone: what each is seen as they tell themselves."""
    net = PathNet(6)
    a, b = pair(net, Nat("198.51.100.1"), Nat("198.51.100.2"), relayed=True, told=False)
    for node in (a, b):
        node.paths.reachable_at([Candidate(CandidateKind.MAPPED, node.seen)], net.now)
    Echo(net, a, b)
    net.loss = 0.3
    net.run(8.0)
    assert not isinstance(a.path_to(b), Relayed)
    assert not isinstance(b.path_to(a), Relayed)


@pytest.mark.parametrize("hard", ["a", "b"])
@pytest.mark.parametrize("seed", range(5))
def test_the_ports_of_a_symmetric_nat_are_guessed(hard: str, seed: int) -> None:
    net = PathNet(seed)
    nats = {name: Nat(f"198.51.100.{number}") for number, name in enumerate("ab", 1)}
    nats[hard].hard = nats[hard].at_random = True
    a, b = pair(net, nats["a"], nats["b"], relayed=True)
    for node, nat in ((a, nats["a"]), (b, nats["b"])):
        kind = CandidateKind.SYMMETRIC if nat.hard else CandidateKind.MAPPED
        node.paths.reachable_at([Candidate(kind, node.seen)], net.now)
    Echo(net, a, b)
    net.run(1.0)
    assert isinstance(a.path_to(b), Relayed)
    met = net.run(
        20.0, until=lambda: not any(isinstance(n.path_to(o), Relayed) for n, o in ((a, b), (b, a)))
    )
    assert met
    net.run(15.0)
    assert not any(isinstance(n.path_to(o), Relayed) for n, o in ((a, b), (b, a)))
    hard_node = a if hard == "a" else b
    assert len(hard_node.ends) < 4, "ports that are of no use are closed"


def test_two_symmetric_nats_are_left_alone() -> None:
    net = PathNet(7)
    a, b = pair(net, Nat("198.51.100.1", hard=True), Nat("198.51.100.2", hard=True), relayed=True)
    for node in (a, b):
        node.paths.reachable_at([Candidate(CandidateKind.SYMMETRIC, node.seen)], net.now)
    Echo(net, a, b)
    net.run(20.0)
    assert not a.ends
    assert not b.ends
    assert isinstance(a.path_to(b), Relayed)
    assert len(a.sent_to) < PORTS
