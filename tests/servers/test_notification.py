"""The notification service in virtual time: restarts, deaths, moves, other device types."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from domain import Domain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.servers.notification.devices import Device
from ntmpatch.servers.notification.server import RECALL_INTERVAL
from ntmpatch.signalling.effects import Contact, Failed, Forget, Resolved, Unresolved
from ntmpatch.signalling.errors import Refused
from ntmpatch.signalling.process import ask
from ntmpatch.wire.control import Kind
from ntmpatch.wire.control_messages import (
    Ack,
    Message,
    Recall,
    RefusalCode,
    ServiceRegistration,
)
from ntmpatch.wire.control_registration import RegistrationRequest

if TYPE_CHECKING:
    from virtual_network import Captured, Seat

pytestmark = pytest.mark.once

HOUR = 3600.0
SECOND_NS = 13


def ready_domain(seed: int) -> Domain:
    domain = Domain(seed)
    domain.start_servers()
    return domain


def nodes_behind_nats(domain: Domain, count: int) -> list[Seat]:
    nodes = [
        domain.start_node(
            f"n{number}",
            Endpoint(f"10.0.0.{number + 2}", 1000),
            nat=Endpoint(f"203.0.113.{number + 2}", 4000),
        )
        for number in range(count)
    ]
    domain.register(*nodes)
    return nodes


def caller(domain: Domain) -> Seat:
    node = domain.start_node("caller", Endpoint("198.51.100.1", 1000))
    domain.register(node)
    return node


def sent(domain: Domain, kind: type[Message], since: float = 0.0) -> list[Captured]:
    """Requests of this kind, first transmissions only."""
    firsts = {
        message.envelope.transaction_id: message
        for message in reversed(domain.network.captured)
        if isinstance(message.envelope.message, kind)
        and message.envelope.kind is Kind.REQUEST
        and message.at >= since
    }
    return sorted(firsts.values(), key=lambda message: message.at)


def keeps_udp_open(domain: Domain, node: Seat) -> bool:
    return node.contacts[domain.dc_key].persistent_keepalive_interval is not None


def serving(domain: Domain, node: Seat) -> Seat | None:
    """The NS that holds the node's connection, if both know it."""
    key = node.party.public_key
    for seat in domain.network.seats.values():
        service = getattr(seat.party, "_services", {}).get(key)
        if seat.up and service is not None and service.connected:
            return seat if seat.party.public_key in node.channels else None
    return None


def fresh(domain: Domain, node: Seat) -> bool:
    known = domain.coordinator.party.locations.node(node.party.public_key)
    return known is not None and known.fresh


# --- rest ------------------------------------------------------------------------------------


def test_an_idle_node_registers_once_an_hour_and_is_found_all_the_same() -> None:
    domain = ready_domain(1)
    (b,) = nodes_behind_nats(domain, 1)
    assert not keeps_udp_open(domain, b)
    began_at = domain.network.now
    domain.network.run(2 * HOUR)
    assert 2 <= len(sent(domain, RegistrationRequest, began_at)) <= 3
    b.channels.pop(domain.dc_key)  # the tunnel's session is long gone, and the NAT's mapping
    b.opened.discard(domain.dc_key)
    a = caller(domain)
    before = len(sent(domain, RegistrationRequest))
    # Sessions are not modelled: what wakes the node has to bring the channel back as well.
    domain.network.at(domain.network.now + 0.03, lambda: b.party.emit(dc_contact(domain, b)))
    assert isinstance(domain.resolve(a, "n0"), Resolved)
    assert len(sent(domain, RegistrationRequest)) == before, "to be woken is no reason to register"


def dc_contact(domain: Domain, node: Seat) -> Contact:
    contact = node.contacts[domain.dc_key]
    return Contact(contact.public_key, contact.endpoints, initiate=True)


