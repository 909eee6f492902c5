"""A domain with honest parties and an enemy in every role: who says what, and what it must get.

`MESSAGES` has, for every type of control message, the worst that an enemy would say with it: with
certificates of others, for names and keys of others. `ANSWERS` has by which name each receiver
refuses each enemy. A type or a handler in neither fails tests/attacks/test_every_message.py.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from message_samples import sample
from wire_domain import Puppet, WireDomain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.crypto.certificate import Certificate, issue
from ntmpatch.wire import control_messages as m
from ntmpatch.wire import control_registration as r
from ntmpatch.wire.control import Envelope, Kind, encode
from ntmpatch.wire.control_messages import (
    Ack,
    Address,
    DirectionRequest,
    Message,
    RefusalCode,
    RouteDirection,
)
from ntmpatch.wire.control_registration import ServerAnnouncement

if TYPE_CHECKING:
    from collections.abc import Callable


VICTIMS = ("as", "dc", "ns", "rs", "node")
ENEMIES = ("stranger", "node", "ns", "rs", "dc")

A, B = Endpoint("198.51.100.1", 1000), Endpoint("198.51.100.2", 1000)


class Scene:
    """``home.example`` with nodes a and b, and a tunnel between them."""

    def __init__(self, seed: int = 1) -> None:
        self.domain = domain = WireDomain(seed)
        domain.start_servers()
        self.a = domain.start_node("a", A)
        self.b = domain.start_node("b", B)
        domain.register(self.a, self.b)
        domain.resolve(self.a, "b")
        self.ticket = domain.ticket("invited.home.example")
        """Of somebody who has not enrolled yet; its id is known, its secret is not."""
        self.victims: dict[str, Any] = {
            "as": domain.account_server,
            "dc": domain.coordinator,
            "ns": domain.notification_server,
            "rs": domain.relay_server,
            "node": self.a,
        }

    def enemy(self, role: str, victim: str) -> Puppet:
        """One with a channel to the victim, as far as such a one can have it."""
        domain = self.domain
        if role == "stranger":
            return domain.stranger()
        if role == "node":
            member = domain.member("eve")
            if victim == "node":
                self.tunnel(member, self.victims[victim])
            return member
        if role == "dc":
            return domain.enrolled("dc.evil.example", "dc")
        server = domain.enrolled(f"{role}2.{domain.name}", role)
        if role == "ns" and victim == "node":
            self._serve(server)
        return server

    def tunnel(self, member: Puppet, seat: Any) -> RouteDirection:
        """Have a tunnel between an enemy node and an honest one directed; what it was told."""
        member.replies[RouteDirection] = Ack()
        member.seat.tunnel.hold_unknown(self.domain.network.now + 10.0)
        member.say(self.domain.coordinator, DirectionRequest(seat.party.fqdn), step="3.2")

        def told() -> list[RouteDirection]:
            messages = [envelope.message for _, envelope in member.heard]
            return [message for message in messages if isinstance(message, RouteDirection)]

        assert self.domain.network.run(5.0, lambda: bool(told()))
        direction = told()[-1]
        assert member.meet(seat, preshared_key=direction.preshared_key)
        return direction

    def _serve(self, server: Puppet) -> None:
        """Become the notification server of a node, which is the victim from now on."""
        domain = self.domain
        domain.notification_server.up = False
        assert server.meet(domain.coordinator)
        server.replies |= {m.ServiceRequest: Ack(), m.ServiceRegistration: Ack()}
        here = server.seat.endpoint
        announcement = ServerAnnouncement(server.certificate, (Address(here.host, here.port),), 0.0)
        for _ in range(5):  # until the honest one counts as dead
            server.say(domain.coordinator, announcement)
            domain.network.run(5.0)
        node: Any = domain.start_node("n", Endpoint("198.51.100.7", 1000))
        domain.register(node)
        self.victims["node"] = node
        assert any(
            isinstance(envelope.message, m.ServiceRegistration) for _, envelope in server.heard
        )

    def certificate_of(self, who: str) -> bytes:
        """What anybody may have seen: certificates are no secrets."""
        certificate: bytes = self.victims[who].party.enrolment.certificate
        return certificate


def signed(domain: WireDomain, role: str, fqdn: str, key: bytes, **changes: Any) -> bytes:
    """One that the AS has really signed."""
    now = domain.network.wall_clock()
    values = {
        "role": role,
        "fqdn": fqdn,
        "public_key": key,
        "prefixes": (),
        "not_before": now - 60,
        "not_after": now + 3600,
        **changes,
    }
    return issue(Certificate(**values), domain.signing_key)


def state(seat: Any) -> dict[str, object]:
    """All that an enemy would like to change at a party."""
    party = seat.party
    kept: dict[str, object] = {}
    match party.role:
        case "AS":
            store = party._store
            kept["accounts"] = {
                name: (each.role, each.public_key, each.revoked)
                for name, each in store.accounts.items()
            }
            kept["tokens"] = repr(store.tokens)
            kept["leases"] = repr(store.leases)
        case "DC":
            kept["nodes"] = {
                node.record.fqdn: (
                    node.public_key,
                    node.record.ipv4,
                    node.record.ipv6,
                    node.record.seen_endpoint,
                    node.record.local_endpoints,
                    party.sources.get(node.public_key),
                    node.fresh,
                )
                for node in party.locations.nodes()
            }
            kept["servers"] = sorted(
                (server.fqdn, server.public_key, repr(server.location))
                for role in ("ns", "rs")
                for server in party.locations.servers(role, party.now)
            )
            kept["coordinators"] = sorted(party._coordinators._known)
        case "NS":
            kept["services"] = repr(party._services)
        case "RS":
            kept["sessions"] = len(party.table)
        case "node":
            kept["peers"] = repr(party.peers._by_name)
            kept["addresses"] = party._registrar.own_addresses
            kept["coordinator"] = party._registrar._coordinator
    if party.role != "AS":
        kept["enrolment"] = party.enrolment
    return kept


def _other_certificate(scene: Scene, _: Puppet) -> bytes:
    return scene.certificate_of("node")


def _direction(scene: Scene, enemy: Puppet, **changes: Any) -> RouteDirection:
    """Node b, at the enemy's address."""
    party: Any = scene.b.party
    return RouteDirection(
        **{
            "serial": 2**62,
            "certificate": party.enrolment.certificate,
            "coordinator": scene.certificate_of("dc"),
            "ipv4": bytes((198, 18, 0, 77)),
            "ipv6": b"",
            "endpoints": (Address(enemy.seat.endpoint.host, enemy.seat.endpoint.port),),
            "initiate": True,
            "preshared_key": b"p" * 32,
            "target": "a.home.example",
            **changes,
        }
    )


