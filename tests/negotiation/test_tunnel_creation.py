"""Fig. 3 with real messages: a whole domain in virtual time, and two nodes that get directed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from domain import Domain
from msgspec.structs import replace

from ntmpatch.base.addresses import Endpoint
from ntmpatch.crypto.certificate import Certificate, issue
from ntmpatch.negotiation.node import LOOKUP_TIMEOUT, NameUnknown, TryAgain
from ntmpatch.signalling.effects import Assigned, Contact, Forget, Resolved, Unresolved
from ntmpatch.signalling.errors import Refused
from ntmpatch.signalling.process import ask
from ntmpatch.wire.control_messages import (
    Ack,
    Message,
    Notification,
    RefusalCode,
    RouteDirection,
)

if TYPE_CHECKING:
    from virtual_network import Seat

GLOBAL_A = Endpoint("198.51.100.1", 1000)
GLOBAL_B = Endpoint("198.51.100.2", 1000)
PRIVATE_A, NAT_A = Endpoint("10.0.0.1", 1000), Endpoint("203.0.113.1", 3333)
PRIVATE_B, NAT_B = Endpoint("10.0.0.2", 1000), Endpoint("203.0.113.2", 4444)

FIG_3 = [
    ("3.2", "node a", "DC dc", "DirectionRequest"),
    ("3.3", "DC dc", "DC dc", "NS home.example"),
    ("3.4", "DC dc", "DC dc", "SharedKeyOffer"),
    ("3.5", "DC dc", "DC dc", "Ack"),
    ("3.6", "DC dc", "DC dc", "InformationRequest"),
    ("3.7", "DC dc", "DC dc", "InformationResponse"),
    ("3.8", "DC dc", "DC dc", "RouteDirection"),
    ("3.9", "DC dc", "NS ns", "NotificationRequest"),
    ("3.10", "NS ns", "node b", "Notification"),
    ("3.11", "node b", "DC dc", "Ack"),
    ("3.12", "DC dc", "node b", "RouteDirection"),
    ("3.13", "node b", "DC dc", "Ack"),
    ("3.14", "DC dc", "DC dc", "Ack"),
    ("3.15", "DC dc", "node a", "RouteDirection"),
    ("3.16", "node a", "DC dc", "Ack"),
]


def two_nodes(domain: Domain, *, a_nat: bool = False, b_nat: bool = True) -> tuple[Seat, Seat]:
    """A (MN) and B (CN), registered, each with or without a NAT before it."""
    domain.start_servers()
    a = domain.start_node("a", PRIVATE_A if a_nat else GLOBAL_A, nat=NAT_A if a_nat else None)
    b = domain.start_node("b", PRIVATE_B if b_nat else GLOBAL_B, nat=NAT_B if b_nat else None)
    domain.register(a, b)
    return a, b


def contacts_between(a: Seat, b: Seat) -> tuple[Contact, Contact]:
    """What each end holds of the other now."""
    return a.contacts[b.party.public_key], b.contacts[a.party.public_key]


def steps_of(domain: Domain, since: int = 0) -> list[tuple[str, str, str, str]]:
    """The traced steps of Fig. 3, as (step, sender, receiver, message)."""
    return [
        (
            t.step,
            t.sender.removesuffix(".home.example"),
            t.receiver.removesuffix(".home.example"),
            t.message,
        )
        for t in domain.network.trace[since:]
        if t.sent and t.step.startswith("3.")
    ]


def test_steps_2_to_16_happen_in_the_order_of_the_figure() -> None:
    domain = Domain(1)
    a, b = two_nodes(domain)
    before = len(domain.network.captured)
    answer = domain.resolve(a, "b")
    assert isinstance(answer, Resolved)
    assert steps_of(domain) == FIG_3
    # What went over the network says the same as the trace (the DC spoke to itself in between).
    captured = [message.envelope.step for message in domain.network.captured[before:]]
    assert captured == ["3.2", "3.9", "3.10", "3.11", "3.12", "3.13", "3.15", "3.16"]
    (assigned,) = b.of(Assigned)
    assert (answer.ipv4, answer.ipv6) == (assigned.ipv4, assigned.ipv6)
    assert len(answer.ipv4) == 4
    assert len(answer.ipv6) == 16


def test_a_second_tunnel_needs_no_new_key_between_the_coordinators() -> None:
    domain = Domain(2)
    a, _ = two_nodes(domain)
    c = domain.start_node("c", Endpoint("198.51.100.3", 1000))
    domain.register(c)
    domain.resolve(a, "b")
    before = len(domain.network.trace)
    assert isinstance(domain.resolve(c, "b"), Resolved)
    steps = [step for step, *_ in steps_of(domain, before)]
    assert steps == [step for step, *_ in FIG_3 if step not in ("3.4", "3.5")]


def test_both_ends_get_one_fresh_key_and_each_others_addresses() -> None:
    domain = Domain(3)
    a, b = two_nodes(domain)
    domain.resolve(a, "b")
    of_b, of_a = contacts_between(a, b)
    assert of_b.preshared_key == of_a.preshared_key != bytes(32)
    assert (of_b.name, of_a.name) == ("b.home.example", "a.home.example")
    assert of_b.ipv4 == b.of(Assigned)[0].ipv4
    assert of_a.ipv6 == a.of(Assigned)[0].ipv6
    assert a.party.reverse(of_b.ipv6) == "b.home.example"
    assert a.party.reverse(of_a.ipv4) == "a.home.example"
    assert a.party.reverse(b"\x08\x08\x08\x08") is None
    # The node behind the NAT keeps its mapping, the other one need not: Fig. 3 (20).
    assert of_a.persistent_keepalive_interval
    assert of_b.persistent_keepalive_interval is None


@pytest.mark.parametrize(
    ("a_nat", "b_nat", "a_calls", "b_calls"),
    [(False, True, False, True), (False, False, False, True), (True, False, True, False)],
    ids=["only MN is reachable", "both are reachable", "only CN is reachable"],
)
def test_who_is_not_reachable_calls_who_is(
    a_nat: bool, b_nat: bool, a_calls: bool, b_calls: bool
) -> None:
    domain = Domain(4)
    a, b = two_nodes(domain, a_nat=a_nat, b_nat=b_nat)
    assert isinstance(domain.resolve(a, "b"), Resolved)
    of_b, of_a = contacts_between(a, b)
    assert (of_b.initiate, of_a.initiate) == (a_calls, b_calls)
    assert of_b.relay is None
    assert of_a.relay is None


def test_two_nodes_behind_nats_meet_at_a_relay() -> None:
    domain = Domain(5)
    a, b = two_nodes(domain, a_nat=True, b_nat=True)
    assert isinstance(domain.resolve(a, "b"), Resolved)
    of_b, of_a = contacts_between(a, b)
    assert of_b.relay
    assert of_a.relay
    assert of_b.relay.session_id == of_a.relay.session_id
    assert of_b.relay.capability != of_a.relay.capability
    assert (of_b.initiate, of_a.initiate) == (True, False)
    assert of_b.relay.relay_key == domain.relay_server.party.public_key
    assert len(domain.relay_server.party.table) == 1
    steps = [t.step for t in domain.network.trace if t.sent and t.step.startswith("5.")]
    assert steps == ["5.14", "5.15"]


def test_an_ipv6_node_and_an_ipv4_node_meet_at_a_relay() -> None:
    domain = Domain(6)
    domain.start_servers()
    a = domain.start_node("a", GLOBAL_A)
    b = domain.start_node("b", Endpoint("2001:db8::2", 1000))
    domain.register(a, b)
    assert isinstance(domain.resolve(a, "b"), Resolved)
    assert contacts_between(a, b)[0].relay


def test_without_any_relay_two_nodes_behind_nats_both_call() -> None:
    domain = Domain(7)
    domain.start_servers()
    domain.relay_server.up = False
    domain.network.run(30.0)
    a = domain.start_node("a", PRIVATE_A, nat=NAT_A)
    b = domain.start_node("b", PRIVATE_B, nat=NAT_B)
    domain.register(a, b)
    assert isinstance(domain.resolve(a, "b"), Resolved)
    of_b, of_a = contacts_between(a, b)
    assert of_b.initiate
    assert of_a.initiate


def test_a_node_without_notification_service_is_directed_without_it() -> None:
    domain = Domain(8)
    domain.start_servers()
    a = domain.start_node("a", GLOBAL_A)
    b = domain.start_node("b", PRIVATE_B, nat=NAT_B, device_type="none")
    domain.register(a, b)
    assert isinstance(domain.resolve(a, "b"), Resolved)
    steps = [step for step, *_ in steps_of(domain)]
    assert steps == [step for step, *_ in FIG_3 if step not in ("3.9", "3.10", "3.11")]
    # Nothing else keeps its NAT open for the coordinator.
    assert b.contacts[domain.dc_key].persistent_keepalive_interval


def test_a_dead_notification_server_is_left_and_replaced() -> None:
    domain = Domain(9)
    a, b = two_nodes(domain)
    domain.network.kill(domain.notification_server)
    assert isinstance(domain.resolve(a, "b"), Resolved)  # (12) reaches the node anyway
    again = domain.start_notification_server()
    assert domain.network.run(
        90.0, lambda: again.party._services.get(b.party.public_key, None) is not None
    )
    domain.network.run(5.0)
    assert again.party._services[b.party.public_key].connected
    assert domain.notification_server.party.public_key not in b.contacts


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_tunnels_come_up_over_a_network_that_loses_every_fifth_datagram(first: int) -> None:
    tried_again = 0
    for seed in range(first, first + 50):
        domain = Domain(seed, loss=0.2, duplication=0.05)
        a, b = two_nodes(domain)
        for _ in range(4):
            answer = domain.resolve(a, "b")
            if isinstance(answer, Resolved):
                break
            assert isinstance(answer.error, TryAgain), f"seed {seed}: {answer}"
            tried_again += 1
        else:
            raise AssertionError(f"seed {seed}: no tunnel")
        of_b, of_a = contacts_between(a, b)
        assert of_b.preshared_key == of_a.preshared_key, f"seed {seed}"
        domain.network.run(10.0)  # a repetition may come first, a message of the end be late
        assert [step for step, *_ in steps_of(domain)][:3] == ["3.2", "3.3", "3.4"], f"seed {seed}"
    assert tried_again <= 5


@pytest.mark.parametrize("first", range(0, 100, 50))
def test_two_nodes_that_look_each_other_up_at_once_end_with_one_key(first: int) -> None:
    for seed in range(first, first + 50):
        domain = Domain(seed, loss=0.1, duplication=0.1)
        a, b = two_nodes(domain)
        pause = domain.rng.choice((0.0, 0.01, 0.1, 0.4))
        from_a = a.party.resolve("b.home.example", domain.network.now)
        domain.network.run(pause)
        from_b = b.party.resolve("a.home.example", domain.network.now)
        answers = [domain.answer(a, from_a), domain.answer(b, from_b)]
        domain.network.run(15.0)
        of_b, of_a = contacts_between(a, b)
        assert of_b.preshared_key == of_a.preshared_key, f"seed {seed}, pause {pause}"
        assert any(isinstance(answer, Resolved) for answer in answers), f"seed {seed}"


def test_look_ups_of_one_name_share_a_direction_and_the_answer_is_kept() -> None:
    domain = Domain(10)
    a, _ = two_nodes(domain)
    requests = [a.party.resolve(name, domain.network.now) for name in ["b.home.example"] * 3]
    requests.append(a.party.resolve("B.home.EXAMPLE.", domain.network.now))
    assert all(isinstance(domain.answer(a, request), Resolved) for request in requests)
    assert [step for step, *_ in steps_of(domain)].count("3.2") == 1
    now = domain.network.now
    assert isinstance(domain.resolve(a, "b"), Resolved)
    assert domain.network.now == now


def test_a_tunnel_that_expires_is_directed_again_and_else_forgotten() -> None:
    domain = Domain(11)
    a, b = two_nodes(domain)
    domain.resolve(a, "b")
    key = b.party.public_key
    first = a.contacts[key]
    a.party.tunnel_expired(key, domain.network.now)
    domain.network.run(3.0)
    of_b, of_a = contacts_between(a, b)
    assert of_b.preshared_key == of_a.preshared_key != first.preshared_key
    b.up = False
    a.party.tunnel_expired(key, domain.network.now)
    domain.network.run(20.0)
    assert Forget(key) not in a.effects  # perhaps it moves
    domain.network.run(280.0)
    assert Forget(key) in a.effects
    assert a.party.reverse(of_b.ipv4) is None
    assert isinstance(domain.resolve(a, "b"), Unresolved)


def test_an_unknown_name_is_unknown_and_quickly() -> None:
    domain = Domain(12)
    a, _ = two_nodes(domain)
    began_at = domain.network.now
    for label in ("nobody", "b.deeper"):
        answer = domain.resolve(a, label)
        assert isinstance(answer, Unresolved)
        assert isinstance(answer.error, NameUnknown)
    elsewhere = a.party.resolve("b.other.example", domain.network.now)
    answer = domain.answer(a, elsewhere)
    assert isinstance(answer, Unresolved)
    assert isinstance(answer.error, NameUnknown)
    assert domain.network.now - began_at < 1.0


@pytest.mark.parametrize("silent", ["coordinator", "called node", "everybody"])
def test_a_look_up_that_nobody_answers_ends_in_bounded_time(silent: str) -> None:
    domain = Domain(13)
    a, b = two_nodes(domain)
    for seat in domain.network.seats.values():
        if {"coordinator": seat is domain.coordinator, "called node": seat is b}.get(
            silent, seat is not a
        ):
            seat.up = False
    began_at = domain.network.now
    answer = domain.resolve(a, "b")
    assert isinstance(answer, Unresolved)
    assert isinstance(answer.error, TryAgain)
    assert domain.network.now - began_at <= LOOKUP_TIMEOUT + 0.2


def test_a_node_that_left_is_known_but_does_not_answer() -> None:
    domain = Domain(14)
    a, b = two_nodes(domain)
    b.party.leave(domain.network.now)
    domain.network.run(1.0)
    for _ in range(2):
        answer = domain.resolve(a, "b")
        assert isinstance(answer, Unresolved)
        assert isinstance(answer.error, TryAgain)
        domain.start_coordinator()
        domain.network.run(5.0)


def test_a_look_up_before_registration_waits_for_it() -> None:
    domain = Domain(15)
    _, _ = two_nodes(domain)
    c = domain.start_node("c", Endpoint("198.51.100.3", 1000))
    assert isinstance(domain.resolve(c, "b"), Resolved)


def forged(direction: RouteDirection, domain: Domain, a: Seat, what: str) -> RouteDirection:
    """A newer direction that the DC has no right to give."""

    def signed(role: str, fqdn: str, *, by: bytes = domain.signing_key) -> bytes:
        now = domain.network.wall_clock()
        return issue(Certificate(role, fqdn, bytes(31) + b"\x07", (), now - 1, now + 100), by)

    changes: dict[str, dict[str, Any]] = {
        "address outside the lease": {"ipv4": b"\xc6\x12\x10\x05"},
        "address of another family": {"ipv4": bytes(16)},
        "no address": {"ipv4": b"", "ipv6": b""},
        "self-made certificate": {"certificate": signed("node", "b.home.example", by=bytes(32))},
        "name of another domain": {"certificate": signed("node", "b.other.example")},
        "a server as a node": {"certificate": signed("rs", "b.home.example")},
        "a node as coordinator": {"coordinator": direction.certificate},
        "ourselves": {"certificate": a.party.enrolment.certificate},
    }
    return replace(direction, serial=direction.serial + 1, **changes[what])


def refusal_of(domain: Domain, asker: Seat, peer: Seat, message: Message) -> RefusalCode:
    """How ``peer`` refuses what ``asker`` asks."""
    errors: list[Exception | None] = []
    asker.party.start(
        ask(peer.party.public_key, message, Ack), lambda _, error: errors.append(error)
    )
    domain.network.run(1.0)
    (error,) = errors
    assert isinstance(error, Refused)
    return error.code


@pytest.mark.parametrize(
    "what",
    [
        "address outside the lease", "address of another family", "no address",
        "self-made certificate", "name of another domain", "a server as a node",
        "a node as coordinator", "ourselves",
    ],
)  # fmt: skip
def test_a_node_does_what_no_certificate_vouches_for_from_nobody(what: str) -> None:
    domain = Domain(16)
    a, _ = two_nodes(domain)
    domain.resolve(a, "b")
    (told,) = [
        message.envelope.message
        for message in domain.network.captured
        if message.envelope.step == "3.15"
    ]
    before = dict(a.contacts)
    direction = forged(told, domain, a, what)
    code = refusal_of(domain, domain.coordinator, a, direction)
    is_foreign = what == "name of another domain"
    assert code is (RefusalCode.WRONG_DOMAIN if is_foreign else RefusalCode.CERTIFICATE_INVALID)
    assert a.contacts == before


def test_nobody_but_its_servers_directs_or_wakes_a_node() -> None:
    domain = Domain(17)
    a, b = two_nodes(domain)
    domain.resolve(a, "b")
    told = next(m.envelope.message for m in domain.network.captured if m.envelope.step == "3.12")
    for message in (Notification(domain.dc_key), told):
        assert refusal_of(domain, a, b, message) is RefusalCode.NOT_AUTHORISED
    # The NS itself cannot have another than our coordinator acknowledged.
    stranger = Notification(a.party.public_key)
    code = refusal_of(domain, domain.notification_server, b, stranger)
    assert code is RefusalCode.NOT_AUTHORISED


def test_a_direction_that_was_overtaken_by_a_newer_one_changes_nothing() -> None:
    domain = Domain(18)
    a, b = two_nodes(domain)
    domain.resolve(a, "b")
    (told,) = [m.envelope.message for m in domain.network.captured if m.envelope.step == "3.12"]
    before = dict(b.contacts)
    answers: list[Message] = []
    for serial, key in ((told.serial - 1, bytes(32)), (told.serial, bytes(32))):
        domain.coordinator.party.start(
            ask(b.party.public_key, replace(told, serial=serial, preshared_key=key), Ack),
            lambda answer, _: answers.append(answer),
        )
    domain.network.run(1.0)
    assert answers == [Ack(), Ack()]
    assert b.contacts == before
