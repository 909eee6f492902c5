"""Paths: how long a move is felt, which NATs let a direct path through, and who can divert one."""

from __future__ import annotations

import itertools

import pytest
from path_net import INTERVAL, RELAY, Echo, Nat, Node, PathNet, Relayed, pair

from ntmpatch.base.addresses import Endpoint
from ntmpatch.wire.paths import PADDED_SIZE


def current(node: Node, other: Node) -> object:
    return node.path_to(other)


def test_a_hard_switch_is_felt_for_a_round_trip() -> None:
    net = PathNet(1)
    a, b = pair(net, relayed=False)
    echo = Echo(net, a, b)
    net.run(2.0)
    for host in ("198.51.100.77", "192.0.2.5", "198.51.100.78"):
        moved_at = net.now
        a.move(Endpoint(host, 5000), None)
        net.run(2.0)
        assert echo.gap_after(moved_at) <= 2 * net.delay + INTERVAL + 1e-6
        assert current(b, a) == a.endpoint
        assert b.tunnel.peers[a.tunnel.public_key].budget is None, "not proven"
    # Nothing but what was under way while A moved is lost.
    lost = set(echo.sent_at) - set(echo.echoed_at)
    assert len([n for n in lost if n < len(echo.sent_at) - 10]) <= 3 * 6


def test_the_other_end_of_a_hard_switch_may_send_most() -> None:
    net = PathNet(2)
    a, b = pair(net, relayed=False)
    echo = Echo(net, b, a)  # the node that stays is the one that asks
    net.run(2.0)
    moved_at = net.now
    a.move(Endpoint("198.51.100.77", 5000), None)
    net.run(2.0)
    assert echo.gap_after(moved_at) <= 3 * net.delay + 2 * INTERVAL


@pytest.mark.parametrize("who", ["a", "b"])
def test_the_silent_death_of_a_direct_path_is_left_for_the_relay(who: str) -> None:
    net = PathNet(3)
    a, b = pair(net, Nat("198.51.100.1"), Nat("198.51.100.2"), relayed=True)
    echo = Echo(net, a, b) if who == "a" else Echo(net, b, a)
    assert net.run(3.0, lambda: current(a, b) == b.seen and current(b, a) == a.seen)
    net.run(2.0)
    died_at = net.now
    net.blocked = lambda source, destination: RELAY not in (source, destination)
    net.run(3.0)
    assert current(a, b) == current(b, a) == Relayed(RELAY)
    relayed_rtt = 2 * (2 * net.delay + net.relay_delay)
    assert echo.gap_after(died_at) < 4 * 2 * net.delay + relayed_rtt + 0.05
    net.blocked = lambda _source, _destination: False
    a.paths.network_changed(net.now)  # whatever makes a node look again
    assert net.run(3.0, lambda: current(a, b) == b.seen and current(b, a) == a.seen)


KINDS = {
    "open": None,
    "full": ("none", False),
    "address": ("address", False),
    "port": ("port", False),
    "hard": ("port", True),
}


@pytest.mark.parametrize(("kind_a", "kind_b"), list(itertools.product(KINDS, KINDS)))
def test_direct_paths_through_nats(kind_a: str, kind_b: str) -> None:
    """RFC 4787: all but a hard NAT in front of one that filters by port, or of another hard one."""

    def nat(kind: str, host: str) -> Nat | None:
        made = KINDS[kind]
        return None if made is None else Nat(host, filtering=made[0], hard=made[1])

    net = PathNet(4)
    nat_a, nat_b = nat(kind_a, "198.51.100.1"), nat(kind_b, "198.51.100.2")
    a, b = pair(net, nat_a, nat_b, relayed=True)
    echo = Echo(net, a, b)
    net.run(6.0)
    echo.on = False
    net.run(0.5)
    impossible = {kind_a, kind_b} in ({"hard", "port"}, {"hard"})
    assert isinstance(current(a, b), Relayed) == impossible
    assert isinstance(current(b, a), Relayed) == impossible
    assert set(echo.echoed_at) == set(echo.sent_at), "moving from relay to direct loses nothing"
    assert not a.unreachable
    assert not b.unreachable


def test_a_nat_that_forgets_is_followed_at_once() -> None:
    net = PathNet(5)
    nat = Nat("198.51.100.1")
    a, b = pair(net, nat, relayed=False)
    echo = Echo(net, a, b)
    net.run(2.0)
    forgot_at = net.now
    nat.forget()
    net.run(1.0)
    assert echo.gap_after(forgot_at) <= 2 * net.delay + 2 * INTERVAL
    assert b.tunnel.peers[a.tunnel.public_key].budget is None


def test_both_move_at_once_and_meet_at_the_relay() -> None:
    net = PathNet(6)
    a, b = pair(net, Nat("198.51.100.1"), Nat("198.51.100.2"), relayed=True)
    echo = Echo(net, a, b)
    net.run(4.0)
    moved_at = net.now
    a.move(Endpoint("10.0.3.2", 5000), Nat("192.0.2.1"))
    b.move(Endpoint("10.0.4.2", 5000), Nat("192.0.2.2"))
    net.run(2.0)
    assert echo.gap_after(moved_at) < 0.6
    assert current(a, b) == current(b, a) == Relayed(RELAY)


