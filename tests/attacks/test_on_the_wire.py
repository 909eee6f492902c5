"""Datagrams of every type of control message, repeated, reordered, cut and changed on their way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from attack_scene import MESSAGES, VICTIMS, Scene, state

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop
from ntmpatch.packet.tunnel.cookie import CookieHolder
from ntmpatch.wire.wireguard import DATA, INITIATION, MIN_DATA_SIZE, RESPONSE

if TYPE_CHECKING:
    from wire_domain import Puppet
    from wire_network import Datagram, Seat

    from ntmpatch.wire.control_messages import Message

ELSEWHERE = Endpoint("203.0.113.200", 7)
MOMENT = 0.008
"""Seconds for one datagram: all are through before a server forgets the sender as a stranger."""


class Tapped:
    """An honest sender's channel to a victim, with the attacker's hand on it."""

    def __init__(self, victim: str) -> None:
        self.scene = Scene()
        self.network = self.scene.domain.network
        self.seat: Seat = self.scene.victims[victim]
        self.sender: Puppet = self.scene.enemy("node", victim)
        if victim != "node":
            assert self.sender.meet(self.seat)
        self.network.run(1.0)
        self.delivered: list[bytes] = []
        receive: Any = self.seat.party.receive

        def counted(peer: bytes, payload: bytes, now: float, source: Endpoint | None) -> None:
            if peer == self.sender.public_key:
                self.delivered.append(payload)
            receive(peer, payload, now, source)

        self.seat.party.receive = counted

    def held(self, message: Message) -> Datagram:
        """The datagram of a message, taken off the wire."""
        taken: list[Datagram] = []

        def take(datagram: Datagram) -> list[Datagram]:
            if datagram.source == self.sender.seat.endpoint and datagram.data[0] == DATA:
                taken.append(datagram)
                return []
            return [datagram]

        self.network.attack = take
        self.sender.say(self.seat, message)
        self.network.run(MOMENT)
        self.network.attack = lambda datagram: [datagram]
        (datagram,) = [each for each in taken if len(each.data) > MIN_DATA_SIZE]
        return datagram

    def arrives(self, data: bytes, source: Endpoint | None = None) -> list[Drop]:
        """Let this come to the victim; the drops that it made there."""
        before = self.seat.tunnel.drops.copy()
        self.network.inject(source or self.sender.seat.endpoint, self.seat.seen, data)
        self.network.run(MOMENT)
        return sorted((self.seat.tunnel.drops - before).elements())

    def endpoint(self) -> object:
        """Where the victim believes the sender to be."""
        return self.seat.tunnel.peers[self.sender.public_key].endpoint


def flipped(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def name_of_flip(bit: int) -> Drop:
    """Type and reserved bytes, receiver's index, then counter and sealed bytes."""
    if bit < 32:
        return Drop.TUNNEL_UNKNOWN_TYPE
    return Drop.TUNNEL_UNKNOWN_SESSION if bit < 64 else Drop.TUNNEL_FORGED


@pytest.mark.parametrize("victim", VICTIMS)
def test_each_message_counts_once_whole_and_unchanged(victim: str) -> None:
    tapped = Tapped(victim)
    seat, scene = tapped.seat, tapped.scene
    rng = scene.domain.rng
    for kind, make in MESSAGES.items():
        datagram = tapped.held(make(scene, tapped.sender))
        data = datagram.data
        before, count = state(seat), len(tapped.delivered)
        # Cut: nothing that is shorter than an empty packet has a tag to be checked.
        for size in {0, 3, 4, 31, 32, len(data) - 1, rng.randrange(len(data))}:
            short = Drop.TUNNEL_RUNT if size < MIN_DATA_SIZE else Drop.TUNNEL_FORGED
            assert tapped.arrives(data[:size], ELSEWHERE) == [short] * bool(size), (kind, size)
        # Longer, changed, and somebody else's.
        assert tapped.arrives(data + b"x", ELSEWHERE) == [Drop.TUNNEL_FORGED]
        for bit in (0, 2, 9, 40, 70, 130, 8 * len(data) - 1, rng.randrange(8 * len(data))):
            assert tapped.arrives(flipped(data, bit), ELSEWHERE) == [name_of_flip(bit)], (kind, bit)
        assert len(tapped.delivered) == count
        assert state(seat) == before
        assert tapped.endpoint() == tapped.sender.seat.endpoint
        # The true one counts, once; the second time not even its source is believed.
        assert tapped.arrives(data) == []
        assert len(tapped.delivered) == count + 1
        after = state(seat)
        assert tapped.arrives(data, ELSEWHERE) == [Drop.TUNNEL_REPLAYED]
        assert len(tapped.delivered) == count + 1
        assert state(seat) == after
        assert tapped.endpoint() == tapped.sender.seat.endpoint


