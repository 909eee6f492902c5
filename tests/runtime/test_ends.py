"""Ports that a node opens beside everybody's: whose they are, and when they are closed."""

from __future__ import annotations

from ntmpatch.base.addresses import Endpoint
from ntmpatch.handover.networks import Network
from ntmpatch.runtime.ends import NodeEnds

FAR = Endpoint("198.51.100.1", 4460)


class Port:
    local = Endpoint("0.0.0.0", 5)

    def use_interface(self, _index: int) -> bool:
        return True


class Ports:
    """What `NodeEnds` asks of a carrier."""

    def __init__(self) -> None:
        self.local_endpoints = (Endpoint("0.0.0.0", 4460),)
        self.open: dict[int, str] = {}
        self.count = 0

    def open_port(self, _bind: Endpoint, name: str) -> int:
        self.count += 1
        self.open[self.count] = name
        return self.count

    def further_port(self, number: int) -> Port | None:
        return Port() if number in self.open else None

    def close_port(self, number: int) -> None:
        del self.open[number]

    def use_interface(self, _index: int, _name: str, *, is_ipv6: bool) -> None:
        pass


def network(name: str, number: int) -> Network:
    return Network(
        f"10.0.{number}.2", 24, name, number, has_default=True, metric=number, gateway="router"
    )


def test_ports_to_guess_with_are_of_one_network_and_a_networks_own_is_not_theirs() -> None:
    ports = Ports()
    ends = NodeEnds()
    ends.use(ports)  # type: ignore[arg-type]  # what of a carrier is asked
    ends.update((network("eth1", 1), network("eth2", 2)))
    assert list(ports.open.values()) == ["eth2"]
    (_, by_other) = ends.paths_to(FAR)
    guessed = ends.open_ports(FAR, 3)
    ends.close_ports([by_other, guessed[0], guessed[0], FAR])
    assert list(ports.open.values()) == ["eth2", "guessed port", "guessed port"]
    assert ends.update((network("eth1", 1), network("eth2", 2))) == frozenset()
    assert all(map(ends.is_open, guessed[1:]))
    ends.update((network("eth3", 3), network("eth4", 4)))
    assert list(ports.open.values()) == ["eth4"]
    assert not any(map(ends.is_open, guessed))
    ends.close_ports(guessed)
