"""What a coordinator writes of its nodes: all that has changed, and not what has not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domain import Domain
from memory_stores import MemoryDirectionStore

from ntmpatch.base.addresses import Endpoint
from ntmpatch.servers.direction.server import SERVED_REGISTRATION_INTERVAL, STORED_FOR
from ntmpatch.signalling.effects import Assigned

if TYPE_CHECKING:
    import pytest
    from virtual_network import Seat

    from ntmpatch.servers.direction.store import NodeRecord
    from ntmpatch.signalling.effects import Work

HERE, THERE, ELSEWHERE = (Endpoint(f"198.51.100.{number}", 1000) for number in (1, 2, 3))


class CountingStore(MemoryDirectionStore):
    """Remembers what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[NodeRecord] = []

    def save_node(self, record: NodeRecord) -> None:
        self.saved.append(record)
        super().save_node(record)

    def places(self) -> list[tuple[Endpoint, ...]]:
        places = [record.local_endpoints for record in self.saved]
        self.saved.clear()
        return places


def begun(**network: Any) -> tuple[Domain, CountingStore, Seat]:
    domain = Domain(3, **network)
    store = domain.locations = CountingStore()
    domain.start_servers()
    node = domain.start_node("a", HERE)
    domain.register(node)
    assert store.places() == [(HERE,)]
    return domain, store, node


def registered_at(domain: Domain, node: Seat, *places: Endpoint) -> None:
    """Register at one place after the other, without waiting for answers in between."""
    for place in places:
        node.party.network_changed((place,), domain.network.now)
    domain.network.run(3.0)


def test_a_registration_is_written_when_it_says_something_new() -> None:
    domain, store, node = begun()
    registered_at(domain, node, HERE)
    assert store.places() == []
    registered_at(domain, node, THERE)
    registered_at(domain, node, THERE)
    assert store.places() == [(THERE,)]
    assert len({assigned.ipv4 for assigned in node.of(Assigned)}) == 1

    # Now and then all the same, so that the store knows who is alive.
    domain.network.run(STORED_FOR + SERVED_REGISTRATION_INTERVAL)
    assert set(store.places()) == {(THERE,)}

    # Who left is written when it comes back, though nothing is new.
    node.party.leave(domain.network.now)
    domain.network.run(2.0)
    assert store.records["a.home.example"].local_endpoints == ()
    registered_at(domain, node, THERE)
    assert store.places() == [(THERE,)]
    assert store.records["a.home.example"].local_endpoints == (THERE,)


def test_the_store_ends_with_the_last_of_registrations_that_overtake_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    domain, store, node = begun(loss=0.1, duplication=0.1)
    rng, network = domain.rng, domain.network

    def work(seat: Seat, job: Work) -> None:
        """The coordinator hears late that a job is done."""
        outcome = job.run()
        delay = rng.choice((0.0, 0.3))
        network.at(network.now + delay, lambda: seat.party.complete(job, outcome, network.now))

    monkeypatch.setattr(network, "_work", work)
    for _ in range(60):
        network.job_delay = rng.choice((0.004, 0.3))
        places = [rng.choice((HERE, THERE, ELSEWHERE)) for _ in range(rng.randint(1, 4))]
        registered_at(domain, node, *places)
        domain.network.run(20.0)
        assert store.records["a.home.example"].local_endpoints == (places[-1],)


def test_after_a_restart_everybody_is_written_once() -> None:
    domain, store, node = begun()
    domain.network.run(5.0)
    domain.coordinator = domain.start_coordinator()
    domain.network.run(10.0)
    registered_at(domain, node, HERE)
    registered_at(domain, node, HERE)
    assert store.places() == [(HERE,)]