# --- a coordinator's restart -----------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 30])
def test_after_a_restart_of_the_dc_its_ns_brings_the_nodes_back_within_seconds(count: int) -> None:
    domain = ready_domain(2)
    nodes = nodes_behind_nats(domain, count)
    domain.network.run(HOUR / 2)
    servers = [serving(domain, node) for node in nodes]
    assert all(server is domain.notification_server for server in servers)
    domain.coordinator = domain.start_coordinator()
    restarted_at = domain.network.now
    assert domain.network.run(15.0, lambda: all(fresh(domain, node) for node in nodes))
    recalls = sent(domain, Recall, restarted_at)
    assert len(recalls) == count
    instants = [message.at for message in recalls]
    assert all(b - a > 0.99 * RECALL_INTERVAL for a, b in itertools.pairwise(instants))
    domain.network.run(60.0)
    # They stayed with their NS, by the connection that they had.
    assert [serving(domain, node) for node in nodes] == servers
    assert not sent(domain, ServiceRegistration, restarted_at)
    assert not any(keeps_udp_open(domain, node) for node in nodes)
    assert isinstance(domain.resolve(caller(domain), "n0"), Resolved)


def test_recalls_without_end_cost_a_registration_in_five_seconds() -> None:
    domain = ready_domain(11)
    (b,) = nodes_behind_nats(domain, 1)
    ns = domain.notification_server
    domain.network.run(60.0)
    began_at = domain.network.now
    for _ in range(600):
        recall = Recall(domain.coordinator.party.public_key)
        ns.party.start(ask(b.party.public_key, recall, Ack, timeout=1.0))
        domain.network.run(0.05)
    assert 5 <= len(sent(domain, RegistrationRequest, began_at)) <= 7


def test_a_look_up_before_that_finds_the_node_through_any_ns() -> None:
    domain = ready_domain(3)
    nodes_behind_nats(domain, 1)
    a = caller(domain)
    domain.network.run(HOUR / 2)
    domain.coordinator = domain.start_coordinator()
    ns = domain.notification_server.party.public_key
    locations = domain.coordinator.party.locations
    assert domain.network.run(
        15.0, lambda: locations.server(ns, domain.network.now) is not None and fresh(domain, a)
    )
    node = locations.named("n0.home.example")
    assert node.notification_server is None
    assert not node.fresh
    assert isinstance(domain.resolve(a, "n0"), Resolved)


# --- deaths of notification servers ------------------------------------------------------------


def all_served(domain: Domain, nodes: list[Seat], server: Seat) -> bool:
    return all(serving(domain, node) is server for node in nodes)


def two_servers(domain: Domain, **settings: int) -> tuple[Seat, Seat]:
    first = domain.notification_server
    second = domain.start_notification_server("ns2", SECOND_NS, **settings)
    domain.network.run(10.0)
    return first, second


def test_a_node_whose_ns_dies_has_another_within_ten_seconds_and_the_rest_notice_nothing() -> None:
    for seed in range(3):
        domain = ready_domain(seed)
        first, second = two_servers(domain)
        nodes = nodes_behind_nats(domain, 12)
        domain.network.run(HOUR / 3)
        of_first = [node for node in nodes if serving(domain, node) is first]
        of_second = [node for node in nodes if serving(domain, node) is second]
        assert of_first
        assert of_second
        marks = [len(node.effects) for node in of_second]
        domain.network.kill(first)
        is_over = functools.partial(all_served, domain, nodes, second)
        assert domain.network.run(10.0, is_over), f"seed {seed}"
        domain.network.run(5.0)
        assert not any(keeps_udp_open(domain, node) for node in nodes)
        for node, mark in zip(of_second, marks, strict=True):
            assert not any(isinstance(e, Contact | Forget) for e in node.effects[mark:])
        a = caller(domain)
        for node in of_first[:2]:
            label = node.party.fqdn.partition(".")[0]
            assert isinstance(domain.resolve(a, label), Resolved)


def test_a_restarted_ns_serves_its_nodes_again_without_their_dc() -> None:
    domain = ready_domain(4)
    nodes = nodes_behind_nats(domain, 8)
    domain.network.run(60.0)
    domain.network.kill(domain.notification_server)
    down_at = domain.network.now
    domain.notification_server = domain.start_notification_server(
        key=domain.notification_server.party.public_key
    )
    assert domain.network.run(
        10.0, lambda: all(serving(domain, n) is domain.notification_server for n in nodes)
    )
    assert not sent(domain, RegistrationRequest, down_at)
    a = caller(domain)
    assert isinstance(domain.resolve(a, "n3"), Resolved)
    assert not any(isinstance(failed.error, Refused) for failed in domain.coordinator.of(Failed))