def test_who_diverts_genuine_packets_gains_one_trial() -> None:
    """Somebody on the way lets all that A sends arrive from elsewhere, for ever."""
    net = PathNet(7)
    a, b = pair(net, relayed=False)
    echo = Echo(net, a, b)
    net.run(2.0)
    thief = Endpoint("203.0.113.66", 666)
    ours = a.endpoint
    inject = net.inject

    def divert(source: Endpoint, destination: Endpoint, data: bytes) -> None:
        inject(thief if source == ours else source, destination, data)

    net.inject = divert  # type: ignore[method-assign]  # the attack
    net.run(1.5)
    diverted = b.sent_to[thief]
    assert diverted <= 3 * 60 * 200, "more than three times what came"
    assert current(b, a) == ours, "one trial, and back"
    before = len(b.changes)
    net.run(3.0)
    assert len(b.changes) == before
    assert b.sent_to[thief] - diverted < 3 * PADDED_SIZE, "challenges and answers at most"
    del echo


def test_what_is_replayed_from_elsewhere_moves_nothing() -> None:
    net = PathNet(8)
    a, b = pair(net, relayed=False)
    Echo(net, a, b)
    recorded: list[bytes] = []
    inject = net.inject

    def record(source: Endpoint, destination: Endpoint, data: bytes) -> None:
        if destination == b.endpoint:
            recorded.append(data)
        inject(source, destination, data)

    net.inject = record  # type: ignore[method-assign]  # the attack
    net.run(2.0)
    changes = len(b.changes)
    for data in recorded:
        inject(Endpoint("203.0.113.66", 666), b.endpoint, data)
    net.run(2.0)
    assert len(b.changes) == changes
    assert Endpoint("203.0.113.66", 666) not in b.sent_to


def test_who_only_listens_is_not_suspected_for_long() -> None:
    """Data one way: the far end has nothing to say but answers to challenges, ever fewer."""
    net = PathNet(9)
    a, b = pair(net, relayed=False)
    net.run(1.0)
    changes = len(a.changes)

    def tick(number: int) -> None:
        a.send(b, number)
        net.at(net.now + INTERVAL, lambda: tick(number + 1))

    tick(0)
    net.run(20.0)
    assert len(a.changes) == changes
    assert not a.unreachable
    assert b.sent_to[a.endpoint] < 20 * 20 * 100, "more than a few answers a second"


def test_who_sends_is_told_when_the_only_path_works_again() -> None:
    """It is the same path, and what was sent while it was dead is lost all the same."""
    net = PathNet(9)
    a, b = pair(net, relayed=False)
    Echo(net, a, b)
    net.run(2.0)
    net.blocked = lambda _source, _destination: True
    net.run(2.0)
    before, path = len(a.changes), current(a, b)
    net.blocked = lambda _source, _destination: False
    net.run(1.0)
    assert [is_abrupt for _, is_abrupt in a.changes[before:]] == [True]
    assert current(a, b) == path


def test_a_change_of_relays_loses_nothing_though_one_end_binds_late() -> None:
    for told_later in (0.0, 0.005, 0.3):
        net = PathNet(57)
        net.blocked = lambda _source, _destination: True
        a, b = pair(net, relayed=True, told=False)
        echo = Echo(net, a, b)
        net.run(1.0)
        old, new = Relayed(RELAY), Relayed(Endpoint("203.0.113.10", 3473))
        net.unbound.add(new.relay)
        a.changes.clear()
        b.changes.clear()
        for node, far, delay in ((a, b, 0.0), (b, a, told_later)):
            net.run(delay)
            peer = node.tunnel.peers[far.tunnel.public_key]
            node.paths.watch(peer, [new], net.now, leaving=[old])
            assert node.path_to(far) == old
        net.run(0.2)
        net.unbound.clear()
        net.run(3.0)
        assert (a.path_to(b), b.path_to(a)) == (new, new)
        net.unbound.add(old.relay)
        net.run(1.0)
        echo.on = False
        net.run(0.5)
        assert echo.echoed_at.keys() == echo.sent_at.keys()
        # Nothing was under way on a dead path: no connection has to send anything again.
        assert [abrupt for node in (a, b) for _, abrupt in node.changes] == [False] * 2


def test_nobody_answers_and_help_is_asked_for_ever_more_rarely() -> None:
    net = PathNet(10)
    a, b = pair(net, Nat("198.51.100.1"), Nat("198.51.100.2"), relayed=True)
    Echo(net, a, b)
    net.run(4.0)
    died_at = net.now
    net.blocked = lambda _source, _destination: True
    net.relay_is_up = False
    net.run(30.0)
    assert a.unreachable[0] - died_at < 2.0
    assert 3 <= len(a.unreachable) <= 8
    net.relay_is_up = True
    received = len(b.received)
    assert net.run(10.0, lambda: len(b.received) > received + 10)
    assert current(a, b) == Relayed(RELAY)
