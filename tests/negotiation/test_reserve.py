"""A relay in reserve: who asks for it, when, how often, and what it leaves alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from domain import Domain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.negotiation.reserve import ASKING_AFTER, REFUSED_INTERVAL
from ntmpatch.servers.relay.table import RelayLimits
from ntmpatch.signalling.effects import Contact, Failed, Forget, Ready, Resolved
from ntmpatch.wire.control_messages import DirectionRequest

if TYPE_CHECKING:
    from virtual_network import Seat

GLOBAL_A, GLOBAL_B = Endpoint("198.51.100.1", 1000), Endpoint("198.51.100.2", 1000)
ELSEWHERE_A = Endpoint("198.51.100.91", 1000)
RATE = 10_000
"""Bytes a second of a tunnel in use."""


class Pair:
    """A and B, both with global addresses; A looks B up."""

    def __init__(self, seed: int, *, rate: float = RATE, relays: int = 1) -> None:
        self.domain = domain = Domain(seed)
        domain.start_servers()
        self.relays = [domain.relay_server]
        for index in range(1, relays):
            self.relays.append(domain.start_relay_server(f"rs{index}", 4 + index))
        assert domain.network.run(10.0, lambda: all(relay.of(Ready) for relay in self.relays))
        self.rate = rate
        self.is_in_use = True
        self.a, self.b = self._node("a", GLOBAL_A), self._node("b", GLOBAL_B)
        domain.register(self.a, self.b)
        self.since = domain.network.now

    def _node(self, label: str, endpoint: Endpoint) -> Seat:
        return self.domain.start_node(
            label,
            endpoint,
            reserves_relays=True,
            is_in_use=lambda _: self.is_in_use,
            traffic=lambda _: int(self.rate * self.domain.network.now),
        )

    def meet(self) -> None:
        assert isinstance(self.domain.resolve(self.a, "b"), Resolved)
        assert self.contact.relay is None

    @property
    def contact(self) -> Contact:
        """What A knows of B; B knows the same of A."""
        of_b = self.a.contacts[self.b.party.public_key]
        of_a = self.b.contacts[self.a.party.public_key]
        assert of_a.preshared_key == of_b.preshared_key
        if of_a.relay is not None and of_b.relay is not None:
            assert of_a.relay.session_id == of_b.relay.session_id
            assert {of_a.relay.side, of_b.relay.side} == {0, 1}
        return of_b

    def requests(self) -> list[tuple[str, DirectionRequest]]:
        asked = {
            each.envelope.transaction_id: (each.sender[5], each.envelope.message)
            for each in self.domain.network.captured
            if each.at >= self.since and isinstance(each.envelope.message, DirectionRequest)
        }
        return [(sender, message) for sender, message in asked.values()]  # type: ignore[misc]  # asked above

    def expired(self) -> None:
        """The handshake of two minutes later."""
        for end, far in ((self.a, self.b), (self.b, self.a)):
            end.party.tunnel_established(far.party.public_key, self.domain.network.now)  # type: ignore[attr-defined]  # nodes


def test_a_direct_tunnel_in_use_gets_a_relay_once_and_by_one_end() -> None:
    pair = Pair(201)
    network = pair.domain.network
    pair.meet()
    network.run(ASKING_AFTER - 0.5)
    assert len(pair.requests()) == 1
    network.run(1.0)
    assert pair.contact.relay is not None
    for _ in range(5):
        network.run(100.0)
        pair.expired()
    (_, first), (asker, second) = pair.requests()
    assert asker == "a"
    assert (second.reserve, second.relayed, second.avoid) == (True, False, b"")
    # Both ends still have each other's endpoints, and the tunnel was never given up.
    assert pair.contact.endpoints == (GLOBAL_B,)
    assert not pair.a.of(Forget) + pair.b.of(Forget)
    assert not first.reserve


def test_a_reserve_does_not_make_what_is_directed_later_relayed() -> None:
    pair = Pair(202)
    network = pair.domain.network
    pair.meet()
    network.run(5.0)
    assert pair.contact.relay is not None
    pair.a.endpoint = ELSEWHERE_A
    pair.a.party.network_changed((ELSEWHERE_A,), network.now)  # type: ignore[attr-defined]  # a node
    network.run(30.0)
    assert pair.contact.relay is None, "the direct way is enough; the session there was is kept"
    pair.expired()
    network.run(30.0)
    assert [message.relayed for _, message in pair.requests()] == [False] * 3
    assert [message.reserve for _, message in pair.requests()] == [False, True, False]


def test_an_idle_tunnel_asks_for_no_relay_and_one_that_gave_it_up_asks_when_it_is_used() -> None:
    pair = Pair(203, rate=5)
    network = pair.domain.network
    pair.meet()
    network.run(600.0)
    assert len(pair.requests()) == 1
    pair.rate = 0
    network.run(1.0)
    pair.rate = RATE
    network.run(60.0)
    assert len(pair.requests()) == 2
    relay = pair.relays[0].party.public_key
    pair.is_in_use = False
    for end, far in ((pair.a, pair.b), (pair.b, pair.a)):
        end.party.relay_released(far.party.public_key, relay, network.now)  # type: ignore[attr-defined]  # nodes
    network.run(600.0)
    assert len(pair.requests()) == 2
    pair.is_in_use = True
    pair.expired()
    network.run(10.0)
    assert len(pair.requests()) == 3


def test_the_end_that_did_not_ask_for_the_tunnel_asks_if_the_other_does_not() -> None:
    pair = Pair(204)
    pair.a.party.reserves_relays = False  # type: ignore[attr-defined]  # a node
    pair.meet()
    pair.domain.network.run(2 * ASKING_AFTER + 0.5)
    assert [(sender, message.reserve) for sender, message in pair.requests()] == [
        ("a", False),
        ("b", True),
    ]


def test_where_no_relay_is_to_spare_nothing_changes_and_it_is_seldom_asked_for() -> None:
    pair = Pair(205)
    network = pair.domain.network
    relay = pair.relays[0].party
    limits = RelayLimits(max_sessions=2)
    relay.limit(limits, network.now)  # type: ignore[attr-defined]  # the relay
    relay.table.grant(lifetime=1e6, byte_quota=0, now=network.now)  # type: ignore[attr-defined]  # the same
    pair.meet()
    before, failed = pair.contact, len(pair.a.of(Failed))
    for _ in range(10):
        network.run(REFUSED_INTERVAL / 10 - 2.0)
        pair.expired()
    assert [(sender, message.reserve) for sender, message in pair.requests()] == [
        ("a", False),
        ("a", True),
        ("b", True),
    ]
    assert pair.contact == before
    assert len(pair.a.of(Failed)) == failed
    # Nor for the sake of another peer, and nobody thinks ill of the relay.
    c = pair._node("c", Endpoint("198.51.100.3", 1000))
    pair.domain.register(c)
    pair.since = network.now
    assert isinstance(pair.domain.resolve(pair.a, "c"), Resolved)
    network.run(10.0)
    assert [(sender, message.reserve) for sender, message in pair.requests()] == [
        ("a", False),
        ("c", True),
    ]
    locations = pair.domain.coordinator.party.locations  # type: ignore[attr-defined]  # the DC
    assert not locations._suspected_until
    # One that needs a relay gets the session that was kept for it.
    grant = relay.table.grant(lifetime=9.0, byte_quota=0, now=network.now)  # type: ignore[attr-defined]  # the same
    assert grant is not None


def test_a_reserve_that_does_not_answer_is_exchanged_for_another() -> None:
    pair = Pair(206, relays=2)
    network = pair.domain.network
    pair.meet()
    network.run(5.0)
    assert pair.contact.relay is not None
    dead = pair.contact.relay.relay_key
    for end, far in ((pair.a, pair.b), (pair.b, pair.a)):
        end.party.relay_failed(far.party.public_key, dead, network.now, in_use=False)  # type: ignore[attr-defined]  # nodes
    network.run(5.0)
    assert pair.contact.relay is not None
    assert pair.contact.relay.relay_key != dead
    _, last = pair.requests()[-1]
    assert (last.reserve, last.relayed, last.avoid) == (True, False, dead)
    # In use, it is not a matter of a reserve any more.
    dead = pair.contact.relay.relay_key
    pair.a.party.relay_failed(pair.b.party.public_key, dead, network.now)  # type: ignore[attr-defined]  # a node
    network.run(5.0)
    _, last = pair.requests()[-1]
    assert (last.reserve, last.relayed, last.avoid) == (False, True, dead)


def test_a_relay_that_drains_is_exchanged_in_reserve_and_does_not_wait_for_those_it_keeps() -> None:
    pair = Pair(207, relays=2)
    network = pair.domain.network
    pair.meet()
    network.run(5.0)
    assert pair.contact.relay is not None
    first = pair.contact.relay.relay_key
    draining = next(each for each in pair.relays if each.party.public_key == first)
    draining.party.drain(network.now)
    network.run(3.0)
    assert pair.contact.relay is not None
    assert pair.contact.relay.relay_key != first
    last = next(each for each in pair.relays if each.party.public_key != first)
    assert not last.party.draining
    last.party.drain(network.now)
    network.run(3.0)
    assert last.party.table  # type: ignore[attr-defined]  # the session is there
    assert last.party.is_idle
