"""Tunnels in virtual time: handshakes, rekeying, roaming, replays, load, strangers."""

from __future__ import annotations

import random

import pytest
from tunnel_net import TunnelNet

from ntmpatch.base.drops import Drop
from ntmpatch.packet.tunnel.constants import Timers
from ntmpatch.packet.tunnel.tunnel import (
    Admitted,
    EndpointChanged,
    Established,
    Expired,
    Tunnel,
)
from ntmpatch.wire.wireguard import DATA, INITIATION


def pair(net: TunnelNet, psk: bytes = bytes(32)) -> tuple[Tunnel[str], Tunnel[str]]:
    a, b = net.add("a"), net.add("b")
    a.add_peer(b.public_key, preshared_key=psk, endpoint="b")
    b.add_peer(a.public_key, preshared_key=psk)
    return a, b


def text(number: int) -> bytes:
    """An inner packet that says what it is; a multiple of 16, so padding adds nothing."""
    return b"E%015d" % number


def test_a_packet_waits_for_the_handshake_and_then_arrives():
    net = TunnelNet()
    a, b = pair(net, psk=b"s" * 32)
    a.peers[b.public_key].send(text(1), net.now)
    net.run(1.0)
    assert net.received["b"] == [text(1)]
    assert [type(event) for event in net.events["a"]] == [Established]
    assert [type(event) for event in net.events["b"]] == [Established]
    b.peers[a.public_key].send(text(2), net.now)
    net.run(1.0)
    assert net.received["a"] == [text(2)]


def test_different_preshared_keys_never_meet():
    net = TunnelNet()
    a, b = pair(net, psk=b"s" * 32)
    b.add_peer(a.public_key, preshared_key=b"t" * 32)
    a.peers[b.public_key].send(text(1), net.now)
    net.run(100.0)
    assert net.received["b"] == []
    assert [type(event) for event in net.events["a"]] == [Expired]
    assert a.drops[Drop.TUNNEL_BAD_HANDSHAKE] > 0
    assert a.drops[Drop.TUNNEL_PEER_SILENT] == 1


def test_both_calling_at_once_end_in_sessions_that_carry_both_ways():
    net = TunnelNet()
    a, b = pair(net)
    b.peers[a.public_key].endpoint = "a"
    a.peers[b.public_key].send(text(1), net.now)
    b.peers[a.public_key].send(text(2), net.now)
    net.run(5.0)
    a.peers[b.public_key].send(text(3), net.now)
    b.peers[a.public_key].send(text(4), net.now)
    net.run(5.0)
    assert net.received == {"a": [text(2), text(4)], "b": [text(1), text(3)]}


@pytest.mark.parametrize("seed", range(5))
def test_an_hour_of_traffic_is_rekeyed_without_losing_a_packet(seed):
    net = TunnelNet(seed)
    a, b = pair(net)
    b.peers[a.public_key].endpoint = "a"
    sent = {"a": [], "b": []}
    number = 0
    while net.now < 1000.0 + 3600:
        if net.rng.random() < 0.5:
            a.peers[b.public_key].send(text(number), net.now)
            sent["b"].append(text(number))
        else:
            b.peers[a.public_key].send(text(number), net.now)
            sent["a"].append(text(number))
        number += 1
        net.run(net.rng.random() * 20.0)
    net.run(60.0)
    for address, packets in sent.items():
        assert sorted(net.received[address]) == sorted(packets)
    handshakes = sum(datagram[0] == INITIATION for _, _, datagram in net.sent)
    assert 3600 / 180 <= handshakes <= 2 * 3600 / 120 + 2


@pytest.mark.parametrize("seed", range(10))
def test_loss_delays_the_handshake_and_never_prevents_it(seed):
    net = TunnelNet(seed, loss=0.4)
    a, b = pair(net)
    a.peers[b.public_key].send(text(1), net.now)
    net.run(89.0)
    assert a.peers[b.public_key].current is not None
    assert b.peers[a.public_key].current is not None or b.peers[a.public_key].next is not None


