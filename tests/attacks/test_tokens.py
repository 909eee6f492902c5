"""Enrolment tokens in wrong hands: stolen, late, guessed, and used by two at the same instant."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from attack_scene import Scene, state
from wire_domain import WireDomain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.runtime.database import open_database
from ntmpatch.runtime.store import SqlAccountStore
from ntmpatch.signalling.effects import Failed, Ready
from ntmpatch.signalling.errors import Refused
from ntmpatch.wire.control_messages import (
    CertificateRenewal,
    EnrolmentRequest,
    EnrolmentResponse,
    RefusalCode,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_a_token_makes_one_key_a_member_and_no_second_one() -> None:
    scene = Scene()
    domain, server = scene.domain, scene.victims["as"]
    ticket = domain.ticket("x.home.example")
    request = EnrolmentRequest(ticket.token_id, ticket.secret)
    owner, thief = domain.stranger(), domain.stranger()
    assert isinstance(owner.ask(server, request), EnrolmentResponse)
    before = state(server)
    assert thief.try_(server, request) is RefusalCode.TOKEN_USED
    # The owner may ask again, should the answer have been lost.
    assert isinstance(owner.ask(server, request), EnrolmentResponse)
    assert state(server) == before
    # Nor does having tried make the thief somebody.
    assert thief.try_(server, CertificateRenewal()) is RefusalCode.NOT_AUTHORISED


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("expired", RefusalCode.TOKEN_EXPIRED),
        ("of a revoked account", RefusalCode.REVOKED),
        ("wrong secret", RefusalCode.TOKEN_WRONG),
        ("secret cut short", RefusalCode.TOKEN_WRONG),
        ("no secret", RefusalCode.TOKEN_WRONG),
        ("another's secret", RefusalCode.TOKEN_WRONG),
        ("unknown", RefusalCode.TOKEN_WRONG),
    ],
)
def test_a_token_that_is_not_good(what: str, code: RefusalCode) -> None:
    scene = Scene()
    domain, server = scene.domain, scene.victims["as"]
    ticket = domain.ticket("x.home.example", lifetime=5.0)
    other = domain.ticket("y.home.example")
    identity, secret = ticket.token_id, ticket.secret
    match what:
        case "expired":
            domain.network.run(6.0)
        case "of a revoked account":
            domain.accounts.revoke("x.home.example")
        case "wrong secret":
            secret = bytes(32)
        case "secret cut short":
            secret = secret[:-1]
        case "no secret":
            secret = b""
        case "another's secret":
            secret = other.secret
        case _:
            identity = bytes(16)
    before = state(server)
    stranger = domain.stranger()
    assert stranger.try_(server, EnrolmentRequest(identity, secret)) is code
    assert state(server) == before


def test_a_node_that_the_thief_was_faster_than_says_so_and_stops() -> None:
    domain = WireDomain(4)
    domain.start_servers()
    ticket = domain.ticket("x.home.example")
    thief: Any = domain.start_node(
        "x", Endpoint("198.51.100.8", 1), token=ticket, device_type="none"
    )
    domain.register(thief)
    owner: Any = domain.start_node("x", Endpoint("198.51.100.9", 1), token=ticket)
    assert domain.network.run(10.0, lambda: any(each.fatal for each in owner.of(Failed)))
    (failed,) = [each for each in owner.of(Failed) if each.fatal]
    assert failed.error.code is RefusalCode.TOKEN_USED
    assert not owner.of(Ready)
    # The administrator, who is told, revokes; the thief is out within the verdict's lifetime.
    domain.accounts.revoke("x.home.example")
    assert domain.network.run(130.0, lambda: any(each.fatal for each in thief.of(Failed)))


def test_of_two_that_use_a_token_at_the_same_instant_one_is_refused(tmp_path: Path) -> None:
    """In the real store, by threads as the account server has them."""
    store = SqlAccountStore(open_database(f"sqlite:///{tmp_path}/account.db"))
    for number in range(12):
        token_id = bytes((number,)) * 8
        store.add_account(
            f"n{number}.home.example",
            "node",
            token_id=token_id,
            secret=b"s" * 32,
            now=0,
            lifetime=9,
        )
        outcomes: list[object] = []
        barrier = threading.Barrier(4)

        def redeem(
            key: bytes,
            token_id: bytes = token_id,
            outcomes: list[object] = outcomes,
            barrier: threading.Barrier = barrier,
        ) -> None:
            barrier.wait()
            try:
                outcomes.append(store.redeem_token(token_id, b"s" * 32, key, 1.0))
            except Refused as refusal:
                outcomes.append(refusal.code)

        threads = [
            threading.Thread(target=redeem, args=(bytes((number, n)) * 16,)) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 4
        assert outcomes.count(RefusalCode.TOKEN_USED) == 3, outcomes
