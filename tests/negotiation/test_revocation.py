"""A revocation reaches the tunnels: within the coordinator's poll and one delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from domain import Domain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.servers.direction import revoking
from ntmpatch.servers.direction.revoking import POLL_INTERVAL, Revoking
from ntmpatch.signalling.effects import Failed, Forget, Ready, Resolved, Unresolved
from ntmpatch.signalling.errors import Refused
from ntmpatch.signalling.revoked import LIFETIME, RevokedKeys
from ntmpatch.wire.control_messages import (
    AuthenticationInquiry,
    RefusalCode,
    RevocationNotice,
    RevocationReason,
    RevokedKey,
)

if TYPE_CHECKING:
    from virtual_network import Seat

A = Endpoint("198.51.100.1", 1000)
B = Endpoint("10.0.0.2", 1000)
B_SEEN = Endpoint("203.0.113.2", 4444)
DELIVERY = 1.0
"""Seconds: the AS's answer, the NS's notification and the notice itself, none of them lost."""


def talking(seed: int, **network: float) -> tuple[Domain, Seat, Seat]:
    """A domain, and two nodes with a tunnel between them; b is behind a NAT."""
    domain = Domain(seed, **network)
    domain.start_servers()
    a, b = domain.start_node("a", A), domain.start_node("b", B, nat=B_SEEN)
    domain.register(a, b)
    assert isinstance(domain.resolve(a, "b"), Resolved)
    return domain, a, b


def has_tunnel(one: Seat, other: Seat) -> bool:
    """Whether ``one`` would send or take anything in a tunnel with ``other``."""
    key = other.party.public_key
    return key in one.channels or key in one.contacts


def seconds_until_it_is_gone(domain: Domain, one: Seat, other: Seat) -> float:
    started_at = domain.network.now
    assert domain.network.run(300.0, lambda: not has_tunnel(one, other))
    return domain.network.now - started_at


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("change", ["revoke", "remove", "expiry", "reissue"])
def test_a_tunnel_ends_within_a_poll_and_a_delivery(change: str, seed: int) -> None:
    domain, a, b = talking(seed)
    domain.network.run(domain.rng.uniform(0.0, 40.0))
    now = domain.network.wall_clock()
    if change == "expiry":
        domain.accounts.set_expiry("b.home.example", now, now)
    elif change == "reissue":
        domain.accounts.reissue("b.home.example", b"i" * 8, b"s" * 32, now + 60.0, now)
    else:
        getattr(domain.accounts, change)("b.home.example", now)
    assert seconds_until_it_is_gone(domain, a, b) <= POLL_INTERVAL + DELIVERY
    assert isinstance(domain.resolve(a, "b"), Unresolved)
    assert not any(failed.fatal for failed in a.of(Failed))
    # Whose key it was cannot come back with it.
    domain.network.run(90.0)
    (fatal,) = [failed.error for failed in b.of(Failed) if failed.fatal]
    assert isinstance(fatal, Refused)
    assert (
        fatal.code
        is {
            "revoke": RefusalCode.REVOKED,
            "remove": RefusalCode.NOT_ENROLLED,
            "expiry": RefusalCode.ACCOUNT_EXPIRED,
            "reissue": RefusalCode.KEY_REPLACED,
        }[change]
    )


def test_it_reaches_the_called_end_as_well_and_through_a_network_that_loses_much() -> None:
    for seed in range(10):
        domain, a, b = talking(seed, loss=0.2, duplication=0.1)
        domain.accounts.revoke("a.home.example")
        # Each lost notice is sent again after 3 s of retransmissions, and after 2 and 10 s more.
        assert seconds_until_it_is_gone(domain, b, a) <= POLL_INTERVAL + 25.0, f"seed {seed}"


@pytest.mark.parametrize("seconds", [0.0, 1.0, 30.0, 300.0])
def test_a_restart_of_the_coordinator_makes_it_no_slower(seconds: float) -> None:
    domain, a, b = talking(3)
    domain.network.run(1.0)
    domain.coordinator = domain.start_coordinator()  # it has forgotten whom it directed
    domain.network.run(seconds)
    domain.accounts.revoke("b.home.example", domain.network.wall_clock())
    assert seconds_until_it_is_gone(domain, a, b) <= POLL_INTERVAL + 5.0


def test_what_was_revoked_while_the_coordinator_was_away_is_learned_at_the_registration() -> None:
    domain, a, b = talking(12)
    domain.coordinator.up = False
    domain.accounts.revoke("b.home.example", domain.network.wall_clock())
    domain.network.run(120.0)
    assert has_tunnel(a, b)
    domain.coordinator = domain.start_coordinator()
    assert seconds_until_it_is_gone(domain, a, b) <= 20.0
    told = [
        captured.receiver
        for captured in domain.network.captured
        if isinstance(captured.envelope.message, RevocationNotice)
    ]
    assert a.party.title not in told


def test_a_node_that_was_away_learns_it_when_it_is_back() -> None:
    domain, a, b = talking(4)
    a.up = False
    domain.accounts.revoke("b.home.example", domain.network.wall_clock())
    domain.network.run(120.0)
    assert has_tunnel(a, b)
    a.up = True
    party: Any = a.party
    party.network_changed((A,), domain.network.now)
    assert seconds_until_it_is_gone(domain, a, b) <= 20.0


def test_a_peer_follows_a_key_that_was_replaced() -> None:
    domain, a, b = talking(5)
    old: Any = b.party
    old.start(old.offer_key(b"i" * 8, b"s" * 32))
    domain.network.run(1.0)
    b.up = False
    ticket = domain.ticket("x.home.example")._replace(token_id=b"i" * 8, secret=b"s" * 32)
    new = domain.start_node("b", B, nat=B_SEEN, token=ticket)
    domain.register(new)
    domain.network.run(POLL_INTERVAL + DELIVERY)
    assert not has_tunnel(a, b)
    before, answer = a.of(Resolved)[0], domain.resolve(a, "b")
    assert isinstance(answer, Resolved)
    assert (answer.ipv4, answer.ipv6) == (before.ipv4, before.ipv6)
    assert answer.public_key == new.party.public_key != before.public_key
    assert has_tunnel(a, new)


@pytest.mark.parametrize("revoked", ["mn.a.example", "cn.b.example"])
def test_a_revocation_reaches_tunnels_of_nodes_of_another_domain(revoked: str) -> None:
    here = Domain(6, name="a.example")
    there = Domain(7, name="b.example", beside=here)
    here.start_servers()
    there.start_servers()
    mn, cn = here.start_node("mn", A), there.start_node("cn", Endpoint("198.51.100.9", 9))
    here.register(mn, cn)
    assert isinstance(there.resolve(mn, "cn"), Resolved)
    here.accounts.revoke(revoked, here.network.wall_clock())
    one, other = (cn, mn) if revoked == "mn.a.example" else (mn, cn)
    assert seconds_until_it_is_gone(here, one, other) <= POLL_INTERVAL + DELIVERY


def test_a_revoked_server_serves_no_more() -> None:
    domain, a, b = talking(8)
    domain.accounts.revoke("ns.home.example", domain.network.wall_clock())
    coordinator: Any = domain.coordinator.party
    gone = lambda: not coordinator.locations.servers("ns", domain.network.now)  # noqa: E731
    assert domain.network.run(POLL_INTERVAL + DELIVERY, gone)
    domain.network.run(60.0)
    assert gone()
    assert Forget(domain.notification_server.party.public_key) in domain.coordinator.effects
    assert isinstance(domain.resolve(a, "b"), Resolved)
    assert b.of(Ready)


def test_addresses_of_a_removed_account_go_into_quarantine() -> None:
    domain, _, _ = talking(9)
    domain.accounts.remove("b.home.example", domain.network.wall_clock())
    domain.network.run(POLL_INTERVAL + DELIVERY)
    assert domain.locations.assignments["b.home.example"].released_at is not None
    assert domain.locations.assignments["a.home.example"].released_at is None


def test_who_is_refused_is_not_asked_about_again_and_again() -> None:
    domain, a, b = talking(10)
    domain.accounts.revoke("b.home.example", domain.network.wall_clock())
    domain.network.run(POLL_INTERVAL + DELIVERY)
    before = len(domain.network.captured)
    party: Any = b.party
    for _ in range(20):
        party.network_changed((B,), domain.network.now)
        domain.network.run(1.0)
    asked = [
        message
        for message in domain.network.captured[before:]
        if isinstance(message.envelope.message, AuthenticationInquiry)
        and message.envelope.message.public_key == b.party.public_key
    ]
    assert len(asked) <= 1
    assert not any(failed.fatal for failed in a.of(Failed))


def test_what_a_coordinator_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    domain, _, _ = talking(11)
    monkeypatch.setattr(revoking, "MAX_PAIRS", 100)
    pairs = Revoking(domain.coordinator.party)  # type: ignore[arg-type]
    for number in range(1000):
        pairs.directed(b"%32d" % (number % 7), b"%32d" % number)
        pairs.directed(b"%32d" % (number % 7), b"%32d" % number)
    assert sum(map(len, pairs._directed.values())) == pairs._pairs == 100
    assert set(pairs._told_all) == {b"%32d" % number for number in range(7)}

    keys = RevokedKeys(most=10)
    for number in range(1, 50):
        assert keys.hear(RevokedKey(number, b"%32d" % number, "", 1), float(number))
    assert len(keys) == 10
    assert not keys.hear(RevokedKey(49, b"%32d" % 1, "", 1), 49.0)  # heard before
    keys.check(b"%32d" % 1, 49.0)
    with pytest.raises(Refused):
        keys.check(b"%32d" % 49, 49.0)
    keys.check(b"%32d" % 49, 50.0 + LIFETIME)
    reinstated = RevokedKey(50, b"%32d" % 49, "", int(RevocationReason.REINSTATED))
    assert not keys.hear(reinstated, 50.0)
    keys.check(b"%32d" % 49, 50.0)
    page = keys.since(44)
    assert [revoked.serial for revoked in page.revoked] == [45, 46, 47, 48, 50]
