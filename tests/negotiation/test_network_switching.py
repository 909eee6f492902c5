"""Fig. 5 with real messages: nodes that move, and relays and firewalls that let nothing through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domain import Domain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.negotiation.redirection import MAX_AT_ONCE
from ntmpatch.signalling.effects import Contact, Forget, Ready, Resolved
from ntmpatch.wire.control_messages import DirectionRequest

if TYPE_CHECKING:
    from virtual_network import Seat

GLOBAL_A = Endpoint("198.51.100.1", 1000)
GLOBAL_B = Endpoint("198.51.100.2", 1000)
PRIVATE_A, NAT_A = Endpoint("10.0.0.1", 1000), Endpoint("203.0.113.1", 3333)
PRIVATE_B, NAT_B = Endpoint("10.0.0.2", 1000), Endpoint("203.0.113.2", 4444)
ELSEWHERE_A, NAT_ELSEWHERE = Endpoint("10.9.0.1", 1000), Endpoint("203.0.113.77", 5555)
GLOBAL_A2 = Endpoint("198.51.100.91", 1000)
PRIVATE_B2, NAT_B2 = Endpoint("10.9.0.2", 1000), Endpoint("203.0.113.78", 6666)

FIG_5 = [
    ("5.3", "node a", "DC dc"),
    ("5.4", "DC dc", "NS ns"),
    ("5.5", "NS ns", "DC dc"),
    ("5.6", "DC dc", "node a"),
    ("5.7", "node a", "NS ns"),
    ("5.8", "NS ns", "node a"),
    ("5.9", "node a", "DC dc"),
    ("5.10", "DC dc", "DC dc"),
    ("5.12", "DC dc", "DC dc"),
    ("5.13", "DC dc", "DC dc"),
    ("5.14", "DC dc", "RS rs"),
    ("5.15", "RS rs", "DC dc"),
    ("5.16", "DC dc", "DC dc"),
    ("5.17", "DC dc", "NS ns"),
    ("5.18", "NS ns", "node b"),
    ("5.19", "node b", "DC dc"),
    ("5.20", "DC dc", "node b"),
    ("5.21", "node b", "DC dc"),
    ("5.22", "DC dc", "DC dc"),
    ("5.23", "DC dc", "node a"),
]
"""But for (11), for which the figure's condition is not met: the coordinators' key still counts."""


def move(domain: Domain, node: Seat, to: Endpoint, nat: Endpoint | None = None) -> None:
    """The node has another address, at once known to its negotiation."""
    node.endpoint, node.nat = to, nat
    node.opened.clear()
    node.party.network_changed((to,), domain.network.now)  # type: ignore[attr-defined]


def two_nodes(domain: Domain, *, b_nat: bool = True) -> tuple[Seat, Seat]:
    """A (MN), with a global address, and B (CN)."""
    domain.start_servers()
    a = domain.start_node("a", GLOBAL_A)
    b = domain.start_node("b", PRIVATE_B if b_nat else GLOBAL_B, nat=NAT_B if b_nat else None)
    domain.register(a, b)
    return a, b


def tunnel(domain: Domain) -> tuple[Seat, Seat]:
    """A and B with a tunnel that is up."""
    a, b = two_nodes(domain)
    assert isinstance(domain.resolve(a, "b"), Resolved)
    domain.network.run(2.0)
    return a, b


def contacts_between(a: Seat, b: Seat) -> tuple[Contact, Contact]:
    """What each end holds of the other now."""
    return a.contacts[b.party.public_key], b.contacts[a.party.public_key]


def relay_between(a: Seat, b: Seat) -> bytes | None:
    """The relay that both ends use, and that both have a channel; None: it is a direct one."""
    of_b, of_a = contacts_between(a, b)
    assert of_b.preshared_key == of_a.preshared_key
    assert a.channels[b.party.public_key] == b.channels[a.party.public_key]
    if of_b.relay is None or of_a.relay is None:
        assert of_b.relay is of_a.relay is None
        return None
    assert of_b.relay.session_id == of_a.relay.session_id
    return of_b.relay.relay_key


def requests(domain: Domain, since: float) -> list[tuple[str, DirectionRequest]]:
    """Who asked for a direction, each once."""
    asked: dict[bytes, tuple[str, Any]] = {}
    for each in domain.network.captured:
        if each.at >= since and isinstance(each.envelope.message, DirectionRequest):
            asked[each.envelope.transaction_id] = (each.sender, each.envelope.message)
    return list(asked.values())


def steps(domain: Domain, since: int) -> list[tuple[str, str, str]]:
    return [
        (t.step, t.sender.removesuffix(".home.example"), t.receiver.removesuffix(".home.example"))
        for t in domain.network.trace[since:]
        if t.sent and t.step.startswith("5.")
    ]


def test_a_move_behind_a_nat_takes_the_steps_of_the_figure() -> None:
    domain = Domain(51)
    a, b = tunnel(domain)
    assert relay_between(a, b) is None
    before, old = len(domain.network.trace), contacts_between(a, b)
    forgotten = len(a.of(Forget))
    move(domain, a, PRIVATE_A, NAT_A)
    assert domain.network.run(1.0, lambda: steps(domain, before)[-1:] == [FIG_5[-1]])
    assert steps(domain, before) == FIG_5
    domain.network.run(1.0)
    assert relay_between(a, b) == domain.relay_server.party.public_key
    new = contacts_between(a, b)
    assert new[0].preshared_key != old[0].preshared_key
    # Fig. 5 (24), (25): who moved keeps its mapping, and calls.
    assert new[0].persistent_keepalive_interval
    assert new[0].initiate
    # The peer was never given up: its session and its data went on.
    assert len(a.of(Forget)) == forgotten


def test_without_a_notification_server_that_answers_the_tunnels_follow_all_the_same() -> None:
    domain = Domain(52)
    a, b = tunnel(domain)
    domain.network.kill(domain.notification_server)
    domain.network.run(1.0)
    began_at = domain.network.now
    move(domain, a, PRIVATE_A, NAT_A)
    domain.network.run(12.0)
    assert any(sender == "node a.home.example" for sender, _ in requests(domain, began_at))
    assert relay_between(a, b) == domain.relay_server.party.public_key


def test_both_ends_that_move_at_once_meet_where_both_are_now() -> None:
    for seed in range(53, 59):
        domain = Domain(seed)
        a, b = tunnel(domain)
        move(domain, a, ELSEWHERE_A, NAT_ELSEWHERE)
        domain.network.run(0.007 * (seed - 53))  # so that every step of one meets the other's
        move(domain, b, PRIVATE_B2, NAT_B2)
        domain.network.run(5.0)
        assert relay_between(a, b) == domain.relay_server.party.public_key
        move(domain, a, GLOBAL_A2)
        move(domain, b, GLOBAL_B)
        domain.network.run(5.0)
        assert relay_between(a, b) is None
        of_b, of_a = contacts_between(a, b)
        assert (of_b.endpoints[0], of_a.endpoints[0]) == (GLOBAL_B, GLOBAL_A2)


def test_who_moves_while_it_is_being_directed_is_directed_where_it_is_then() -> None:
    domain = Domain(59)
    a, b = tunnel(domain)
    before = len(domain.network.trace)
    move(domain, a, GLOBAL_A2)
    assert domain.network.run(1.0, lambda: ("5.13", "DC dc", "DC dc") in steps(domain, before))
    b.up = False  # on its way; (18) and (20) go where it was
    domain.network.run(0.1)
    b.up = True
    move(domain, b, GLOBAL_B)
    domain.network.run(5.0)
    assert relay_between(a, b) is None
    of_b, of_a = contacts_between(a, b)
    assert (of_b.endpoints[0], of_a.endpoints[0]) == (GLOBAL_B, GLOBAL_A2)


def test_a_peer_that_moved_in_its_sleep_is_found_when_it_registers() -> None:
    domain = Domain(60)
    a, b = tunnel(domain)
    b.up = False  # asleep, and its old address is nobody's
    b.endpoint, b.nat = PRIVATE_B2, NAT_B2
    b.channels.clear()
    domain.network.run(1.0)
    a.party.tunnel_expired(b.party.public_key, domain.network.now)  # type: ignore[attr-defined]
    began_at = domain.network.now
    domain.network.run(40.0)
    tries = len(requests(domain, began_at))
    assert 3 <= tries <= 8
    b.up = True
    b.party.network_changed((PRIVATE_B2,), domain.network.now)  # type: ignore[attr-defined]
    assert domain.network.run(
        60.0,
        lambda: a.party.peers.named("b.home.example").is_up,  # type: ignore[attr-defined]
    )
    domain.network.run(5.0)
    relay_between(a, b)
    assert contacts_between(a, b)[0].endpoints[0] == NAT_B2


def test_tunnels_follow_a_few_at_a_time_and_only_those_in_use() -> None:
    domain = Domain(61)
    domain.start_servers()
    used: set[bytes] = set()
    a = domain.start_node("a", GLOBAL_A, is_in_use=lambda key: key in used)
    others = [
        domain.start_node(f"n{i}", Endpoint(f"198.51.100.{100 + i}", 1000)) for i in range(12)
    ]
    domain.register(a, *others)
    for index in range(12):
        assert isinstance(domain.resolve(a, f"n{index}"), Resolved)
    used.update(other.party.public_key for other in others[:10])
    began_at, before = domain.network.now, len(domain.network.trace)
    move(domain, a, GLOBAL_A2)
    domain.network.run(5.0)
    asked = {message.fqdn for _, message in requests(domain, began_at)}
    assert asked == {f"n{index}.home.example" for index in range(10)}
    under_way = most = 0
    for traced in domain.network.trace[before:]:
        if traced.sender == "node a.home.example" and traced.sent:
            under_way += traced.message == "DirectionRequest"
        if traced.receiver == "node a.home.example" and not traced.sent:
            under_way -= traced.step == "5.23"
        most = max(most, under_way)
    assert most == MAX_AT_ONCE


def two_relays(seed: int) -> tuple[Domain, Seat, Seat, Seat, Seat]:
    """A and B behind NATs; the relay between them, and another one."""
    domain = Domain(seed)
    domain.start_servers()
    other = domain.start_relay_server("rs2", 5)
    assert domain.network.run(10.0, lambda: bool(other.of(Ready)))
    a = domain.start_node("a", PRIVATE_A, nat=NAT_A)
    b = domain.start_node("b", PRIVATE_B, nat=NAT_B)
    domain.register(a, b)
    assert isinstance(domain.resolve(a, "b"), Resolved)
    domain.network.run(1.0)
    relays = [domain.relay_server, other]
    used = relay_between(a, b)
    relays.sort(key=lambda relay: relay.party.public_key != used)
    return (domain, a, b, *relays)


def test_a_relay_that_does_not_answer_a_node_is_avoided_by_that_node_only() -> None:
    domain, a, b, bad, good = two_relays(62)
    bad_key, peer = bad.party.public_key, b.party.public_key
    began_at = domain.network.now
    for _ in range(20):  # the runtime may say so as often as it likes
        a.party.relay_failed(peer, bad_key, domain.network.now)  # type: ignore[attr-defined]
        domain.network.run(0.01)
    domain.network.run(3.0)
    assert relay_between(a, b) == good.party.public_key
    assert [message.avoid for _, message in requests(domain, began_at)] == [bad_key]
    # One node's claim is not held against the relay.
    locations = domain.coordinator.party.locations  # type: ignore[attr-defined]
    assert not locations._suspected_until


def test_the_wish_of_the_second_asker_is_heard_as_well() -> None:
    for delay in (0.0, 0.006, 0.012, 0.02, 0.03):
        domain, a, b, bad, good = two_relays(68)
        peer, other = b.party.public_key, a.party.public_key
        locations = domain.coordinator.party.locations  # type: ignore[attr-defined]
        locations.suspect(good.party.public_key, domain.network.now)  # who does not care gets bad
        a.party.unreachable(peer, domain.network.now)  # type: ignore[attr-defined]
        domain.network.run(delay)
        bad_key = bad.party.public_key
        b.party.relay_failed(other, bad_key, domain.network.now)  # type: ignore[attr-defined]
        domain.network.run(4.0)
        assert relay_between(a, b) == good.party.public_key


def test_unreachable_peers_are_directed_at_growing_intervals() -> None:
    domain, a, b, *_ = two_relays(63)
    began_at = domain.network.now
    b.up = False
    for _ in range(600):
        a.party.unreachable(b.party.public_key, domain.network.now)  # type: ignore[attr-defined]
        domain.network.run(0.1)
    assert 3 <= len(requests(domain, began_at)) <= 8


def test_a_relay_that_drains_hands_its_pairs_over_within_three_seconds() -> None:
    domain, a, b, ending, other = two_relays(64)
    more = []
    for index in range(20):
        nat = Endpoint(f"203.0.113.{100 + index}", 999)
        more.append(domain.start_node(f"n{index}", Endpoint(f"10.1.0.{index}", 1000), nat=nat))
    domain.register(*more)
    for index in range(20):
        assert isinstance(domain.resolve(a, f"n{index}"), Resolved)
    domain.network.run(1.0)
    ending.party.drain(domain.network.now)
    domain.network.run(3.0)
    for peer in (b, *more):
        assert relay_between(a, peer) == other.party.public_key
    # The last relay keeps its pairs when it drains: nobody could carry them better.
    before = contacts_between(a, b)
    other.party.drain(domain.network.now)
    domain.network.run(3.0)
    assert contacts_between(a, b) == before


def test_a_relay_that_dies_without_a_word_is_left() -> None:
    domain, a, b, dead, other = two_relays(65)
    dead.up = False
    domain.network.run(30.0)
    assert relay_between(a, b) == other.party.public_key


def put_firewall(domain: Domain, *guarded: Seat, never: bool = False) -> None:
    """Nobody gets in whom the node has not called, though there is no NAT; or nobody at all."""
    keys = {seat.party.public_key for seat in guarded}
    passes = domain.network._passes

    def guarded_passes(seat: Seat, far: Seat, contact: Contact) -> bool:
        is_opened = seat.party.public_key in far.opened and not never
        if contact.relay is None and far.party.public_key in keys and not is_opened:
            return False
        return passes(seat, far, contact)

    domain.network._passes = guarded_passes  # type: ignore[method-assign]


def test_who_waits_in_vain_calls_as_well() -> None:
    domain = Domain(66)
    a, b = two_nodes(domain, b_nat=False)
    put_firewall(domain, a)
    began_at = domain.network.now
    assert isinstance(domain.resolve(a, "b"), Resolved)
    assert domain.network.now - began_at < 1.0
    assert relay_between(a, b) is None
    assert [contact.initiate for contact in a.of(Contact) if contact.role == "node"] == [
        False,
        True,
    ]


def test_two_firewalls_that_let_nothing_through_are_passed_by_a_relay() -> None:
    domain = Domain(67)
    a, b = two_nodes(domain, b_nat=False)
    put_firewall(domain, a, b, never=True)
    began_at = domain.network.now
    assert isinstance(domain.resolve(a, "b"), Resolved)
    assert domain.network.now - began_at < 2.0
    assert relay_between(a, b) == domain.relay_server.party.public_key
    assert [message.relayed for _, message in requests(domain, began_at)] == [False, True]
    # It is the network's doing: the next peer is not waited for again.
    c = domain.start_node("c", Endpoint("203.0.113.30", 4000))
    domain.register(c)
    began_at = domain.network.now
    assert isinstance(domain.resolve(a, "c"), Resolved)
    assert domain.network.now - began_at < 0.5
    assert relay_between(a, c) == domain.relay_server.party.public_key


def test_a_tunnel_over_a_long_way_is_given_the_time_that_it_needs() -> None:
    """Each message takes 0.25 s: the handshake could not be over a second after the direction."""
    domain = Domain(69)
    a, b = two_nodes(domain, b_nat=False)
    put_firewall(domain, a, b, never=True)
    domain.network.delays = (0.25, 0.25)
    began_at = domain.network.now
    assert isinstance(domain.resolve(a, "b"), Resolved)
    asked = {
        each.envelope.transaction_id: each.at
        for each in reversed(domain.network.captured)
        if each.at >= began_at and isinstance(each.envelope.message, DirectionRequest)
    }
    directed_at = min(
        each.at
        for each in domain.network.captured
        if each.at >= began_at and each.envelope.step == "3.16"
    )
    second = max(asked.values()) - directed_at
    assert 2 * (directed_at - began_at) > 3.0
    assert second >= 3.0, "and then, when a registration under way has ended"
    assert relay_between(a, b) == domain.relay_server.party.public_key
