"""Handshakes that cross, repeat, get lost, or come late; and what the runtime may rely on."""

from __future__ import annotations

import os

import pytest
from tunnel_net import TunnelNet

from ntmpatch.base.drops import Drop
from ntmpatch.packet.tunnel.constants import Timers
from ntmpatch.packet.tunnel.cookie import CookieHolder
from ntmpatch.packet.tunnel.tunnel import Established, Expired, Tunnel
from ntmpatch.wire.wireguard import DATA, INITIATION, RESPONSE


def text(number: int) -> bytes:
    return b"E%015d" % number


def pair(net: TunnelNet, **options) -> tuple[Tunnel[str], Tunnel[str]]:
    """Two tunnels that know each other and where the other is."""
    a, b = net.add("a"), net.add("b")
    a.add_peer(b.public_key, endpoint="b", **options)
    b.add_peer(a.public_key, endpoint="a", **options)
    return a, b


def kinds(net: TunnelNet, kind: int) -> int:
    return sum(datagram[0] == kind for _, _, datagram in net.sent)


def test_handshakes_repeated_within_a_round_trip_are_done_after_one_round_trip():
    """Every repetition is answered as well; none of the answers undoes another."""
    net = TunnelNet(delay=0.15)
    a, b = pair(net, first_retries=(0.1, 0.2, 0.4, 0.8))
    a.peers[b.public_key].send(text(0), net.now)
    net.run(0.55)
    assert kinds(net, INITIATION) > 1
    assert net.received["b"] == [text(0)]
    for number in range(1, 40):
        a.peers[b.public_key].send(text(number), net.now)
        b.peers[a.public_key].send(text(number), net.now)
        net.run(0.05)
    net.run(1.0)
    assert sorted(net.received["b"]) == [text(number) for number in range(40)]
    assert sorted(net.received["a"]) == [text(number) for number in range(1, 40)]


@pytest.mark.parametrize("seed", range(8))
def test_who_called_at_once_renews_before_the_sessions_end(seed):
    """Each end is initiator of the session it sends with, so nobody has to wait at 180 s."""
    net = TunnelNet(seed)
    a, b = pair(net)
    a.peers[b.public_key].send(text(0), net.now)
    b.peers[a.public_key].send(text(0), net.now)
    net.run(2.0)
    for peer in (a.peers[b.public_key], b.peers[a.public_key]):
        assert peer.current is not None
    sent = 1
    for number in range(1, 600):
        for tunnel, other in ((a, b), (b, a)):
            peer = tunnel.peers[other.public_key]
            assert peer.session(net.now) is not None
            peer.send(text(number), net.now)
        sent += 1
        net.run(1.0)
    assert len(net.received["a"]) == len(net.received["b"]) == sent


@pytest.mark.parametrize("seed", range(6))
def test_hours_over_a_bad_network_with_moves_lose_only_what_the_network_lost(seed):
    """Loss, reordering, moves of both ends: what was delivered opens, and sessions never starve."""
    net = TunnelNet(seed, loss=0.1, delay=0.1)
    a, b = pair(net, first_retries=(0.3, 0.6), persistent_keepalive_interval=25.0)
    places = {"a": "a", "b": "b"}
    number = 0
    while net.now < 1000.0 + 2 * 3600:
        number += 1
        mover = net.rng.choice("ab")
        if net.rng.random() < 0.02:
            fresh = f"{mover}{number}"
            net.move(places[mover], fresh)
            places[mover] = fresh
            tunnel, other = (a, b) if mover == "a" else (b, a)
            for _ in range(6):
                tunnel.peers[other.public_key].keepalive(net.now)
        a.peers[b.public_key].send(text(number), net.now)
        b.peers[a.public_key].send(text(number), net.now)
        net.run(net.rng.random() * 30.0)
    data = [datagram for _, _, datagram in net.sent if datagram[0] == DATA and len(datagram) > 32]
    arrived = len(net.received[places["a"]]) + len(net.received[places["b"]])
    assert arrived > 0.85 * len(data)
    assert not [
        event for events in net.events.values() for event in events if isinstance(event, Expired)
    ]
    for tunnel in (a, b):
        assert set(tunnel.drops) <= {Drop.TUNNEL_UNKNOWN_HANDSHAKE, Drop.TUNNEL_OLD_INITIATION}


