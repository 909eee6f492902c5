"""Fig. 3 between two domains: found by DNS, believed by certificate, directed by both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from domain import Domain
from msgspec.structs import replace

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.policy import Policy, parse_rule
from ntmpatch.crypto.certificate import Certificate, issue
from ntmpatch.negotiation.node import NameUnknown, TryAgain
from ntmpatch.servers.direction.coordinators import FOUND_LIFETIME
from ntmpatch.servers.direction.finding import FoundCoordinator
from ntmpatch.servers.direction.shared_keys import SHARED_KEY_LIFETIME
from ntmpatch.signalling.effects import Assigned, Contact, Failed, Resolved, Unresolved
from ntmpatch.signalling.errors import Refused
from ntmpatch.signalling.process import ask
from ntmpatch.wire.control_messages import (
    Ack,
    DirectionRequest,
    FederationResponse,
    InformationRequest,
    InformationResponse,
    RefusalCode,
    RouteDirection,
    SharedKeyOffer,
)

if TYPE_CHECKING:
    from virtual_network import Seat

GLOBAL_A = Endpoint("198.51.100.1", 1000)
PRIVATE_B, NAT_B = Endpoint("10.0.0.2", 1000), Endpoint("203.0.113.2", 4444)

FIG_3 = [
    ("3.2", "node mn.a.example", "DC dc.a.example", "DirectionRequest"),
    ("3.3", "DC dc.a.example", "DC dc.a.example", "NS b.example"),
    ("3.4", "DC dc.a.example", "DC dc.b.example", "SharedKeyOffer"),
    ("3.5", "DC dc.b.example", "DC dc.a.example", "Ack"),
    ("3.6", "DC dc.a.example", "DC dc.b.example", "InformationRequest"),
    ("3.7", "DC dc.b.example", "DC dc.a.example", "InformationResponse"),
    ("3.8", "DC dc.a.example", "DC dc.b.example", "RouteDirection"),
    ("3.9", "DC dc.b.example", "NS ns.b.example", "NotificationRequest"),
    ("3.10", "NS ns.b.example", "node cn.b.example", "Notification"),
    ("3.11", "node cn.b.example", "DC dc.b.example", "Ack"),
    ("3.12", "DC dc.b.example", "node cn.b.example", "RouteDirection"),
    ("3.13", "node cn.b.example", "DC dc.b.example", "Ack"),
    ("3.14", "DC dc.b.example", "DC dc.a.example", "Ack"),
    ("3.15", "DC dc.a.example", "node mn.a.example", "RouteDirection"),
    ("3.16", "node mn.a.example", "DC dc.a.example", "Ack"),
]


def two_domains(seed: int, **network: Any) -> tuple[Domain, Domain, Seat, Seat]:
    """MN in a.example, reachable, and CN in b.example behind a NAT: both registered."""
    here = Domain(seed, name="a.example", **network)
    there = Domain(seed + 1, name="b.example", beside=here)
    here.start_servers()
    there.start_servers()
    mn = here.start_node("mn", GLOBAL_A)
    cn = there.start_node("cn", PRIVATE_B, nat=NAT_B)
    here.register(mn, cn)
    return here, there, mn, cn


def failed_codes(seat: Seat) -> list[RefusalCode]:
    return [each.error.code for each in seat.of(Failed) if isinstance(each.error, Refused)]


def refusal(domain: Domain, asker: Seat, peer: bytes, message: Any, kind: Any) -> RefusalCode:
    """How ``peer`` refuses what ``asker`` asks."""
    errors: list[Exception | None] = []
    asker.party.start(ask(peer, message, kind), lambda _, error: errors.append(error))
    domain.network.run(3.0, lambda: bool(errors))
    (error,) = errors
    assert isinstance(error, Refused), error
    return error.code


def test_the_steps_between_two_coordinators_are_the_figures() -> None:
    here, there, mn, cn = two_domains(1)
    before = len(here.network.captured)
    answer = there.resolve(mn, "cn")
    assert isinstance(answer, Resolved)
    traced = [
        (t.step, t.sender, t.receiver, t.message)
        for t in here.network.trace
        if t.sent and t.step.startswith("3.")
    ]
    assert traced == FIG_3
    captured = [
        (message.envelope.step, message.sender, message.receiver)
        for message in here.network.captured[before:]
        if message.envelope.step
    ]
    assert captured == [step[:3] for step in FIG_3 if step[0] != "3.3"]
    of_cn, of_mn = mn.contacts[cn.party.public_key], cn.contacts[mn.party.public_key]
    assert of_cn.preshared_key == of_mn.preshared_key != bytes(32)
    assert (of_cn.name, of_mn.name) == ("cn.b.example", "mn.a.example")
    assert of_mn.initiate, "who is behind the NAT calls"


def test_nodes_learn_which_domains_there_are_and_keep_it() -> None:
    here, there, mn, cn = two_domains(19)
    here.network.run(130.0)
    party: Any = mn.party
    assert party.domains() == ("a.example", "b.example")
    assert set(party.virtual_prefixes()) >= {
        lease.ipv4_prefix for lease in here.accounts.leases.values()
    }
    third = Domain(99, name="c.example", beside=there)
    third.coordinator = third.start_coordinator()
    here.network.run(130.0)
    assert party.domains() == ("a.example", "b.example", "c.example")
    again = here.start_node("mn", GLOBAL_A, key=mn.party.public_key)
    assert again.party.domains() == party.domains()  # type: ignore[attr-defined]
    assert cn.party.domains()[0] == "b.example"  # type: ignore[attr-defined]
    fresh: Any = here.start_node("fresh", Endpoint("198.51.100.9", 1000))
    assert here.network.run(5.0, lambda: fresh.party.is_enrolled)
    assert fresh.party.domains() == party.domains(), "by the AS, before it is registered"
    assert not fresh.of(Assigned)


def test_a_coordinator_whose_list_is_old_makes_no_node_forget_a_domain() -> None:
    here, there, _, _ = two_domains(22)
    here.network.run(130.0)
    third = Domain(98, name="c.example", beside=there)
    third.coordinator = third.start_coordinator()
    here.network.run(2.0)
    node = here.start_node("node", Endpoint("198.51.100.9", 1000))
    here.register(node)
    party: Any = node.party
    assert "c.example" in party.domains()
    told = [
        message.envelope.message.domains  # type: ignore[attr-defined]
        for message in here.network.captured
        if isinstance(message.envelope.message, FederationResponse)
        and (message.sender, message.receiver) == ("DC dc.a.example", "node node.a.example")
    ]
    assert [[each.domain for each in page] for page in told] == [["a.example", "b.example"], []]
    # What the AS says is gone is gone.
    third.coordinator.up = False
    del here.accounts.leases["c.example"]
    here.network.run(7500.0)
    assert party.domains() == ("a.example", "b.example")


def test_the_key_between_the_coordinators_is_changed_when_it_expires() -> None:
    here, there, mn, cn = two_domains(2)
    assert isinstance(there.resolve(mn, "cn"), Resolved)

    def offers() -> list[bytes]:
        return [
            message.envelope.message.key  # type: ignore[attr-defined]
            for message in here.network.captured
            if message.envelope.step == "3.4"
        ]

    for node in (mn, cn):
        key = (cn if node is mn else mn).party.public_key
        node.party.tunnel_expired(key, here.network.now)  # type: ignore[attr-defined]
        node.party.tunnel_expired(key, here.network.now)  # type: ignore[attr-defined]
    here.network.run(12.0)
    assert len(offers()) == 1, "it is used again while it is good"
    here.network.run(SHARED_KEY_LIFETIME)
    second = there.start_node("second", Endpoint("198.51.100.9", 1000))
    there.register(second)
    assert isinstance(there.resolve(mn, "second"), Resolved)
    assert len(set(offers())) == 2


@pytest.mark.parametrize("loss", [0.0, 0.15])
def test_both_ends_asking_at_once_end_with_one_key(loss: float) -> None:
    for seed in range(10, 16):
        here, _, mn, cn = two_domains(seed, loss=loss, duplication=loss)
        requests = [
            (mn, mn.party.resolve("cn.b.example", here.network.now)),  # type: ignore[attr-defined]
            (cn, cn.party.resolve("mn.a.example", here.network.now)),  # type: ignore[attr-defined]
        ]
        answers = [here.answer(node, request_id) for node, request_id in requests]
        here.network.run(10.0)
        of_cn, of_mn = mn.contacts[cn.party.public_key], cn.contacts[mn.party.public_key]
        assert of_cn.preshared_key == of_mn.preshared_key, seed
        assert any(isinstance(answer, Resolved) for answer in answers), seed


def test_another_coordinator_that_restarted_costs_a_second_and_no_look_up() -> None:
    here, there, mn, _ = two_domains(3)
    assert isinstance(there.resolve(mn, "cn"), Resolved)
    there.coordinator = there.start_coordinator()
    late = there.start_node("late", Endpoint("198.51.100.9", 1000))
    there.register(late)
    began_at = here.network.now
    assert isinstance(there.resolve(mn, "late"), Resolved)
    assert here.network.now - began_at < 2.0


def test_a_coordinator_that_is_down_is_a_clean_failure_and_its_return_is_noticed() -> None:
    here, there, mn, _ = two_domains(4)
    there.coordinator.up = False
    answer = there.resolve(mn, "cn")
    assert isinstance(answer, Unresolved)
    assert isinstance(answer.error, TryAgain)
    there.coordinator = there.start_coordinator()
    here.network.run(5.0)
    assert isinstance(there.resolve(mn, "cn"), Resolved)


def test_a_domain_that_nobody_leads_is_unknown_and_a_silent_resolver_is_not() -> None:
    here, there, mn, _ = two_domains(5)
    request_id = mn.party.resolve("x.y.nowhere.example", here.network.now)  # type: ignore[attr-defined]
    answer = here.answer(mn, request_id)
    assert isinstance(answer, Unresolved)
    assert isinstance(answer.error, NameUnknown)
    assert here.names.questions == ["y.nowhere.example", "nowhere.example"]
    here.names.is_silent = True
    answer = there.resolve(mn, "cn")
    assert isinstance(answer, Unresolved)
    assert isinstance(answer.error, TryAgain)
    here.names.is_silent = False
    here.network.run(6.0)
    assert isinstance(there.resolve(mn, "cn"), Resolved)


def test_dns_is_asked_once_for_many_and_again_after_a_while() -> None:
    here, there, mn, _ = two_domains(6)
    for number in range(5):
        node = there.start_node(f"n{number}", Endpoint(f"198.51.100.{10 + number}", 1000))
        there.register(node)
    requests = [
        mn.party.resolve(f"n{number}.b.example", here.network.now)  # type: ignore[attr-defined]
        for number in range(4)
    ]
    for request_id in requests:
        assert isinstance(here.answer(mn, request_id), Resolved)
    assert here.names.questions == ["b.example"]
    here.network.run(FOUND_LIFETIME)
    assert isinstance(there.resolve(mn, "n4"), Resolved)
    assert here.names.questions == ["b.example"] * 2


def spoofed(domain: Domain, what: str) -> FoundCoordinator:
    """What an attacker who answers for the domain's name servers might publish."""
    now = domain.network.wall_clock()

    def signed(role: str, fqdn: str, until: float = 100.0, by: bytes = b"") -> bytes:
        certificate = Certificate(
            role, fqdn, b"\x07" * 32, ("198.18.4.0/22",), now - 9, now + until
        )
        return issue(certificate, by or domain.signing_key)

    certificates = {
        "another domain's": signed("dc", "dc.evil.example"),
        "self-made": signed("dc", "dc.b.example", by=b"\x05" * 32),
        "a node's": signed("node", "dc.b.example"),
        "expired": signed("dc", "dc.b.example", until=-1.0),
        "no longer good": signed("dc", "dc.b.example"),
        "of a domain below": signed("dc", "dc.sub.b.example"),
        "nothing": b"",
    }
    return FoundCoordinator("dc.b.example", (Endpoint("192.0.2.66", 1),), certificates[what])


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("another domain's", RefusalCode.WRONG_DOMAIN),
        ("of a domain below", RefusalCode.WRONG_DOMAIN),
        ("self-made", RefusalCode.CERTIFICATE_INVALID),
        ("a node's", RefusalCode.CERTIFICATE_INVALID),
        ("expired", RefusalCode.CERTIFICATE_INVALID),
        ("nothing", RefusalCode.CERTIFICATE_INVALID),
        ("no longer good", RefusalCode.NOT_ENROLLED),
    ],
)
def test_what_dns_says_is_not_believed_without_the_word_of_the_as(
    what: str, code: RefusalCode
) -> None:
    here, there, mn, _ = two_domains(7)
    here.names.found["b.example"] = [spoofed(here, what)]
    answer = there.resolve(mn, "cn")
    assert isinstance(answer, Unresolved)
    assert isinstance(answer.error, TryAgain)
    assert code in failed_codes(here.coordinator)
    assert b"\x07" * 32 not in here.coordinator.contacts, "nobody was called"
    # A good one behind it is found all the same.
    here.names.found["b.example"].append(_true(there))
    here.network.run(FOUND_LIFETIME)
    assert isinstance(there.resolve(mn, "cn"), Resolved)


