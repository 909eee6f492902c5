"""Servers that end, in virtual time: what they serve goes on, and nothing new comes to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from domain import Domain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.negotiation.node import TryAgain
from ntmpatch.servers.direction.locations import ANNOUNCEMENT_INTERVAL, ANNOUNCEMENT_LIFETIME
from ntmpatch.servers.direction.server import REGISTRATION_INTERVAL
from ntmpatch.servers.relay.server import SWEEP_INTERVAL
from ntmpatch.servers.relay.table import BIND_TIMEOUT
from ntmpatch.signalling.effects import Assigned, Ready, Resolved, Unresolved
from ntmpatch.signalling.errors import Refused
from ntmpatch.signalling.process import ask
from ntmpatch.wire.control_messages import RefusalCode, RelayGrant, RelayRequest, ServiceRequest

if TYPE_CHECKING:
    from virtual_network import Seat


def start_nodes(domain: Domain, *labels: str) -> dict[str, Seat]:
    """Registered nodes, each behind a NAT of its own."""
    nodes = {}
    for number, label in enumerate(labels, 1):
        inside, outside = Endpoint(f"10.0.{number}.1", 1000), Endpoint(f"203.0.113.{number}", 3333)
        nodes[label] = domain.start_node(label, inside, nat=outside)
    domain.register(*nodes.values())
    return nodes


def asked(domain: Domain, asker: Seat, server: Seat, message: Any, answer: type) -> Any:
    """What a server answers to a request; an exception if it refuses or is silent."""
    results: list[Any] = []
    process = ask(server.party.public_key, message, answer, timeout=5.0)
    asker.party.start(process, lambda result, error: results.append(error or result))
    assert domain.network.run(10.0, lambda: bool(results))
    return results[0]


def known(domain: Domain, server: Seat) -> Any:
    """What the coordinator knows of a server that lives."""
    party: Any = domain.coordinator.party
    return party.locations.server(server.party.public_key, domain.network.now)


def test_a_relay_goes_on_until_its_sessions_end_and_gets_no_new_ones() -> None:
    domain = Domain(1)
    domain.start_servers()
    other = domain.start_relay_server("rs2", 5)
    nodes = start_nodes(domain, "a", "b", "c", "d")
    assert domain.network.run(10.0, lambda: known(domain, other) is not None)
    assert isinstance(domain.resolve(nodes["a"], "b"), Resolved)
    relays: list[Any] = [domain.relay_server, other]
    ending, staying = sorted(relays, key=lambda relay: -len(relay.party.table))
    assert (len(ending.party.table), len(staying.party.table)) == (1, 0)

    ending.party.drain(domain.network.now)
    assert domain.network.run(1.0, lambda: known(domain, ending).draining)
    assert not ending.party.is_idle
    refusal = asked(
        domain, domain.coordinator, ending, RelayRequest((bytes(32), bytes(32)), 9.0), RelayGrant
    )
    assert isinstance(refusal, Refused)
    assert refusal.code is RefusalCode.BUSY
    domain.network.run(2 * ANNOUNCEMENT_INTERVAL)
    assert isinstance(domain.resolve(nodes["c"], "d"), Resolved)
    # The pair that was there has a session at the other one as well now.
    assert (len(ending.party.table), len(staying.party.table)) == (1, 2)

    domain.network.run(BIND_TIMEOUT + SWEEP_INTERVAL)
    assert ending.party.is_idle, "nobody bound the session, so that it ended"
    ending.party.leave(domain.network.now)
    assert domain.network.run(1.0, lambda: known(domain, ending) is None)
    assert domain.network.run(1.0, lambda: ending.party.has_told)
    domain.network.run(2 * ANNOUNCEMENT_INTERVAL)
    assert known(domain, ending) is None, "an announcement brought it back"
    assert known(domain, staying) is not None


def test_nodes_are_moved_from_a_notification_server_that_ends() -> None:
    domain = Domain(2)
    domain.start_servers()
    (node,) = start_nodes(domain, "a").values()
    other = domain.start_notification_server("ns2", 6)
    ending = domain.notification_server
    coordinator: Any = domain.coordinator.party
    assert domain.network.run(10.0, lambda: known(domain, other) is not None)
    record = coordinator.locations.node(node.party.public_key)
    assert record.notification_server == ending.party.public_key
    ending.party.drain(domain.network.now)
    domain.network.run(1.0)
    refusal = asked(
        domain, domain.coordinator, ending, ServiceRequest(bytes(32), "x.home.example"), RelayGrant
    )
    assert refusal.code is RefusalCode.BUSY
    assert domain.network.run(
        REGISTRATION_INTERVAL + 5,
        lambda: record.notification_server == other.party.public_key,
    )


def test_a_coordinator_ends_with_the_directions_under_way() -> None:
    domain = Domain(3)
    domain.start_servers()
    nodes = start_nodes(domain, "a", "b", "c")
    party: Any = domain.coordinator.party
    request_id = nodes["a"].party.resolve("b.home.example", domain.network.now)  # type: ignore[attr-defined]  # a node's
    assert domain.network.run(5.0, lambda: not party.is_idle)
    party.drain(domain.network.now)
    assert isinstance(domain.resolve(nodes["c"], "b"), Unresolved)
    (unresolved,) = nodes["c"].of(Unresolved)
    assert isinstance(unresolved.error, TryAgain)
    assert isinstance(domain.answer(nodes["a"], request_id), Resolved)
    assert domain.network.run(5.0, lambda: party.is_idle)


def test_an_account_server_ends_with_the_requests_under_way() -> None:
    domain = Domain(4)
    domain.network.job_delay = 2.0
    node = domain.start_node("a", Endpoint("198.51.100.1", 1000))
    party = domain.account_server.party
    assert domain.network.run(5.0, lambda: not party.is_idle)
    party.drain(domain.network.now)
    assert domain.network.run(5.0, lambda: party.is_idle)
    domain.network.run(1.0)
    assert node.party.certificate is not None  # type: ignore[attr-defined]  # a node's


@pytest.mark.parametrize("how", ["silent", "refusing"])
def test_a_relay_that_does_not_work_is_left_for_another(how: str) -> None:
    domain = Domain(5)
    domain.start_servers()
    other = domain.start_relay_server("rs2", 5)
    nodes = start_nodes(domain, "a", "b")
    assert domain.network.run(10.0, lambda: known(domain, other) is not None)
    broken: Any = domain.relay_server
    if how == "silent":
        broken.up = False
    else:
        broken.party.draining = True  # it has not announced so yet
    for attempt in range(4):
        result = domain.resolve(nodes["a" if attempt % 2 else "b"], "b" if attempt % 2 else "a")
        assert isinstance(result, Resolved)
    assert len(broken.party.table) == 0
    if how == "silent":
        domain.network.run(ANNOUNCEMENT_LIFETIME + ANNOUNCEMENT_INTERVAL)
        assert known(domain, broken) is None


def test_another_coordinator_with_the_same_database_goes_on_for_one_that_died() -> None:
    domain = Domain(6)
    standby = domain.start_standby("dc2", 7)
    assert domain.network.run(30.0, lambda: bool(standby.of(Ready)))
    domain.start_servers()
    nodes = start_nodes(domain, "a", "b")
    before = {label: node.of(Assigned)[-1].ipv4 for label, node in nodes.items()}
    parties: list[Any] = [domain.coordinator.party, standby.party]
    in_use = next(
        party for party in parties if party.locations.node(nodes["a"].party.public_key) is not None
    )
    domain.network.seats[in_use.public_key].up = False
    (other,) = [party for party in parties if party is not in_use]

    def moved() -> bool:
        located = [other.locations.node(node.party.public_key) for node in nodes.values()]
        return all(each is not None and each.fresh for each in located)

    assert domain.network.run(5 * REGISTRATION_INTERVAL, moved)
    domain.network.run(1.0)
    assert {label: node.of(Assigned)[-1].ipv4 for label, node in nodes.items()} == before
    assert isinstance(domain.resolve(nodes["a"], "b"), Resolved)