def test_packets_of_the_session_before_still_arrive_after_a_rekey():
    net = TunnelNet()
    a, b = pair(net)
    peer = a.peers[b.public_key]
    peer.send(text(0), net.now)
    net.run(119.0)
    peer.send(text(1), net.now)
    late = a.poll_transmit()
    assert late is not None
    net.run(2.0)
    peer.send(text(2), net.now)
    net.run(1.0)
    assert kinds(net, INITIATION) == 2
    net.inject("a", "b", late[1])
    net.run(1.0)
    assert net.received["b"] == [text(0), text(2), text(1)]


def test_a_packet_of_the_session_before_does_not_move_a_peer_back():
    """It may well be the newest of its session; the session after it knows better."""
    net = TunnelNet()
    a, b = pair(net)
    peer = a.peers[b.public_key]
    peer.send(text(0), net.now)
    net.run(121.0)
    before = peer.current
    assert before is not None
    net.move("a", "a2")
    peer.send(text(1), net.now)
    net.run(1.0)
    assert peer.current is not before
    assert b.peers[a.public_key].endpoint == "a2"
    late = memoryview(bytearray(48))
    before.seal(text(2), late)
    net.inject("a", "b", bytes(late))
    net.run(0.1)
    assert net.received["b"] == [text(0), text(1), text(2)]
    assert b.peers[a.public_key].endpoint == "a2"


def test_a_peer_is_followed_whichever_of_two_sessions_made_at_once_it_sends_with():
    """A late packet of the other one may have been the first that came in it."""
    net = TunnelNet()
    a, b = pair(net)
    a.peers[b.public_key].send(text(0), net.now)
    b.peers[a.public_key].send(text(0), net.now)
    net.run(2.0)
    peer = a.peers[b.public_key]
    used, unused = peer.current, next(s for s in peer._sessions() if s is not peer.current)
    assert used is not None
    late = memoryview(bytearray(48))
    unused.seal(text(1), late)
    net.inject("a", "b", bytes(late))
    net.run(1.0)
    net.move("a", "a2")
    peer.send(text(2), net.now)
    net.run(1.0)
    assert peer.current is used
    assert net.received["b"] == [text(0), text(1), text(2)]
    assert b.peers[a.public_key].endpoint == "a2"


def test_the_responder_may_speak_first_although_the_initiator_has_nothing_to_say():
    net = TunnelNet()
    a, b = pair(net)
    a.peers[b.public_key].initiate(net.now)
    net.run(1.0)
    b.peers[a.public_key].send(text(1), net.now)
    net.run(0.1)
    assert net.received["a"] == [text(1)]
    assert kinds(net, INITIATION) == 1


def test_an_initiator_that_only_listens_renews_the_session_before_it_ends():
    """At 170 s, at once: the keep-alive that would renew it as well comes after it has ended."""
    net = TunnelNet()
    a, b = pair(net)
    a.peers[b.public_key].initiate(net.now)
    net.run(170.0)
    assert kinds(net, INITIATION) == 1
    b.peers[a.public_key].send(text(1), net.now)
    net.run(1.0)
    assert [source for source, _, d in net.sent if d[0] == INITIATION] == ["a", "a"]
    net.run(100.0)
    assert b.peers[a.public_key].session(net.now) is not None


def test_a_session_is_renewed_and_ends_by_its_count_of_packets_as_well():
    net = TunnelNet()
    times = Timers(rekey_after_messages=20, reject_after_messages=30)
    a, b = net.add("a", timers=times), net.add("b", timers=times)
    a.add_peer(b.public_key, endpoint="b")
    b.add_peer(a.public_key, endpoint="a")
    peer = a.peers[b.public_key]
    for number in range(100):
        peer.send(text(number), net.now)
        net.run(1.0)
    assert net.received["b"] == [text(number) for number in range(100)]
    assert 4 <= kinds(net, INITIATION) <= 6
    session = peer.session(net.now)
    assert session is not None
    out = memoryview(bytearray(64))
    for number in range(30):
        session.seal(text(number), out)
    assert peer.session(net.now) is None


