"""A true coordinator of another domain that lies: about its own nodes, and about others'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from attack_scene import Scene, signed, state
from msgspec.structs import replace

from ntmpatch.crypto.noise import StaticKey
from ntmpatch.servers.direction.finding import FoundCoordinator
from ntmpatch.signalling.effects import Contact, Unresolved
from ntmpatch.wire import control_messages as m
from ntmpatch.wire.control_messages import Ack, Address, RefusalCode

if TYPE_CHECKING:
    from wire_domain import Puppet

EVIL = "evil.example"
PREFIX = "198.18.4.0/22"


class Lies(Scene):
    """``dc.evil.example``, which the AS certified and DNS names, and a node of its domain."""

    def __init__(self) -> None:
        super().__init__(2)
        domain = self.domain
        self.enemy: Puppet = domain.enrolled(f"dc.{EVIL}", "dc")
        self.key = StaticKey(domain.rng.randbytes(32)).public
        self.node = signed(domain, "node", f"x.{EVIL}", self.key)
        place = self.enemy.seat.endpoint
        domain.names.found[EVIL] = [
            FoundCoordinator(f"dc.{EVIL}", (place,), self.enemy.certificate)
        ]
        self.place = Address(place.host, place.port)
        assert self.enemy.meet(domain.coordinator)
        self.offer = m.SharedKeyOffer(b"k" * 8, b"k" * 32, 3600.0, self.enemy.certificate)
        self.enemy.replies[m.SharedKeyOffer] = Ack()

    def direction(self, **changes: Any) -> m.RouteDirection:
        """Its own node to a.home.example: all is as it must be."""
        values: dict[str, Any] = {
            "serial": 2**62,
            "certificate": self.node,
            "coordinator": self.enemy.certificate,
            "ipv4": bytes((198, 18, 16, 9)),
            "ipv6": b"",
            "endpoints": (self.place,),
            "initiate": False,
            "target": "a.home.example",
            "key_id": b"k" * 8,
            "salt": b"s" * 32,
        }
        return m.RouteDirection(**{**values, **changes})


def test_what_it_must_not_ask_for() -> None:
    lies = Lies()
    dc, enemy = lies.victims["dc"], lies.enemy
    own = lies.b.party.enrolment.certificate
    # Before it has shown who it is, nothing; and it can show no other's certificate.
    assert enemy.try_(dc, lies.direction()) is RefusalCode.NOT_AUTHORISED
    stolen = replace(lies.offer, certificate=lies.certificate_of("dc"))
    assert enemy.try_(dc, stolen) is RefusalCode.CERTIFICATE_INVALID
    assert enemy.ask(dc, lies.offer) == Ack()
    before, told = state(lies.a), len(lies.a.of(Contact))
    for message, code in (
        (m.InformationRequest("a.home.example", own), RefusalCode.WRONG_DOMAIN),
        (
            m.InformationRequest("a.home.example", enemy.certificate),
            RefusalCode.CERTIFICATE_INVALID,
        ),
        (m.InformationRequest("nobody.home.example", lies.node), RefusalCode.UNKNOWN_NAME),
        (lies.direction(certificate=own), RefusalCode.WRONG_DOMAIN),
        (lies.direction(target=f"x.{EVIL}"), RefusalCode.UNKNOWN_NAME),
        (lies.direction(key_id=b"u" * 8), RefusalCode.KEY_UNKNOWN),
        (lies.direction(coordinator=lies.certificate_of("dc")), RefusalCode.CERTIFICATE_INVALID),
        # What the node itself says no to comes back the same way.
        (lies.direction(ipv4=bytes((198, 18, 0, 9))), RefusalCode.CERTIFICATE_INVALID),
        (lies.direction(ipv4=bytes((10, 0, 0, 1))), RefusalCode.CERTIFICATE_INVALID),
        (m.NotificationRequest(lies.a.party.public_key), RefusalCode.UNSUPPORTED),
    ):
        assert enemy.try_(dc, message) is code, (message, code)
        assert state(lies.a) == before
        assert len(lies.a.of(Contact)) == told
    # Nor does it command the servers of others.
    request = m.NotificationRequest(lies.a.party.public_key)
    assert enemy.try_(lies.victims["ns"], request) is RefusalCode.NOT_AUTHORISED


@pytest.mark.parametrize(
    "what",
    [
        "another name",
        "a node of the caller's domain",
        "another's word",
        "a foreign address",
        "itself",
    ],
)
def test_what_it_must_not_answer(what: str) -> None:
    """A node of ours looks up x.evil.example."""
    lies = Lies()
    domain, a = lies.domain, lies.a
    other = signed(domain, "node", f"y.{EVIL}", lies.key)
    good = m.InformationResponse(
        certificate=lies.node,
        ipv4=bytes((198, 18, 16, 9)),
        ipv6=b"",
        seen_endpoint=lies.place,
        local_endpoints=(lies.place,),
        behind_nat=False,
        coordinator=lies.enemy.certificate,
    )
    changes: dict[str, Any] = {
        "another name": {"certificate": other},
        "a node of the caller's domain": {"certificate": lies.b.party.enrolment.certificate},
        "another's word": {"coordinator": lies.certificate_of("dc")},
        "a foreign address": {"ipv4": bytes((198, 18, 0, 9))},
        "itself": {"certificate": lies.enemy.certificate},
    }
    lies.enemy.replies |= {
        m.InformationRequest: replace(good, **changes[what]),
        m.RouteDirection: Ack(),
    }
    before = state(a)
    request_id = a.party.resolve(f"x.{EVIL}", domain.network.now)
    assert isinstance(domain.answer(a, request_id), Unresolved)
    assert state(a) == before
    # It was asked; and an answer without the lie is followed.
    assert any(isinstance(e.message, m.InformationRequest) for _, e in lies.enemy.heard)
    lies.enemy.replies[m.InformationRequest] = good
    a.party.resolve(f"x.{EVIL}", domain.network.now)
    domain.network.run(2.0)
    assert a.of(Contact)[-1].public_key == lies.key