def _trace(scene: Scene) -> Message:
    """Of a direction that another node asked for, and has recorded at each server."""
    transaction_id = b"recorded"
    for role in ("dc", "ns", "rs"):
        recorder = scene.victims[role].party.recorder
        recorder.begin(scene.b.party.public_key, transaction_id, scene.domain.network.now)
    return m.TraceRequest(transaction_id)


def _server_endpoint(enemy: Puppet) -> tuple[Address, ...]:
    return (Address(enemy.seat.endpoint.host, enemy.seat.endpoint.port),)


def _sample(kind: type[Message]) -> Callable[[Scene, Puppet], Message]:
    def make(scene: Scene, _: Puppet) -> Message:
        while True:
            message: Message = sample(scene.domain.rng, kind)
            with contextlib.suppress(ValueError):  # all fields at their largest do not fit
                encode(Envelope(bytes(8), Kind.REQUEST, "", message))
                return message

    return make


MESSAGES: dict[type[Message], Callable[[Scene, Puppet], Message]] = {
    # account server
    m.EnrolmentRequest: lambda _, e: m.EnrolmentRequest(bytes(16), bytes(32), _server_endpoint(e)),
    m.CertificateRenewal: lambda _, e: m.CertificateRenewal(_server_endpoint(e)),
    m.AuthenticationInquiry: lambda s, _: m.AuthenticationInquiry(
        "a.home.example", s.a.party.public_key
    ),
    m.PrefixLeaseRequest: lambda *_: m.PrefixLeaseRequest("home.example"),
    m.KeyRotationRequest: lambda s, _: m.KeyRotationRequest(s.ticket.token_id, bytes(32)),
    m.RevocationsRequest: lambda *_: m.RevocationsRequest(),
    m.RevocationNotice: lambda s, _: m.RevocationNotice(s.b.party.public_key, 1),
    # coordinator
    r.RegistrationRequest: lambda s, e: r.RegistrationRequest(
        s.certificate_of("node"), _server_endpoint(e), "none", 2**62
    ),
    r.Deregistration: lambda *_: r.Deregistration(),
    r.ServerAnnouncement: lambda s, e: r.ServerAnnouncement(
        s.certificate_of("ns"), _server_endpoint(e), 0.0
    ),
    m.DirectionRequest: lambda *_: m.DirectionRequest("b.home.example"),
    m.SharedKeyOffer: lambda s, _: m.SharedKeyOffer(
        b"k" * 8, b"k" * 32, 3600.0, s.certificate_of("dc")
    ),
    m.InformationRequest: lambda s, _: m.InformationRequest(
        "a.home.example", s.b.party.enrolment.certificate
    ),
    m.RouteDirection: _direction,
    # notification server and relay
    m.ServiceRequest: lambda s, _: m.ServiceRequest(s.a.party.public_key, "a.home.example"),
    m.ServiceRegistration: lambda s, _: m.ServiceRegistration(s.certificate_of("node")),
    m.NotificationRequest: lambda s, _: m.NotificationRequest(s.a.party.public_key),
    m.Notification: lambda _, e: m.Notification(e.public_key),
    m.Recall: lambda _, e: m.Recall(e.public_key),
    m.RelayRequest: lambda s, e: m.RelayRequest((s.a.party.public_key, e.public_key), 9e8),
    m.FederationRequest: lambda *_: m.FederationRequest(),
    m.TraceRequest: lambda s, _: _trace(s),
    # what only ever answers
    **{
        kind: _sample(kind)
        for kind in (
            m.Ack, m.Refusal, m.EnrolmentResponse, m.AuthenticationVerdict, m.PrefixLeaseResponse,
            r.RegistrationResponse, r.AnnouncementResponse, m.InformationResponse, m.RelayGrant,
            m.FederationResponse, m.TraceResponse, m.Revocations,
        )
    },
}  # fmt: skip