def _true(domain: Domain) -> FoundCoordinator:
    party: Any = domain.coordinator.party
    return FoundCoordinator(party.name, (domain.coordinator.endpoint,), party.enrolment.certificate)


def test_a_coordinator_speaks_for_its_own_nodes_only() -> None:
    here, there, mn, cn = two_domains(8)
    assert isinstance(there.resolve(mn, "cn"), Resolved)
    other = there.start_node("other", Endpoint("198.51.100.8", 1000))
    there.register(other)
    foreign: Any = other.party
    asked = InformationRequest("cn.b.example", foreign.enrolment.certificate)
    dc = there.coordinator.party.public_key
    code = refusal(here, here.coordinator, dc, asked, InformationResponse)
    assert code is RefusalCode.WRONG_DOMAIN
    (told,) = [
        message.envelope.message
        for message in here.network.captured
        if message.envelope.step == "3.8"
    ]
    assert isinstance(told, RouteDirection)
    before = dict(cn.contacts)
    changed = replace(told, certificate=foreign.enrolment.certificate, serial=told.serial + 1)
    assert refusal(here, here.coordinator, dc, changed, Ack) is RefusalCode.WRONG_DOMAIN
    changed = replace(told, key_id=b"unknown!", serial=told.serial + 1)
    assert refusal(here, here.coordinator, dc, changed, Ack) is RefusalCode.KEY_UNKNOWN
    assert cn.contacts == before


