"""Claiming another's name or address: at the coordinator, in a direction, and inside the tunnel."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import pytest
from attack_scene import Scene, signed, state
from msgspec.structs import replace
from wire_domain import WireDomain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.crypto.certificate import Certificate, issue
from ntmpatch.runtime.packets import PacketSide, Route
from ntmpatch.signalling.effects import Assigned, Contact, Failed, Forget
from ntmpatch.signalling.engine import Request
from ntmpatch.signalling.process import ask
from ntmpatch.wire import ip, udp
from ntmpatch.wire.control import decode_untrusted
from ntmpatch.wire.control_messages import (
    Ack,
    Address,
    RefusalCode,
    RelayLeg,
    RouteDirection,
    ServiceRegistration,
)
from ntmpatch.wire.control_registration import (
    Deregistration,
    RegistrationRequest,
    RegistrationResponse,
    ServerAnnouncement,
)

if TYPE_CHECKING:
    from wire_domain import Puppet


# --- at the servers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("another's", RefusalCode.CERTIFICATE_INVALID),
        ("self-made", RefusalCode.CERTIFICATE_INVALID),
        ("expired", RefusalCode.CERTIFICATE_INVALID),
        ("not yet valid", RefusalCode.CERTIFICATE_INVALID),
        ("a server's", RefusalCode.CERTIFICATE_INVALID),
        ("cut", RefusalCode.CERTIFICATE_INVALID),
        ("changed", RefusalCode.CERTIFICATE_INVALID),
        ("of another domain", RefusalCode.NOT_AUTHORISED),
        ("of an older key of the name", RefusalCode.NOT_ENROLLED),
    ],
)
def test_a_node_registers_under_the_name_that_the_as_gave_its_key_only(
    what: str, code: RefusalCode
) -> None:
    scene = Scene()
    domain = scene.domain
    eve = domain.stranger()
    key, now = eve.public_key, domain.network.wall_clock()
    name = "a.home.example"
    mine = signed(domain, "node", name, key)
    shown = {
        "another's": scene.certificate_of("node"),
        "self-made": issue(Certificate("node", name, key, (), now, now + 9), bytes(32)),
        "expired": signed(domain, "node", name, key, not_after=now - 1),
        "not yet valid": signed(domain, "node", name, key, not_before=now + 60),
        "a server's": signed(domain, "ns", name, key),
        "cut": mine[:-1],
        "changed": mine[:-1] + bytes((mine[-1] ^ 1,)),
        "of another domain": signed(domain, "node", "a.evil.example", key),
        # Signed in earlier days, and the AS has forgotten the key since.
        "of an older key of the name": mine,
    }[what]
    before = state(scene.victims["dc"])
    answer = eve.try_(domain.coordinator, RegistrationRequest(shown, (), "none", 2**62))
    assert answer is code
    assert state(scene.victims["dc"]) == before
    assert scene.a.party.peers.named("b.home.example").is_up


def test_a_registration_that_came_late_does_not_move_a_node_back() -> None:
    scene = Scene()
    eve = scene.domain.member("eve")
    here, there = (Address("192.0.2.200", port) for port in (1, 2))
    base = int(scene.domain.network.wall_clock() * 1e6)

    def register(serial: int, place: Address) -> object:
        message = RegistrationRequest(eve.certificate, (place,), "none", serial)
        return eve.try_(scene.domain.coordinator, message)

    assert register(base + 1000, here) is None
    before = state(scene.victims["dc"])
    assert register(base, there) is RefusalCode.BUSY
    assert state(scene.victims["dc"]) == before


def test_what_a_node_says_makes_no_lines_of_its_own_in_a_servers_log() -> None:
    """A device type that nobody has comes back in a refusal, which the coordinator logs."""
    scene = Scene()
    eve, dc = scene.domain.member("eve"), scene.victims["dc"]
    forged = "x\n\x1b[31mERROR: all is lost"
    for serial in (1, 2):
        eve.ask(
            scene.domain.coordinator,
            RegistrationRequest(eve.certificate, (), forged, 10**15 + serial),
            step="5.3",
        )
    lines = [str(failed.error) for failed in dc.of(Failed)]
    assert any("all is lost" in line for line in lines)
    assert all(line.isprintable() for line in lines)


def test_servers_of_others_names_and_domains_are_not_heard() -> None:
    scene = Scene()
    domain = scene.domain
    before = state(scene.victims["dc"])
    for role, name, code in (
        ("ns", "ns.evil.example", RefusalCode.NOT_AUTHORISED),
        ("node", "ns3.home.example", RefusalCode.NOT_AUTHORISED),
        ("dc", "dc9.home.example", RefusalCode.NOT_AUTHORISED),
        ("rs", "rs.home.example.evil.example", RefusalCode.NOT_AUTHORISED),
    ):
        enemy = domain.enrolled(name, role)
        announcement = ServerAnnouncement(enemy.certificate, (Address("203.0.113.1", 1),), 0.0)
        assert enemy.try_(domain.coordinator, announcement) is code, name
        assert state(scene.victims["dc"]) == before
    # A node of another name is not woken in place of the one that is served.
    member = domain.member("eve")
    answer = member.try_(domain.notification_server, ServiceRegistration(member.certificate))
    assert answer is RefusalCode.NOT_REGISTERED


# --- in directions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("an address outside the leased prefix", RefusalCode.CERTIFICATE_INVALID),
        ("an IPv6 address outside the leased prefix", RefusalCode.CERTIFICATE_INVALID),
        ("an address of five bytes", RefusalCode.CERTIFICATE_INVALID),
        ("no address", RefusalCode.CERTIFICATE_INVALID),
        ("an address of the receiver's own", RefusalCode.CERTIFICATE_INVALID),
        ("the receiver itself", RefusalCode.CERTIFICATE_INVALID),
        ("a server in place of a node", RefusalCode.CERTIFICATE_INVALID),
        ("a node as its coordinator", RefusalCode.CERTIFICATE_INVALID),
        ("a self-made certificate", RefusalCode.CERTIFICATE_INVALID),
        ("a coordinator of another domain", RefusalCode.WRONG_DOMAIN),
        ("a relay that is none", RefusalCode.CERTIFICATE_INVALID),
    ],
)
def test_a_node_believes_a_direction_only_as_far_as_the_as_vouches(
    what: str, code: RefusalCode
) -> None:
    """By its own, true coordinator, which lies."""
    scene = Scene()
    domain, coordinator, victim = scene.domain, scene.victims["dc"], scene.a
    good = next(each.message for each in _told(scene) if isinstance(each.message, RouteDirection))
    own = victim.of(Assigned)[-1]
    stranger = domain.new_key()
    evil = signed(domain, "dc", "dc.evil.example", stranger, prefixes=("198.18.0.0/22",))
    leg = {"endpoints": (Address("203.0.113.9", 1),), "session_id": 1, "side": 0}
    changes: dict[str, Any] = {
        "an address outside the leased prefix": {"ipv4": bytes((198, 19, 0, 1))},
        "an IPv6 address outside the leased prefix": {
            "ipv6": ipaddress.ip_address("fd00:9::1").packed
        },
        "an address of five bytes": {"ipv4": bytes((198, 18, 0, 1, 1))},
        "no address": {"ipv4": b"", "ipv6": b""},
        "an address of the receiver's own": {"ipv4": own.ipv4},
        "the receiver itself": {"certificate": scene.certificate_of("node")},
        "a server in place of a node": {"certificate": scene.certificate_of("rs")},
        "a node as its coordinator": {"coordinator": scene.certificate_of("node")},
        "a self-made certificate": {
            "certificate": issue(
                Certificate("node", "c.home.example", stranger, (), 0.0, 9e9), bytes(32)
            )
        },
        "a coordinator of another domain": {"coordinator": evil},
        "a relay that is none": {
            "relay": RelayLeg(scene.certificate_of("ns"), **leg, capability=b"c" * 32, lifetime=9.0)
        },
    }
    direction = replace(good, serial=good.serial + 1, answers=b"", **changes[what])
    before, effects = state(victim), len(victim.effects)
    answers: list[Any] = []
    coordinator.party.start(
        ask(victim.party.public_key, direction, Ack, "3.12", timeout=2.0),
        lambda value, error: answers.append(error or value),
    )
    domain.network.run(2.5)
    (answer,) = answers
    assert getattr(answer, "code", answer) is code
    assert state(victim) == before
    new = victim.effects[effects:]
    assert not [each for each in new if isinstance(each, Contact) and (each.ipv4 or each.ipv6)]
    assert not [each for each in new if isinstance(each, Forget)]


def _told(scene: Scene) -> list[Any]:
    """The directions that node a was given, as the coordinator made them: (12), (15)."""
    outbox: list[Any] = []
    receive = scene.a.party.receive

    def note(peer: bytes, payload: bytes, now: float, source: Any) -> None:
        outbox.append(decode_untrusted(payload))
        receive(peer, payload, now, source)

    scene.a.party.receive = note
    scene.a.party.start(
        scene.a.party._direct("b.home.example", "3.2", scene.domain.network.now + 8)
    )
    scene.domain.network.run(2.0)
    scene.a.party.receive = receive
    return outbox


def test_directions_that_were_overtaken_change_nothing() -> None:
    scene = Scene()
    good = next(e.message for e in _told(scene) if isinstance(e.message, RouteDirection))
    before = state(scene.a)
    contact = scene.a.of(Contact)[-1]
    party = scene.a.party
    for serial in (0, good.serial - 1, good.serial):
        stale = replace(good, serial=serial, endpoints=(Address("203.0.113.66", 6),), answers=b"")
        assert party._directed(stale, _request(scene)) == Ack()
        scene.domain.network.run(0.1)
        assert state(scene.a) == before
        assert scene.a.of(Contact)[-1] is contact


def _request(scene: Scene) -> Any:
    return Request(scene.victims["dc"].party.public_key, b"t" * 8, "3.12", Ack())


@pytest.mark.parametrize("given", ["198.19.1.1", "10.0.0.1", "127.0.0.1"])
def test_a_node_takes_no_address_outside_the_prefix_of_its_coordinator(given: str) -> None:
    domain = WireDomain(5)
    domain.start_servers()
    packed = ipaddress.ip_address(given).packed
    domain.locations.assign_addresses = lambda *_: (packed, b"")
    node: Any = domain.start_node("a", Endpoint("198.51.100.1", 1))
    domain.network.run(10.0)
    assert not node.of(Assigned)
    errors = [failed.error for failed in node.of(Failed)]
    assert {getattr(error, "code", None) for error in errors} == {RefusalCode.CERTIFICATE_INVALID}


# --- in the tunnel ----------------------------------------------------------------------------


def test_packets_with_anothers_source_stop_at_the_tunnels_end() -> None:
    """Eve has a tunnel, which was directed; what comes out of it is checked against her address."""
    scene = Scene()
    eve = scene.domain.member("eve")
    scene.tunnel(eve, scene.a)
    seat, network = scene.a, scene.domain.network
    contacts = {each.public_key: each for each in seat.of(Contact) if each.ipv4}
    drops = DropCounter()
    packets = PacketSide(mtu=1376, drops=drops)
    own = seat.of(Assigned)[-1]
    packets.assign((own.ipv4, own.ipv6))
    for key, contact in contacts.items():
        packets.add_route(Route(key, frozenset((contact.ipv4, contact.ipv6))))
    mine = contacts[eve.public_key].ipv4
    others = contacts[scene.b.party.public_key].ipv4

    def send(source: bytes) -> Drop:
        payload = b"payload"
        segment = udp.build(1, 2, len(payload)) + payload
        packet = bytes(ip.build(source, own.ipv4, ip.UDP, len(segment)) + segment)
        eve.seat.tunnel.peers[seat.party.public_key].send(packet, network.now)
        network.run(0.02)
        key, arrived = seat.packets.pop()
        before = drops.copy()
        peer: Any = seat.tunnel.peers[key]
        packets.receive(peer, [memoryview(bytearray(arrived))], network.now)
        drop, *_ = drops - before  # behind it may come that nobody was told by ICMP
        return drop

    assert send(mine) is Drop.UDP_NO_SOCKET  # hers: it reached the ports
    assert send(others) is Drop.PACKET_WRONG_SOURCE
    assert send(own.ipv4) is Drop.PACKET_WRONG_SOURCE
    assert send(ipaddress.ip_address("203.0.113.3").packed) is Drop.PACKET_WRONG_SOURCE
    packets.remove_route(eve.public_key)
    assert send(mine) is Drop.PACKET_FROM_UNROUTED_PEER


def test_a_registered_node_leaves_for_itself_only() -> None:
    scene = Scene()
    eve: Puppet = scene.domain.member("eve")
    before: Any = state(scene.victims["dc"])["nodes"]
    assert isinstance(eve.registration, RegistrationResponse)
    assert eve.ask(scene.domain.coordinator, Deregistration()) == Ack()
    after: Any = state(scene.victims["dc"])["nodes"]
    assert {name for name in before if before[name] != after.get(name)} == {"eve.home.example"}