def test_first_retries_come_before_the_five_seconds():
    net = TunnelNet()
    a = net.add("a")
    peer = a.add_peer(b"\x09" + bytes(31), endpoint="nowhere", first_retries=(0.1, 0.2))
    peer.initiate(net.now)
    net.run(1.0)
    assert len(net.sent) == 3


def test_silence_is_broken_by_a_keepalive_and_a_lost_peer_by_a_handshake():
    net = TunnelNet()
    a, b = pair(net)
    a.peers[b.public_key].send(text(1), net.now)
    net.run(1.0)
    net.sent.clear()
    net.run(12.0)
    assert [(source, datagram[0], len(datagram)) for source, _, datagram in net.sent] == [
        ("b", DATA, 32)
    ]
    net.move("b", "elsewhere")
    net.sent.clear()
    a.peers[b.public_key].send(text(2), net.now)
    net.run(16.0)
    assert INITIATION in [datagram[0] for _, _, datagram in net.sent]


def test_persistent_keepalives_hold_the_interval():
    net = TunnelNet()
    a, b = pair(net)
    peer = a.peers[b.public_key]
    peer.persistent_keepalive_interval = 5.0
    peer.initiate(net.now)
    net.run(1.0)
    net.sent.clear()
    net.run(100.0)
    assert 19 <= sum(source == "a" for source, _, _ in net.sent) <= 22


def test_a_peer_that_moves_is_followed_and_keeps_its_session():
    net = TunnelNet()
    a, b = pair(net)
    a.peers[b.public_key].send(text(1), net.now)
    net.run(1.0)
    session = b.peers[a.public_key].current
    net.move("a", "a2")
    a.peers[b.public_key].keepalive(net.now)
    net.run(1.0)
    assert b.peers[a.public_key].endpoint == "a2"
    assert isinstance(net.events["b"][-1], EndpointChanged)
    b.peers[a.public_key].send(text(2), net.now)
    net.run(1.0)
    assert net.received["a2"] == [text(2)]
    assert b.peers[a.public_key].current is session


def test_a_late_packet_from_the_old_address_does_not_move_the_peer_back():
    net = TunnelNet()
    a, b = pair(net)
    a.peers[b.public_key].send(text(1), net.now)
    net.run(1.0)
    a.peers[b.public_key].send(text(2), net.now)
    transmit = a.poll_transmit()
    assert transmit is not None
    late = transmit[1]
    net.move("a", "a2")
    a.peers[b.public_key].send(text(3), net.now)
    net.run(1.0)
    assert b.peers[a.public_key].endpoint == "a2"
    net.inject("a", "b", late)
    net.run(1.0)
    assert net.received["b"] == [text(1), text(3), text(2)]
    assert b.peers[a.public_key].endpoint == "a2"


def test_replays_and_forgeries_are_dropped_by_name_and_move_nobody():
    net = TunnelNet()
    a, b = pair(net)
    a.peers[b.public_key].send(text(1), net.now)
    net.run(1.0)
    data = [datagram for _, _, datagram in net.sent if datagram[0] == DATA]
    initiation = next(datagram for _, _, datagram in net.sent if datagram[0] == INITIATION)
    forged = bytearray(data[0])
    forged[-1] ^= 1
    for datagram in (data[0], bytes(forged), initiation):
        net.inject("mallory", "b", datagram)
    net.run(1.0)
    assert b.drops[Drop.TUNNEL_REPLAYED] == 1
    assert b.drops[Drop.TUNNEL_FORGED] == 1
    assert b.drops[Drop.TUNNEL_OLD_INITIATION] == 1
    assert net.received["b"] == [text(1)]
    assert b.peers[a.public_key].endpoint == "a"


def test_an_expired_session_neither_sends_nor_receives():
    net = TunnelNet()
    a, b = pair(net)
    a.peers[b.public_key].send(text(1), net.now)
    net.run(1.0)
    a.peers[b.public_key].send(text(2), net.now)
    transmit = a.poll_transmit()
    assert transmit is not None
    net.run(181.0)
    net.inject("a", "b", transmit[1])
    net.run(0.1)
    assert text(2) not in net.received["b"]
    assert b.drops[Drop.TUNNEL_EXPIRED_SESSION] == 1