_NO = RefusalCode.NOT_AUTHORISED
_CERTIFICATE = RefusalCode.CERTIFICATE_INVALID
_EVERYBODY: dict[str, RefusalCode | None] = dict.fromkeys(ENEMIES, _NO)
_ENROLLED = {**_EVERYBODY, "stranger": RefusalCode.NOT_ENROLLED}

ANSWERS: dict[str, dict[type[Message], dict[str, RefusalCode | None]]] = {
    "as": {
        m.EnrolmentRequest: dict.fromkeys(ENEMIES, RefusalCode.TOKEN_WRONG),
        # Whoever is enrolled may renew its own, and nobody else's: there is no name in it.
        m.CertificateRenewal: {**dict.fromkeys(ENEMIES), "stranger": RefusalCode.NOT_ENROLLED},
        # A DC may ask about any name, and who was revoked: neither is a secret.
        m.AuthenticationInquiry: {**_ENROLLED, "dc": None},
        m.RevocationsRequest: {**_ENROLLED, "dc": None},
        # Nodes and DCs learn which domains there are: it is no secret of the members.
        m.FederationRequest: {**dict.fromkeys(ENEMIES), "stranger": RefusalCode.NOT_ENROLLED},
        m.PrefixLeaseRequest: _ENROLLED,
        m.KeyRotationRequest: {
            **dict.fromkeys(ENEMIES, RefusalCode.TOKEN_WRONG),
            "stranger": RefusalCode.NOT_ENROLLED,
        },
    },
    "dc": {
        r.RegistrationRequest: dict.fromkeys(ENEMIES, _CERTIFICATE),
        # A registered node may leave, itself; that is tested elsewhere.
        r.Deregistration: {**dict.fromkeys(ENEMIES, RefusalCode.NOT_REGISTERED), "node": None},
        r.ServerAnnouncement: dict.fromkeys(ENEMIES, _CERTIFICATE),
        m.DirectionRequest: {**dict.fromkeys(ENEMIES, RefusalCode.NOT_REGISTERED), "node": None},
        m.SharedKeyOffer: dict.fromkeys(ENEMIES, _CERTIFICATE),
        m.InformationRequest: _EVERYBODY,
        m.RouteDirection: _EVERYBODY,
        m.FederationRequest: {**dict.fromkeys(ENEMIES, RefusalCode.NOT_REGISTERED), "node": None},
        m.RevocationsRequest: {**dict.fromkeys(ENEMIES, RefusalCode.NOT_REGISTERED), "node": None},
        m.TraceRequest: dict.fromkeys(ENEMIES, RefusalCode.OTHER),
    },
    "ns": {
        m.ServiceRequest: _EVERYBODY,
        m.ServiceRegistration: dict.fromkeys(ENEMIES, _CERTIFICATE),
        m.NotificationRequest: _EVERYBODY,
        m.TraceRequest: _EVERYBODY,
    },
    "rs": {m.RelayRequest: _EVERYBODY, m.TraceRequest: _EVERYBODY},
    "node": {
        m.RouteDirection: _EVERYBODY,
        # Its own NS may wake it, but for its own coordinator only.
        m.Notification: _EVERYBODY,
        m.Recall: _EVERYBODY,
        m.RevocationNotice: _EVERYBODY,
    },
}
"""Receiver, type, enemy: the name of the refusal; None where the enemy may ask."""