def test_with_no_ns_left_nodes_keep_their_nat_open_until_one_is_back() -> None:
    domain = ready_domain(5)
    (b,) = nodes_behind_nats(domain, 1)
    domain.network.kill(domain.notification_server)
    assert domain.network.run(15.0, lambda: keeps_udp_open(domain, b))
    domain.network.run(90.0)
    assert isinstance(domain.resolve(caller(domain), "n0"), Resolved)
    again = domain.start_notification_server()
    assert domain.network.run(90.0, lambda: serving(domain, b) is again)
    domain.network.run(1.0)
    assert not keeps_udp_open(domain, b)


def test_an_ns_that_a_node_cannot_connect_to_is_replaced_for_that_node() -> None:
    domain = ready_domain(6)
    first, second = two_servers(domain)
    for server, other in ((first, second), (second, first)):
        label = f"to-{server.party.name.partition('.')[0]}"
        key = domain.rng.randbytes(32)
        server.unreachable.add(key)
        node = domain.start_node(label, Endpoint("10.0.0.9", 1), nat=Endpoint("203.0.113.9", 9), key=key)  # fmt: skip  # noqa: E501
        domain.register(node)
        assert domain.network.run(
            20.0, lambda node=node, other=other: serving(domain, node) is other
        )


def test_a_returned_ns_gets_its_share_over_time_and_nobody_moves_to_and_fro() -> None:
    domain = ready_domain(7)
    domain.network.kill(domain.notification_server)
    first = domain.start_notification_server("ns", capacity=24)
    domain.network.run(30.0)
    nodes = nodes_behind_nats(domain, 12)
    assert all(serving(domain, node) is first for node in nodes)
    domain.start_notification_server("ns2", SECOND_NS, capacity=24)
    homes: list[Counter[str]] = []
    moves = Counter[int]()
    before = [serving(domain, node) for node in nodes]
    for _ in range(12):
        domain.network.run(HOUR / 6)
        now = [serving(domain, node) for node in nodes]
        for number, (old, new) in enumerate(zip(before, now, strict=True)):
            assert new is not None
            moves[number] += new is not old
        before = now
        homes.append(Counter("first" if home is first else "second" for home in now))
    assert homes[0]["second"] <= 4, "not all at once"
    assert 3 <= homes[-1]["second"] <= 9
    assert max(moves.values()) <= 1
    assert homes[-1] == homes[-2], "it has come to rest"


# --- moves -----------------------------------------------------------------------------------


def test_moves_in_the_midst_of_an_ns_failure_end_with_service() -> None:
    for seed in range(20):
        domain = ready_domain(100 + seed)
        first, second = two_servers(domain)
        (b,) = nodes_behind_nats(domain, 1)
        for step in range(6):
            victim = domain.rng.choice((first, second))
            if step % 2 == 0:
                domain.network.kill(victim)
            else:
                key = victim.party.public_key
                place = int(victim.endpoint.host.rpartition(".")[2])
                label = victim.party.name.partition(".")[0]
                revived = domain.start_notification_server(label, place, key=key)
                first, second = (revived, second) if victim is first else (first, revived)
            b.endpoint = Endpoint(f"10.9.{step}.9", 1000)
            b.party.network_changed((b.endpoint,), domain.network.now)
            domain.network.run(domain.rng.choice((0.0, 0.05, 0.7, 3.0)))
        if not (first.up or second.up):
            first = domain.start_notification_server("ns", key=first.party.public_key)
        assert domain.network.run(
            100.0, lambda domain=domain, b=b: serving(domain, b) is not None
        ), f"seed {seed}"
        domain.network.run(30.0)
        assert serving(domain, b) is not None, f"seed {seed}"
        assert isinstance(domain.resolve(caller(domain), "n0"), Resolved), f"seed {seed}"


# --- other device types -------------------------------------------------------------------------


class Pushes:
    """A push gateway that reaches devices at once, as a ``DeviceType``."""

    concurrency = 2

    def __init__(self) -> None:
        self.domain: Domain | None = None
        self.works = True
        self.pushed: list[Device] = []
        self.devices: dict[str, Seat] = {}

    def accepts(self, device: Device) -> bool:
        return device.push_token.startswith("tok")

    def wake(self, device: Device, payload: bytes) -> None:
        if not self.works:
            raise OSError("the gateway is down")
        self.pushed.append(device)
        seat = self.devices[device.push_token]
        assert self.domain is not None
        network = self.domain.network
        network.at(network.now + 0.2, lambda: seat.party.woken(payload, network.now))