def test_keys_are_erased_after_three_times_their_life():
    net = TunnelNet()
    a, b = pair(net)
    a.peers[b.public_key].send(text(1), net.now)
    net.run(1.0)
    assert a.peers[b.public_key].current is not None
    net.run(545.0)
    assert a.peers[b.public_key].current is None
    assert not a._sessions
    assert not b._sessions


def test_under_load_a_handshake_needs_a_cookie_and_gets_through_with_it():
    net = TunnelNet()
    a, b = pair(net)
    stranger = net.add("s")
    stranger.add_peer(b.public_key, endpoint="b").initiate(net.now)
    transmit = stranger.poll_transmit()
    assert transmit is not None
    for _ in range(200):
        net.inject("flood", "b", transmit[1])
    net.run(0.001)
    a.peers[b.public_key].send(text(1), net.now)
    # The bucket refills with time; keep b under load until the retry with the cookie has come.
    for _ in range(120):
        for _ in range(8):
            net.inject("flood", "b", transmit[1])
        net.run(0.05)
    assert b.drops[Drop.TUNNEL_COOKIE_WANTED] > 100
    assert net.received["b"] == [text(1)]


def test_strangers_get_no_answer_and_leave_nothing():
    net = TunnelNet()
    _, b = pair(net)
    before = (len(b.peers), len(b._sessions), len(b._handshakes), len(b._held))
    stranger = net.add("s")
    stranger.add_peer(b.public_key, endpoint="b").initiate(net.now)
    rng = random.Random(1)
    for size in (0, 1, 4, 31, 32, 64, 92, 148, 1400):
        for first in range(6):
            junk = bytes((first, 0, 0, 0)) + rng.randbytes(1500)
            net.inject("s", "b", junk[:size])
    net.run(30.0)
    assert not [1 for source, _, _ in net.sent if source == "b"]
    assert (len(b.peers), len(b._sessions), len(b._handshakes), len(b._held)) == before
    assert b.drops[Drop.TUNNEL_UNKNOWN_PEER] > 0
    assert b.drops[Drop.TUNNEL_BAD_MAC1] > 0
    assert b.drops[Drop.TUNNEL_UNKNOWN_SESSION] > 0


def test_who_is_admitted_becomes_a_peer():
    net = TunnelNet()
    b = net.add("b", admit=lambda _key: True)
    stranger = net.add("s")
    stranger.add_peer(b.public_key, endpoint="b").send(text(1), net.now)
    net.run(1.0)
    assert [type(event) for event in net.events["b"]] == [Admitted, Established]
    assert net.received["b"] == [text(1)]


def test_an_initiation_that_overtakes_the_direction_is_answered_when_the_peer_is_named():
    """Fig. 3: the tunnel request (17) may arrive before the route direction (15)."""
    net = TunnelNet()
    a, b = net.add("a"), net.add("b")
    a.add_peer(b.public_key, endpoint="b", preshared_key=b"k" * 32).send(text(1), net.now)
    b.hold_unknown(net.now + 8.0)
    net.run(0.5)
    assert net.received["b"] == []
    b.add_peer(a.public_key, preshared_key=b"k" * 32)
    net.run(0.5)
    assert net.received["b"] == [text(1)]


@pytest.mark.parametrize("overtaken_by", [0.06, 0.5])
def test_an_initiation_that_overtakes_a_new_secret_is_answered_again_with_it(overtaken_by):
    """A tunnel that is directed again: CN knows the key of (12) before MN that of (15)."""
    net = TunnelNet()
    a, b = pair(net)
    a.peers[b.public_key].send(text(0), net.now)
    net.run(2.0)
    a.add_peer(b.public_key, preshared_key=b"k" * 32)
    a.peers[b.public_key].initiate(net.now)
    net.run(overtaken_by)
    assert a.drops[Drop.TUNNEL_BAD_HANDSHAKE] == 1, "answered with the old secret"
    calls = sum(datagram[0] == INITIATION for _, _, datagram in net.sent)
    established = len(net.events["a"])
    b.add_peer(a.public_key, preshared_key=b"k" * 32)
    net.run(0.05)
    assert len(net.events["a"]) == established + 1
    assert sum(datagram[0] == INITIATION for _, _, datagram in net.sent) == calls
    for one, other in ((a, b), (b, a)):
        one.peers[other.public_key].send(text(1), net.now)
    net.run(1.0)
    assert net.received["a"] == [text(1)]
    assert net.received["b"] == [text(0), text(1)]