@pytest.mark.parametrize("victim", VICTIMS)
def test_messages_that_overtook_each_other_all_count_and_move_nobody(victim: str) -> None:
    tapped = Tapped(victim)
    datagrams = [tapped.held(make(tapped.scene, tapped.sender)) for make in MESSAGES.values()]
    newest = datagrams.pop()
    assert tapped.arrives(newest.data) == []
    tapped.scene.domain.rng.shuffle(datagrams)
    for datagram in datagrams:
        # From another source: what is older than the newest does not say where the sender is.
        assert tapped.arrives(datagram.data, ELSEWHERE) == []
    assert len(tapped.delivered) == len(MESSAGES)
    assert tapped.endpoint() == tapped.sender.seat.endpoint


def test_handshakes_repeated_cut_and_changed() -> None:
    tapped = Tapped("dc")
    network, seat = tapped.network, tapped.seat
    here = tapped.sender.seat.endpoint
    first = len(network.wire)
    network.run(1.0)
    tapped.sender.seat.tunnel.peers[seat.party.public_key].restart_handshake(network.now)
    network.run(1.0)
    wire = [each for each in network.wire[first:] if here in (each.source, each.destination)]
    initiation = next(each.data for each in wire if each.data[0] == INITIATION)
    response = next(each.data for each in wire if each.data[0] == RESPONSE)
    sent = dict(seat.bytes_out)
    sessions = len(seat.tunnel._sessions)

    assert tapped.arrives(initiation, ELSEWHERE) == [Drop.TUNNEL_OLD_INITIATION]
    assert tapped.arrives(response, ELSEWHERE) == [Drop.TUNNEL_BAD_MAC1]  # it was for the other
    for size in (4, 147):
        assert tapped.arrives(initiation[:size], ELSEWHERE) == [Drop.TUNNEL_WRONG_SIZE]
    assert tapped.arrives(initiation + b"x", ELSEWHERE) == [Drop.TUNNEL_WRONG_SIZE]
    for bit in (33, 70, 400, 900):
        changed = flipped(initiation, bit)
        assert tapped.arrives(changed, ELSEWHERE) == [Drop.TUNNEL_BAD_MAC1]
        # Whoever knows the coordinator's public key can make the MAC right, and no more.
        stamped = CookieHolder(seat.party.public_key, lifetime=1.0).stamp(changed, network.now)
        expected = [Drop.TUNNEL_OLD_INITIATION if bit < 64 else Drop.TUNNEL_BAD_HANDSHAKE]
        assert tapped.arrives(stamped, ELSEWHERE) == expected
    assert seat.bytes_out == sent
    assert len(seat.tunnel._sessions) == sessions
    assert tapped.endpoint() == here


def test_a_response_and_a_cookie_that_nobody_asked_for() -> None:
    tapped = Tapped("node")
    holder = CookieHolder(tapped.seat.party.public_key, lifetime=1.0)
    response = holder.stamp(bytes((RESPONSE, 0, 0, 0)) + bytes(88), tapped.network.now)
    assert tapped.arrives(response) == [Drop.TUNNEL_UNKNOWN_HANDSHAKE]
    assert tapped.arrives(bytes((3, 0, 0, 0)) + bytes(60)) == [Drop.TUNNEL_BAD_COOKIE]