def push_domain(seed: int) -> tuple[Domain, Pushes, Seat, Seat]:
    domain = ready_domain(seed)
    domain.network.kill(domain.notification_server)
    pushes = Pushes()
    pushes.domain = domain
    domain.notification_server = domain.start_notification_server(device_types={"pigeon": pushes})
    domain.network.run(30.0)
    b = domain.start_node(
        "b",
        Endpoint("10.0.0.2", 1000),
        nat=Endpoint("203.0.113.2", 4444),
        device_type="pigeon",
        push_token="tok-1",
    )
    pushes.devices["tok-1"] = b
    a = caller(domain)
    domain.register(b)
    return domain, pushes, a, b


def test_a_plugged_in_way_wakes_a_node_which_acknowledges_itself() -> None:
    domain, pushes, a, b = push_domain(8)
    assert domain.notification_server.party.public_key not in b.channels
    assert not keeps_udp_open(domain, b)
    before = len(domain.network.trace)
    assert isinstance(domain.resolve(a, "b"), Resolved)
    assert pushes.pushed == [Device("b.home.example", "tok-1")]
    steps = [t.step for t in domain.network.trace[before:] if t.sent and t.step.startswith("3.")]
    assert steps[steps.index("3.9") : steps.index("3.13")] == ["3.9", "3.10", "3.11", "3.12"]
    # A restart of the DC is told in the same way, and one of the NS costs no node its service.
    domain.coordinator = domain.start_coordinator()
    assert domain.network.run(20.0, lambda: fresh(domain, b))
    domain.network.kill(domain.notification_server)
    domain.notification_server = domain.start_notification_server(
        key=domain.notification_server.party.public_key, device_types={"pigeon": pushes}
    )
    domain.network.run(10.0)
    count = len(pushes.pushed)
    again = domain.start_node("again", Endpoint("198.51.100.7", 7))
    domain.register(again)
    assert isinstance(domain.resolve(again, "b"), Resolved)
    assert len(pushes.pushed) > count
    # Nor do both at once.
    domain.coordinator = domain.start_coordinator()
    domain.network.kill(domain.notification_server)
    domain.notification_server = domain.start_notification_server(
        key=domain.notification_server.party.public_key, device_types={"pigeon": pushes}
    )
    third = domain.start_node("third", Endpoint("198.51.100.8", 8))
    domain.register(third)
    domain.network.run(10.0)
    assert not fresh(domain, b)
    assert isinstance(domain.resolve(third, "b"), Resolved)


def test_what_a_node_is_woken_with_moves_it_to_nothing_else() -> None:
    domain, _, _, b = push_domain(9)
    captured = len(domain.network.captured)
    for payload in (b"x", b"\xc0" * 40, bytes(2000)):
        assert not b.party.woken(payload, domain.network.now)
    domain.network.run(0.5)
    senders = [m for m in domain.network.captured[captured:] if m.sender.startswith("node b")]
    assert not senders
    assert b.party.woken(b"", domain.network.now)  # "your coordinator wants you"
    domain.network.run(5.0)
    assert sent(domain, RegistrationRequest)[-1].sender == "node b.home.example"


def test_a_push_that_fails_costs_time_and_no_more_and_wrong_tokens_are_refused() -> None:
    domain, pushes, a, b = push_domain(10)
    pushes.works = False
    assert isinstance(domain.resolve(a, "b"), Resolved)  # (12) reaches it: its NAT is still open
    errors = [failed.error for failed in domain.coordinator.of(Failed)]
    assert any(
        isinstance(error, Refused) and error.code is RefusalCode.UNREACHABLE for error in errors
    )
    assert not isinstance(domain.resolve(a, "b"), Unresolved)
    for device_type, token in (("pigeon", "wrong"), ("owl", "tok")):
        c = domain.start_node(
            "c",
            Endpoint("10.0.0.3", 1000),
            nat=Endpoint("203.0.113.3", 5),
            device_type=device_type,
            push_token=token,
            token=domain.ticket(f"{token}.home.example"),
        )
        domain.register(c)
        assert keeps_udp_open(domain, c), "served by nobody, it keeps its NAT open"
    assert b.party.public_key in domain.notification_server.party._services
