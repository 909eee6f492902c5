"""The AS in virtual time: accounts that end, keys that follow each other, its own among them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from domain import Domain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.errors import RefusedError
from ntmpatch.crypto.certificate import signing_public_key
from ntmpatch.servers.account.signing import Keyring
from ntmpatch.servers.account.store import CLOCK_TOLERANCE, MAX_CERTIFICATE_LIFETIME
from ntmpatch.signalling.effects import Assigned, Failed, Resolved
from ntmpatch.signalling.errors import Refused
from ntmpatch.signalling.process import ask
from ntmpatch.wire.control_messages import (
    Ack,
    KeyRotationRequest,
    Message,
    RefusalCode,
    Revocations,
    RevocationsRequest,
)

if TYPE_CHECKING:
    from virtual_network import Seat

A = Endpoint("198.51.100.1", 1000)
B = Endpoint("198.51.100.2", 1000)
LIFETIME = 600.0


def fatal(seat: Seat) -> list[RefusalCode]:
    return [f.error.code for f in seat.of(Failed) if f.fatal and isinstance(f.error, Refused)]


def asked(domain: Domain, asker: Seat, message: Message) -> Any:
    """What the AS answers to ``asker``: a message, or the code of a refusal."""
    ends: list[Any] = []
    process = ask(domain.as_key, message, Message)
    asker.party.start(process, lambda answer, error: ends.append(answer or error))
    domain.network.run(1.0)
    (end,) = ends
    return end.code if isinstance(end, Refused) else end


# --- expiry --------------------------------------------------------------------------------


def test_no_certificate_outlives_its_account_which_then_is_refused_by_its_own_name() -> None:
    domain = Domain(1)
    domain.start_servers()
    ends_at = domain.network.wall_clock() + 200.0
    ticket = domain.ticket("a.home.example")
    domain.accounts.set_expiry("a.home.example", ends_at, 0.0)
    late = domain.ticket("b.home.example")
    domain.accounts.set_expiry("b.home.example", ends_at, 0.0)
    node = domain.start_node("a", A, token=ticket)
    domain.register(node)
    party: Any = node.party
    assert party.certificate.not_after == ends_at
    domain.network.run(150.0)
    assert not fatal(node)
    assert party.certificate.not_after == ends_at  # renewed meanwhile, and no longer
    assert domain.network.run(120.0, lambda: bool(fatal(node)))
    assert domain.network.wall_clock() >= ends_at
    assert fatal(node) == [RefusalCode.ACCOUNT_EXPIRED]
    other = domain.start_node("b", B, token=late)
    domain.network.run(5.0)
    assert fatal(other) == [RefusalCode.ACCOUNT_EXPIRED]

    domain.accounts.set_expiry("a.home.example", None, domain.network.wall_clock())
    domain.network.run(20.0)  # until the coordinators heard that the key counts again
    again = domain.start_node("a", A, key=node.party.public_key)
    domain.register(again)
    assert again.of(Assigned)[0].ipv4 == node.of(Assigned)[0].ipv4


# --- a node's key ----------------------------------------------------------------------------


def test_a_key_follows_another_with_the_name_and_the_addresses() -> None:
    domain = Domain(2)
    domain.start_servers()
    old = domain.start_node("a", A)
    domain.register(old)
    party: Any = old.party
    secret = (b"i" * 8, b"s" * 32)
    party.start(party.offer_key(*secret))
    domain.network.run(1.0)
    assert not old.of(Failed)
    ticket = domain.ticket("x.home.example")._replace(token_id=secret[0], secret=secret[1])
    new = domain.start_node("a", B, token=ticket)
    domain.register(new)
    assert replace(new.of(Assigned)[0]) == old.of(Assigned)[0]
    assert domain.accounts.accounts["a.home.example"].public_key == new.party.public_key
    # The old key is nobody's now, and is told so by name; the secret was good once.
    assert asked(domain, old, KeyRotationRequest(b"j" * 8, b"s" * 32)) is RefusalCode.KEY_REPLACED
    party.network_changed((A,), domain.network.now)
    assert domain.network.run(30.0, lambda: bool(fatal(old)))
    assert fatal(old) == [RefusalCode.KEY_REPLACED]
    third = domain.start_node("a", A, token=ticket)
    domain.network.run(5.0)
    assert fatal(third) == [RefusalCode.TOKEN_WITHDRAWN]
    assert not fatal(new)


def test_only_an_enrolled_key_may_name_its_successor_and_only_coordinators_hear_revocations() -> (
    None
):
    domain = Domain(3)
    domain.start_servers()
    node = domain.start_node("a", A)
    domain.register(node)
    assert asked(domain, node, RevocationsRequest()) is RefusalCode.NOT_AUTHORISED
    assert isinstance(asked(domain, domain.coordinator, RevocationsRequest()), Revocations)
    domain.accounts.revoke("a.home.example")
    assert asked(domain, node, KeyRotationRequest(b"i" * 8, b"s" * 32)) is RefusalCode.REVOKED
    assert isinstance(
        asked(domain, domain.coordinator, KeyRotationRequest(b"i" * 8, b"s" * 32)), Ack
    )


# --- several domains -------------------------------------------------------------------------


def test_a_coordinator_leads_the_further_domains_of_its_account() -> None:
    domain = Domain(4)
    domain.ticket("dc.home.example", "dc")
    account = domain.accounts.accounts["dc.home.example"]
    domain.accounts.accounts["dc.home.example"] = replace(account, domains=("cars.example",))
    domain.start_servers()
    certificate = domain.coordinator.party.certificate  # type: ignore[attr-defined]
    assert certificate.led_domains == ("home.example", "cars.example")
    node = domain.start_node("a", A, token=domain.ticket("a.cars.example"))
    domain.register(node)
    assert node.of(Assigned)[0].domain == "cars.example"


# --- the AS's own key ------------------------------------------------------------------------


class Signing:
    """Keys that a test rotates under a running AS."""

    def __init__(self, private_key: bytes, certificate_lifetime: float) -> None:
        self.ring = replaced(Keyring.of(private_key), certificate_lifetime)

    def signing(self, now: float) -> bytes:
        return self.ring.signing(now)

    def announced(self, now: float) -> tuple[bytes, ...]:
        return self.ring.announced(now)


def replaced(ring: Keyring, lifetime: float) -> Keyring:
    return Keyring(ring.keys, lifetime)


def rotating_domain(seed: int) -> tuple[Domain, Signing]:
    domain = Domain(seed)
    keys = Signing(domain.signing_key, LIFETIME)
    domain.account_server = domain.start_account_server(
        signing_key=keys, certificate_lifetime=LIFETIME
    )
    domain.start_servers()
    return domain, keys


def signers(domain: Domain, *seats: Seat) -> set[int]:
    """Which of the AS's keys signed the parties' certificates: 0 is the first."""
    made = [signing_public_key(domain.signing_key), signing_public_key(b"2" * 32)]
    found = set()
    for seat in seats:
        party: Any = seat.party
        assert party.certificate.not_after > domain.network.wall_clock()
        found.add(made.index(party.enrolment.trusted_keys[0]))
    return found


def test_a_signing_key_is_announced_then_signs_then_is_the_only_one_and_nobody_notices() -> None:
    domain, keys = rotating_domain(5)
    old_ticket = domain.ticket("late.home.example", lifetime=1e6)
    a, b = domain.start_node("a", A), domain.start_node("b", B)
    domain.register(a, b)
    servers = [domain.coordinator, domain.notification_server, domain.relay_server]
    keys.ring = keys.ring.rotated(b"2" * 32, domain.network.wall_clock(), LIFETIME / 2 + 30.0)
    known = [signing_public_key(domain.signing_key), signing_public_key(b"2" * 32)]
    domain.network.run(LIFETIME / 2 + 20.0)
    everybody: list[Any] = [seat.party for seat in (a, b, *servers)]
    assert all(list(party.enrolment.trusted_keys) == known for party in everybody)
    domain.network.run(LIFETIME)
    assert signers(domain, a, b, *servers) == {1}
    domain.network.run(LIFETIME + CLOCK_TOLERANCE + LIFETIME)
    assert all(list(party.enrolment.trusted_keys) == known[1:] for party in everybody)
    late = domain.start_node("late", Endpoint("198.51.100.3", 1), token=old_ticket)
    domain.register(late)
    assert isinstance(domain.resolve(late, "a"), Resolved)
    assert isinstance(domain.resolve(a, "b"), Resolved)
    failed = [f.error for seat in (a, b, late, *servers) for f in seat.of(Failed)]
    assert not any(isinstance(error, Refused) for error in failed)


def test_who_was_away_for_the_whole_overlap_learns_the_keys_by_the_channel_of_the_as() -> None:
    domain, keys = rotating_domain(6)
    a, b = domain.start_node("a", A), domain.start_node("b", B)
    domain.register(a, b)
    a.up = False
    for key in (b"2" * 32, b"3" * 32):
        keys.ring = keys.ring.rotated(key, domain.network.wall_clock(), LIFETIME / 2 + 30.0)
        domain.network.run(3 * LIFETIME)
    again = domain.start_node("a", A, key=a.party.public_key)
    domain.register(again)
    assert isinstance(domain.resolve(again, "b"), Resolved)


def test_a_signing_key_in_wrong_hands_is_void_at_once_and_everybody_asks_anew() -> None:
    domain, keys = rotating_domain(7)
    a, b = domain.start_node("a", A), domain.start_node("b", B)
    domain.register(a, b)
    keys.ring = replaced(Keyring.of(b"2" * 32), LIFETIME)
    domain.network.run(LIFETIME / 2 + 130.0)
    servers = [domain.coordinator, domain.notification_server, domain.relay_server]
    assert signers(domain, a, b, *servers) == {1}
    assert isinstance(domain.resolve(a, "b"), Resolved)
    assert not any(fatal(seat) for seat in (a, b, *servers))


def test_a_keyring_moves_on_by_time_alone() -> None:
    first, second, third = (bytes([number]) * 32 for number in (1, 2, 3))
    public = [signing_public_key(key) for key in (first, second, third)]
    ring = Keyring.of(first).rotated(second, 1000.0, 100.0)
    assert (ring.signing(1099.0), ring.announced(1099.0)) == (first, (public[0], public[1]))
    assert (ring.signing(1100.0), ring.announced(1100.0)) == (second, (public[1], public[0]))
    with pytest.raises(RefusedError, match="already"):
        ring.rotated(third, 1099.0, 100.0)
    run_out_at = 1100.0 + MAX_CERTIFICATE_LIFETIME + CLOCK_TOLERANCE
    assert ring.announced(run_out_at - 1.0) == (public[1], public[0])
    assert ring.announced(run_out_at) == (public[1],)
    assert Keyring.decode(ring.encode()) == ring
    assert "signs_from" in repr(ring)
    assert repr(first)[2:-1] not in repr(ring)