def test_a_conversation_needs_no_keepalives():
    net = TunnelNet()
    a, b = pair(net)
    for number in range(60):
        for tunnel, other in ((a, b), (b, a)):
            tunnel.peers[other.public_key].send(text(number), net.now)
            net.run(0.5)
    empty = [d for _, _, d in net.sent if d[0] == DATA and len(d) == 32]
    assert empty == []


def test_one_batch_may_carry_several_sessions_and_messages_that_are_no_data():
    """Two peers behind one NAT that maps them to one address, as far as the kernel's GRO sees."""
    net = TunnelNet()
    a, b = pair(net)
    other = net.add("c")
    other.add_peer(b.public_key, endpoint="b")
    b.add_peer(other.public_key, endpoint="c")
    batch = bytearray()
    for tunnel in (a, other):
        tunnel.peers[b.public_key].initiate(net.now)
    net.run(1.0)
    out = memoryview(bytearray(64))
    for number, tunnel in enumerate((a, a, other, a, other, other)):
        session = tunnel.peers[b.public_key].session(net.now)
        assert session is not None
        batch += out[: session.seal(text(number), out)]
    batch[48:48] = bytes(48)  # junk behind the first
    opened = b.receive(memoryview(batch), 48, "nat", net.now)
    assert [(peer.public_key, [bytes(view) for view in views]) for peer, views in opened] == [
        (a.public_key, [text(0)]),
        (a.public_key, [text(1)]),
        (other.public_key, [text(2)]),
        (a.public_key, [text(3)]),
        (other.public_key, [text(4), text(5)]),
    ]
    assert b.drops[Drop.TUNNEL_UNKNOWN_TYPE] == 1


def test_a_responder_whose_confirmation_was_lost_calls_back_for_what_it_has_to_say():
    net = TunnelNet()
    a, b = pair(net)
    net.lose = lambda source, _destination, datagram: source == "a" and datagram[0] == DATA
    a.peers[b.public_key].initiate(net.now)
    net.run(1.0)
    assert b.peers[a.public_key].current is None
    net.lose = lambda *_: False
    b.peers[a.public_key].send(text(1), net.now)
    net.run(1.0)
    assert net.received["a"] == []
    net.run(5.0)
    assert net.received["a"] == [text(1)]


def test_a_peer_that_gives_up_says_so_once_and_tries_again_for_new_data():
    net = TunnelNet()
    a = net.add("a")
    peer = a.add_peer(bytes(31) + b"\x40", endpoint="nowhere")
    for number in range(60):
        peer.send(text(number), net.now)
        net.run(1.0)
    net.run(40.0)
    assert [type(event) for event in net.events["a"]] == [Expired]
    assert 90 / 5.4 <= kinds(net, INITIATION) <= 90 / 5 + 1
    net.run(500.0)
    assert kinds(net, INITIATION) <= 90 / 5 + 1
    peer.send(text(0), net.now)
    net.run(1.0)
    assert net.sent[-1][2][0] == INITIATION


def test_what_waits_for_a_handshake_is_bounded_and_the_oldest_goes_first():
    net = TunnelNet()
    a, b = net.add("a"), net.add("b")
    b.add_peer(a.public_key)
    peer = a.add_peer(b.public_key)
    for number in range(200):
        peer.send(text(number), net.now)
    assert a.drops[Drop.TUNNEL_STAGED_OVERFLOW] == 200 - 128
    peer.endpoint = "b"
    peer.initiate(net.now)
    net.run(1.0)
    assert sorted(net.received["b"]) == [text(number) for number in range(72, 200)]