def test_a_node_is_no_coordinator_whatever_it_offers() -> None:
    here, there, mn, _ = two_domains(9)
    dc = there.coordinator.party.public_key
    mn.party.emit(Contact(dc, (there.coordinator.endpoint,), initiate=True))
    here.network.run(1.0)
    party: Any = mn.party
    ours = party.enrolment.certificate
    theirs = here.coordinator.party.enrolment.certificate  # type: ignore[attr-defined]
    for certificate in (b"", ours, theirs):
        offer = SharedKeyOffer(bytes(8), bytes(32), 60.0, certificate)
        assert refusal(here, mn, dc, offer, Ack) is RefusalCode.CERTIFICATE_INVALID
    asked = InformationRequest("cn.b.example", ours)
    assert refusal(here, mn, dc, asked, InformationResponse) is RefusalCode.NOT_AUTHORISED


def test_the_policy_of_the_called_domain_counts_and_reaches_the_node() -> None:
    here, there, mn, cn = two_domains(17)
    rules = [
        parse_rule(["mn.a.example"], ["cn.b.example"], ["tcp/80", "udp/53-60"]),
        parse_rule(["*.b.example"], ["*"], []),
    ]
    there.coordinator.party.policy = Policy(rules)  # type: ignore[attr-defined]
    assert isinstance(there.resolve(mn, "cn"), Resolved)
    assert cn.contacts[mn.party.public_key].access == ((6, 80, 80), (17, 53, 60))
    assert mn.contacts[cn.party.public_key].access is None, "a.example has no rules"
    stranger = here.start_node("stranger", Endpoint("198.51.100.7", 1000))
    here.register(stranger)
    answer = there.resolve(stranger, "cn")
    assert isinstance(answer, Unresolved)
    assert isinstance(answer.error, TryAgain)
    assert stranger.party.public_key not in cn.contacts