def test_a_secret_that_changes_long_after_a_handshake_has_nothing_answered_again():
    net = TunnelNet()
    a, b = pair(net)
    a.peers[b.public_key].send(text(0), net.now)
    net.run(2.0)
    sent = len(net.sent)
    b.add_peer(a.public_key, preshared_key=b"k" * 32)
    net.run(0.5)
    assert len(net.sent) == sent


def test_a_batch_is_opened_in_order_and_damage_costs_one_packet():
    net = TunnelNet()
    a, b = pair(net)
    peer = a.peers[b.public_key]
    peer.send(text(0), net.now)
    net.run(1.0)
    session = peer.session(net.now)
    assert session is not None
    out = memoryview(bytearray(2048))
    datagrams = []
    for number in range(1, 41):
        size = session.seal(text(number), out)
        datagrams.append(bytes(out[:size]))
    datagrams[7] = datagrams[7][:-1] + bytes((datagrams[7][-1] ^ 1,))
    size = len(datagrams[0])
    [(_, packets)] = b.receive(memoryview(b"".join(datagrams)), size, "a", net.now)
    assert [bytes(packet) for packet in packets] == [text(n) for n in range(1, 41) if n != 8]
    assert b.drops[Drop.TUNNEL_FORGED] == 1


def test_timestamps_grow_whatever_the_clock_does():
    net = TunnelNet()
    a = net.add("a")
    stamps = []
    for jump in (0.0, 5.0, -100.0, -100.0, 0.0):
        net.now += jump
        stamps.append(a.timestamps.next())
    assert stamps == sorted(set(stamps))


def test_shortened_timers_rekey_sooner():
    net = TunnelNet()
    times = Timers(
        rekey_after_time=3.0, reject_after_time=8.0, keepalive_timeout=1.0, rekey_timeout=1.0
    )
    a = net.add("a", timers=times)
    b = net.add("b")
    a.add_peer(b.public_key, endpoint="b")
    b.add_peer(a.public_key)
    for number in range(20):
        a.peers[b.public_key].send(text(number), net.now)
        net.run(1.0)
    assert net.received["b"] == [text(number) for number in range(20)]
    assert sum(datagram[0] == INITIATION for _, _, datagram in net.sent) >= 5


def test_times_shorter_than_a_keepalive_do_not_rekey_on_every_packet():
    net = TunnelNet()
    times = Timers(rekey_after_time=2.0, reject_after_time=6.0)
    a = net.add("a", timers=times)
    b = net.add("b")
    a.add_peer(b.public_key, endpoint="b")
    b.add_peer(a.public_key, endpoint="a")
    for number in range(100):
        a.peers[b.public_key].send(text(number), net.now)
        b.peers[a.public_key].send(text(number), net.now)
        net.run(0.1)
    initiations = [at for at, _, datagram in net.sent if at == "a" and datagram[0] == INITIATION]
    assert 4 <= len(initiations) <= 6


@pytest.mark.parametrize("seed", range(40))
def test_the_responder_may_soon_send_whatever_is_lost(seed):
    """Fig. 3 (17)-(20): the caller has nothing to send, and the called must not wait for it."""
    net = TunnelNet(seed, loss=0.15)
    a, b = net.add("a"), net.add("b")
    retries = (0.1, 0.2, 0.4, 0.8)
    a.add_peer(b.public_key, endpoint="b", first_retries=retries).initiate(net.now)
    b.add_peer(a.public_key, first_retries=retries)
    net.run(7.5)
    assert b.peers[a.public_key].current is not None