def test_a_peer_whose_endpoint_is_held_fast_is_answered_where_it_calls_from_and_not_followed():
    net = TunnelNet()
    a, b = pair(net)
    b.peers[a.public_key].roams = False
    net.move("a", "a2")
    a.peers[b.public_key].send(text(1), net.now)
    net.run(1.0)
    assert net.received["b"] == [text(1)]
    assert [destination for source, destination, d in net.sent if d[0] == RESPONSE] == ["a2"]
    assert b.peers[a.public_key].endpoint == "a"


def test_a_response_that_is_damaged_leaves_the_handshake_open_for_the_true_one():
    net = TunnelNet()
    a, b = pair(net)
    a.peers[b.public_key].initiate(net.now)
    net.lose = lambda _source, _destination, datagram: datagram[0] == RESPONSE
    net.run(1.0)
    response = next(datagram for _, _, datagram in net.sent if datagram[0] == RESPONSE)
    damaged = bytearray(response)
    damaged[44] ^= 1  # in the sealed part; anybody who knows our public key can make mac1 anew
    forged = CookieHolder(a.public_key, lifetime=120.0).stamp(bytes(damaged), net.now)
    net.inject("b", "a", forged)
    net.run(0.1)
    assert a.drops[Drop.TUNNEL_BAD_HANDSHAKE] == 1
    net.inject("b", "a", response)
    net.run(0.1)
    assert [type(event) for event in net.events["a"]] == [Established]


def test_a_removed_peer_leaves_nothing_behind():
    net = TunnelNet()
    a, b = pair(net, persistent_keepalive_interval=5.0, first_retries=(0.1,))
    a.peers[b.public_key].send(text(1), net.now)
    net.run(130.0)
    a.peers[b.public_key].restart_handshake(net.now)
    a.remove_peer(b.public_key)
    assert (a._sessions, a._handshakes, a.poll_timeout()) == ({}, {}, None)
    net.sent.clear()
    net.run(0.5)
    b.peers[a.public_key].send(text(2), net.now)
    net.run(3.0)
    assert a.drops[Drop.TUNNEL_UNKNOWN_SESSION] > 0


def test_bytes_are_counted_as_they_are_on_the_wire():
    net = TunnelNet()
    a, b = pair(net)
    peer = a.peers[b.public_key]
    for number in range(20):
        peer.send(text(number), net.now)
        net.run(10.0)
    out = memoryview(bytearray(2048))
    session = peer.session(net.now)
    assert session is not None
    size = session.seal(os.urandom(1376), out)
    peer.note_sent(net.now)
    assert size == 1376 + 32
    net.inject("a", "b", bytes(out[:size]))
    net.run(20.0)
    on_wire = size + sum(len(datagram) for source, _, datagram in net.sent if source == "a")
    assert peer.tx_bytes == on_wire
    assert b.peers[a.public_key].rx_bytes == on_wire


def test_a_batch_longer_than_any_datagram_is_opened():
    """A stream's message may be; nothing is assumed about how long a batch is."""
    net = TunnelNet()
    a, b = pair(net)
    a.peers[b.public_key].send(text(0), net.now)
    net.run(1.0)
    session = a.peers[b.public_key].session(net.now)
    assert session is not None
    plaintext = os.urandom(200_000)
    out = memoryview(bytearray(200_100))
    size = session.seal(plaintext, out)
    [(_, [packet])] = b.receive(out[:size], size, "a", net.now)
    assert packet == plaintext


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1375, 1376])
def test_packets_are_padded_to_sixteen_with_zeros(size):
    net = TunnelNet()
    a, b = pair(net)
    a.peers[b.public_key].initiate(net.now)
    net.run(1.0)
    session = a.peers[b.public_key].session(net.now)
    assert session is not None
    plaintext = os.urandom(size)
    out = memoryview(bytearray(2048))
    sealed = session.seal(memoryview(plaintext), out)
    assert sealed == 32 + -(-size // 16) * 16
    opened = b.receive(out[:sealed], sealed, "a", net.now)
    if size:
        [(_, [packet])] = opened
        assert packet == plaintext.ljust(len(packet), b"\0")
    else:
        assert opened == []
