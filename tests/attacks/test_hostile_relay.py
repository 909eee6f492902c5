"""A relay that drops, repeats, changes and mixes up what it forwards: seen, counted, survived."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from wire_domain import WireDomain

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop
from ntmpatch.signalling.effects import Contact, Resolved
from ntmpatch.wire.relay import FRAME_DATA, RELAY_BYTE, RELAY_HEADER_SIZE
from ntmpatch.wire.wireguard import DATA

if TYPE_CHECKING:
    from collections.abc import Callable

    from wire_network import Datagram

COUNT = 40


class Relayed:
    """Two nodes behind NATs, and the relay between them in the enemy's hand."""

    def __init__(self) -> None:
        self.domain = domain = WireDomain(6)
        domain.start_servers()
        self.a: Any = domain.start_node(
            "a", Endpoint("10.0.0.1", 1), nat=Endpoint("198.51.100.1", 1)
        )
        self.b: Any = domain.start_node(
            "b", Endpoint("10.0.0.2", 1), nat=Endpoint("198.51.100.2", 1)
        )
        domain.register(self.a, self.b)
        assert isinstance(domain.resolve(self.a, "b"), Resolved)
        contact = [each for each in self.a.of(Contact) if each.name == "b.home.example"][-1]
        assert contact.relay is not None
        self.relay: Any = domain.relay_server
        self.network = domain.network
        self.sent = 0

    def corrupt(self, change: Callable[[Datagram], list[Datagram]]) -> None:
        """Let the relay do this with the data that it forwards."""

        def attack(datagram: Datagram) -> list[Datagram]:
            data = datagram.data
            is_data = (
                datagram.source == self.relay.seen
                and data[:2] == bytes((RELAY_BYTE, FRAME_DATA))
                and data[RELAY_HEADER_SIZE] == DATA
            )
            return change(datagram) if is_data else [datagram]

        self.network.attack = attack

    def send(self, count: int = COUNT) -> list[bytes]:
        """``count`` packets from a to b; those that b's tunnel let out."""
        before = len(self.b.packets)
        for _ in range(count):
            self.sent += 1
            packet = b"E" + self.sent.to_bytes(15)
            self.a.tunnel.peers[self.b.party.public_key].send(packet, self.network.now)
            self.network.run(0.002)
        self.network.run(1.0)
        return [packet for _, packet in self.b.packets[before:]]

    def numbers(self, count: int = COUNT) -> list[int]:
        return [int.from_bytes(packet[1:16]) for packet in self.send(count)]


def test_data_that_is_repeated_changed_and_mixed_up_comes_once_and_whole() -> None:
    relayed = Relayed()
    rng = relayed.domain.rng
    older: list[Datagram] = []

    def change(datagram: Datagram) -> list[Datagram]:
        older.append(datagram)
        changed = bytearray(datagram.data)
        changed[rng.randrange(RELAY_HEADER_SIZE + 8, len(changed))] ^= 1 << rng.randrange(8)
        repeated = rng.choice(older)
        return [datagram._replace(data=bytes(changed)), repeated, datagram, datagram]

    relayed.corrupt(change)
    before = relayed.b.drops
    assert sorted(relayed.numbers()) == list(range(1, COUNT + 1))
    drops = relayed.b.drops - before
    assert drops[Drop.TUNNEL_FORGED] >= COUNT
    assert drops[Drop.TUNNEL_REPLAYED] >= COUNT
    assert set(drops) == {Drop.TUNNEL_FORGED, Drop.TUNNEL_REPLAYED}


def test_a_relay_that_sends_to_another_session_reaches_nobody() -> None:
    relayed = Relayed()
    relayed.corrupt(lambda each: [each._replace(data=each.data[:4] + bytes(4) + each.data[8:])])
    before = relayed.b.drops
    assert relayed.numbers() == []
    assert (relayed.b.drops - before)[Drop.RELAY_UNKNOWN_SESSION] >= COUNT


def test_a_relay_that_drops_half_costs_half() -> None:
    relayed = Relayed()
    relayed.corrupt(lambda each: [each] if relayed.domain.rng.random() < 0.5 else [])
    arrived = relayed.numbers()
    assert COUNT / 4 < len(arrived) < COUNT
    relayed.corrupt(lambda each: [each])
    assert len(relayed.numbers()) == COUNT


@pytest.mark.parametrize("seconds", [20.0, 200.0])
def test_a_tunnel_outlives_a_relay_that_was_silent_for_a_while(seconds: float) -> None:
    """Both ends notice that nothing comes, call again, and go on when something does."""
    relayed = Relayed()
    assert len(relayed.numbers(3)) == 3
    relayed.network.attack = lambda each: [] if each.source == relayed.relay.seen else [each]
    assert relayed.numbers(3) == []
    relayed.network.run(seconds)
    relayed.network.attack = lambda each: [each]
    relayed.network.run(5.0)
    assert isinstance(relayed.domain.resolve(relayed.a, "b"), Resolved)
    assert len(relayed.numbers(3)) >= 3