@pytest.mark.parametrize(
    ("granted", "access"),
    [
        ([], ((6, 22, 22), (6, 80, 90))),
        (["tcp/85-443"], ((6, 85, 90),)),
        (["udp"], ()),
    ],
    ids=["the coordinator has no rules", "both have some", "nothing in common"],
)
def test_no_coordinator_opens_what_the_nodes_own_policy_keeps_shut(
    granted: list[str], access: tuple[tuple[int, int, int], ...]
) -> None:
    _, there, mn, _ = two_domains(21)
    if granted:
        there.coordinator.party.policy = Policy(  # type: ignore[attr-defined]
            [parse_rule(["*"], ["*"], granted)]
        )
    own = Policy([parse_rule(["*.a.example"], [], ["tcp/22", "tcp/80-90"])])
    guarded = there.start_node("guarded", Endpoint("198.51.100.9", 1000), policy=own)
    there.register(guarded)
    assert isinstance(there.resolve(mn, "guarded"), Resolved)
    assert guarded.contacts[mn.party.public_key].access == access


def test_a_node_that_asks_too_fast_is_refused_and_others_are_served() -> None:
    here, there, mn, _ = two_domains(18)
    codes: list[RefusalCode] = []

    def done(_: object, error: Exception | None) -> None:
        if isinstance(error, Refused):
            codes.append(error.code)

    party: Any = mn.party
    for _ in range(400):
        question = DirectionRequest("nobody.a.example")
        party.start(ask(here.dc_key, question, RouteDirection, timeout=3.0), done)
        here.network.run(0.002)
    here.network.run(5.0)
    assert RefusalCode.TOO_FAST in codes
    other = here.start_node("other", Endpoint("198.51.100.7", 1000))
    here.register(other)
    assert isinstance(there.resolve(other, "cn"), Resolved)
