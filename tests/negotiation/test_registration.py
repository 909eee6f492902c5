"""Enrolment and registration: tokens, revocation, restarts, moves, silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from domain import AS_ENDPOINT, DC_ENDPOINT, Domain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.signalling.admission import PROVISIONAL_TIMEOUT
from ntmpatch.signalling.effects import (
    Assigned,
    Contact,
    Failed,
    Forget,
    Ready,
    Resolved,
    Unresolved,
)
from ntmpatch.signalling.errors import Refused, Silent
from ntmpatch.signalling.process import ask
from ntmpatch.wire.control import Kind
from ntmpatch.wire.control_messages import (
    Ack,
    DirectionRequest,
    InformationRequest,
    Message,
    RefusalCode,
    RelayRequest,
    RouteDirection,
    ServiceRequest,
    SharedKeyOffer,
)
from ntmpatch.wire.control_registration import RegistrationRequest

if TYPE_CHECKING:
    from virtual_network import Seat

A = Endpoint("198.51.100.1", 1000)
B = Endpoint("198.51.100.2", 1000)


def fatal(seat: Seat) -> list[RefusalCode]:
    """Why a party gave up."""
    return [f.error.code for f in seat.of(Failed) if f.fatal and isinstance(f.error, Refused)]


def addresses_of(seat: Seat) -> set[tuple[bytes, bytes]]:
    """All virtual addresses that a node was ever assigned."""
    return {(assigned.ipv4, assigned.ipv6) for assigned in seat.of(Assigned)}


def ready_domain(seed: int, **network: float) -> Domain:
    domain = Domain(seed, **network)
    domain.start_servers()
    return domain


# --- tokens --------------------------------------------------------------------------------


def test_a_wrong_a_used_and_an_expired_token_enrol_nobody() -> None:
    domain = ready_domain(1)
    good = domain.ticket("a.home.example")
    wrong = domain.start_node("a", A, token=good._replace(secret=bytes(32)))
    unknown = domain.start_node("a", A, token=good._replace(token_id=bytes(16)))
    first = domain.start_node("a", A, token=good)
    domain.register(first)
    second = domain.start_node("a", B, token=good)
    expired = domain.start_node("c", B, token=domain.ticket("c.home.example", lifetime=-1.0))
    domain.network.run(5.0)
    assert fatal(wrong) == fatal(unknown) == [RefusalCode.TOKEN_WRONG]
    assert fatal(second) == [RefusalCode.TOKEN_USED]
    assert fatal(expired) == [RefusalCode.TOKEN_EXPIRED]
    assert not fatal(first)


def test_a_token_serves_its_key_again_when_the_answer_was_lost_with_the_state() -> None:
    domain = ready_domain(2)
    ticket = domain.ticket("a.home.example")
    key = domain.rng.randbytes(32)
    domain.register(domain.start_node("a", A, key=key, token=ticket))
    domain.register(domain.start_node("a", A, key=key, token=ticket))


def test_a_node_asks_no_as_but_the_one_whose_key_its_token_names() -> None:
    domain = ready_domain(3)
    ticket = domain.ticket("a.home.example")
    node = domain.start_node("a", A, token=ticket._replace(account_server=bytes(range(32))))
    domain.network.run(30.0)
    assert not node.of(Ready)
    assert all(isinstance(failed.error, Silent) for failed in node.of(Failed))


# --- revocation ----------------------------------------------------------------------------


def test_a_revoked_account_neither_enrols_nor_registers_again() -> None:
    domain = ready_domain(4)
    ticket = domain.ticket("a.home.example")
    domain.accounts.revoke("a.home.example")
    late = domain.start_node("a", A, token=ticket)
    domain.network.run(5.0)
    assert fatal(late) == [RefusalCode.REVOKED]

    b = domain.start_node("b", B, device_type="none")  # so it registers every minute
    c = domain.start_node("c", A)
    domain.register(b, c)
    assert isinstance(domain.resolve(c, "b"), Resolved)
    domain.accounts.revoke("b.home.example")
    # The verdict's lifetime and one registration interval bound the revocation.
    assert domain.network.run(130.0, lambda: bool(fatal(b)))
    assert fatal(b) == [RefusalCode.REVOKED]
    domain.network.run(PROVISIONAL_TIMEOUT + 1.0)
    assert b.party.public_key not in domain.coordinator.contacts
    d = domain.start_node("d", Endpoint("198.51.100.4", 1))
    domain.register(d)
    assert isinstance(domain.resolve(d, "b"), Unresolved)


# --- silence and restarts ------------------------------------------------------------------


def test_servers_and_nodes_may_start_in_any_order() -> None:
    domain = Domain(5, loss=0.1)
    domain.account_server.up = False
    node = domain.start_node("a", A)
    relay = domain.start_relay_server()
    notification = domain.start_notification_server()
    domain.network.run(20.0)
    assert not node.of(Ready)
    assert any(isinstance(failed.error, Silent) for failed in node.of(Failed))
    assert not any(failed.fatal for failed in node.of(Failed))
    domain.account_server = domain.start_account_server()
    domain.network.run(40.0)
    assert not node.of(Ready)
    coordinator = domain.start_coordinator()
    seats = [node, relay, notification, coordinator]
    assert domain.network.run(40.0, lambda: all(seat.of(Ready) for seat in seats))


@pytest.mark.parametrize("as_is_up", [True, False])
def test_a_restarted_coordinator_knows_its_nodes_and_their_addresses(as_is_up: bool) -> None:
    domain = ready_domain(6)
    a, b = domain.start_node("a", A), domain.start_node("b", B)
    domain.register(a, b)
    domain.account_server.up = as_is_up
    domain.network.run(2.0)
    before = [addresses_of(node) for node in (a, b)]
    domain.coordinator = domain.start_coordinator()
    restarted_at = domain.network.now
    locations = domain.coordinator.party.locations

    def registered() -> bool:
        nodes = [locations.node(node.party.public_key) for node in (a, b)]
        return all(node is not None and node.fresh for node in nodes)

    assert domain.network.run(30.0, registered)
    assert domain.network.now - restarted_at < 10.0
    assert isinstance(domain.resolve(a, "b"), Resolved)
    assert [addresses_of(node) for node in (a, b)] == before


def test_a_look_up_after_an_unnoticed_restart_registers_first() -> None:
    domain = ready_domain(7)
    a, b = domain.start_node("a", A), domain.start_node("b", B)
    domain.register(a, b)
    node = domain.coordinator.party.locations.node(a.party.public_key)
    node.fresh = False
    assert isinstance(domain.resolve(a, "b"), Resolved)
    assert node.fresh


def test_a_node_keeps_its_address_for_ever_and_nobody_else_gets_it() -> None:
    domain = ready_domain(8)
    nodes = [domain.start_node(label, A) for label in ("a", "b", "c")]
    domain.register(*nodes)
    addresses = [node.of(Assigned)[0].ipv4 for node in nodes]
    assert len(set(addresses)) == 3
    again = domain.start_node("b", B, key=nodes[1].party.public_key)
    domain.register(again)
    assert again.of(Assigned)[0].ipv4 == addresses[1]


def test_an_exhausted_pool_is_a_refusal_and_the_others_keep_theirs() -> None:
    domain = ready_domain(9)
    domain.locations.pool_size = 1
    a = domain.start_node("a", A)
    domain.register(a)
    b = domain.start_node("b", B)
    domain.network.run(10.0)
    assert not b.of(Ready)
    errors = [f.error for f in b.of(Failed) if isinstance(f.error, Refused)]
    assert {error.code for error in errors} == {RefusalCode.EXHAUSTED}


def test_certificates_are_renewed_before_they_expire() -> None:
    domain = Domain(10)
    domain.account_server = domain.start_account_server(certificate_lifetime=600.0)
    domain.start_servers()
    a, b = domain.start_node("a", A), domain.start_node("b", B)
    domain.register(a, b)
    domain.network.run(4000.0)
    assert isinstance(domain.resolve(a, "b"), Resolved)
    assert not any(f.fatal for seat in domain.network.seats.values() for f in seat.of(Failed))


# --- moving --------------------------------------------------------------------------------


def test_a_move_is_registered_at_once_as_in_fig_5() -> None:
    domain = ready_domain(11)
    a = domain.start_node("a", A)
    domain.register(a)
    before = len(domain.network.trace)
    a.endpoint, a.nat = Endpoint("10.9.9.9", 1000), Endpoint("203.0.113.77", 5)
    a.party.network_changed((a.endpoint,), domain.network.now)
    domain.network.run(2.0)
    steps = [t.step for t in domain.network.trace[before:] if t.sent and t.step]
    assert steps == ["5.3", "5.4", "5.5", "5.6", "5.7", "5.8"]
    record = domain.locations.records["a.home.example"]
    assert record.seen_endpoint == a.nat
    assert record.local_endpoints == (a.endpoint,)


def test_of_many_moves_at_once_the_last_one_counts() -> None:
    for seed in range(40):
        domain = ready_domain(seed, loss=0.2, duplication=0.2)
        a = domain.start_node("a", A)
        domain.register(a)
        domain.network.job_delay = 0.5
        for host in range(1, 10):
            a.endpoint = Endpoint(f"198.51.100.{host}", 1000)
            a.party.network_changed((a.endpoint,), domain.network.now)
            domain.network.run(domain.rng.choice((0.0, 0.01, 0.05, 0.3)))
        domain.network.run(20.0)
        node = domain.coordinator.party.locations.node(a.party.public_key)
        assert node.record.local_endpoints == (a.endpoint,), f"seed {seed}"
        assert node.record.seen_endpoint == a.endpoint, f"seed {seed}"


def test_a_network_in_doubt_is_known_by_whether_the_coordinator_answers() -> None:
    """It is asked, and not while it is asked already, or has just answered."""
    domain = ready_domain(4)
    network = domain.network
    a = domain.start_node("a", A)
    domain.register(a)

    def confirm() -> list[str]:
        """What that asks the coordinator, if anything."""
        before = len(network.trace)
        a.party.confirm_network(network.now)
        network.run(0.05)
        return [
            t.message for t in network.trace[before:] if t.sent and t.sender.startswith("node a")
        ]

    network.run(60.0)
    assert confirm() == ["RevocationsRequest"]
    assert a.party.unanswered_since is None
    assert confirm() == [], "it has just answered"
    network.run(60.0)
    domain.coordinator.up = False
    asked_at = network.now
    assert confirm() == ["RevocationsRequest"]
    assert confirm() == [], "it is asked already"
    network.run(30.0)
    assert a.party.unanswered_since == asked_at
    a.party.network_changed((A,), network.now)
    assert a.party.unanswered_since is None, "that was another network"
    network.run(5.0)
    assert a.party.unanswered_since is not None
    domain.coordinator.up = True
    network.run(15.0)
    assert a.party.unanswered_since is None


# --- strangers -----------------------------------------------------------------------------


def refused(domain: Domain, asker: Seat, peer: bytes, message: Message) -> RefusalCode:
    errors: list[Exception | None] = []
    asker.party.start(ask(peer, message, Ack), lambda _, error: errors.append(error))
    domain.network.run(0.5)
    (error,) = errors
    assert isinstance(error, Refused), error
    return error.code


def test_a_stranger_is_answered_nothing_but_refusals_and_forgotten() -> None:
    domain = ready_domain(13)
    a = domain.start_node("a", A)
    domain.register(a)
    stranger = domain.start_node("x", B, token=domain.ticket("x.home.example"))
    domain.network.run(0.001)
    servers = {
        domain.as_key: AS_ENDPOINT,
        domain.dc_key: DC_ENDPOINT,
        domain.relay_server.party.public_key: domain.relay_server.endpoint,
        domain.notification_server.party.public_key: domain.notification_server.endpoint,
    }
    eve = domain.network.seat(a.party.__class__(
        b"e" * 32, token=domain.ticket("eve.home.example"), **domain.network.settings()
    ), Endpoint("198.51.100.66", 1))  # fmt: skip
    for key, endpoint in servers.items():
        eve.party.emit(Contact(key, (endpoint,), initiate=True))
    domain.network.run(1.0)
    certificate = a.party.enrolment.certificate
    code = refused(domain, eve, domain.dc_key, SharedKeyOffer(bytes(8), bytes(32), 60.0))
    assert code is RefusalCode.CERTIFICATE_INVALID
    code = refused(domain, eve, domain.dc_key, InformationRequest("a.home.example", certificate))
    assert code is RefusalCode.NOT_AUTHORISED
    code = refused(domain, eve, domain.dc_key, DirectionRequest("a.home.example"))
    assert code is RefusalCode.NOT_REGISTERED
    # Another's certificate is of no use without its key.
    code = refused(domain, eve, domain.dc_key, RegistrationRequest(certificate))
    assert code is RefusalCode.CERTIFICATE_INVALID
    relay, notification = list(servers)[2:]
    code = refused(domain, eve, relay, RelayRequest((b"1" * 32, b"2" * 32), 60.0))
    assert code is RefusalCode.NOT_AUTHORISED
    code = refused(domain, eve, notification, ServiceRequest(b"e" * 32, "eve.home.example"))
    assert code is RefusalCode.NOT_AUTHORISED
    domain.network.run(PROVISIONAL_TIMEOUT)
    for seat in (domain.coordinator, domain.relay_server, domain.notification_server):
        assert Forget(b"e" * 32) in seat.effects
    assert stranger.of(Ready)


def test_a_node_cannot_play_a_coordinator() -> None:
    domain = ready_domain(14)
    a, b = domain.start_node("a", A), domain.start_node("b", B)
    domain.register(a, b)
    domain.resolve(a, "b")
    told = [
        message.envelope.message
        for message in domain.network.captured
        if isinstance(message.envelope.message, RouteDirection)
        and message.envelope.kind is Kind.REQUEST
    ]
    code = refused(domain, a, domain.dc_key, told[0])
    assert code is RefusalCode.NOT_AUTHORISED
