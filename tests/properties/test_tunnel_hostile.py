"""Any bytes to a tunnel: no exception, a named drop, no answer to strangers, nothing kept."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from ntmpatch.packet.tunnel.cookie import CookieHolder
from ntmpatch.packet.tunnel.tunnel import Tunnel
from ntmpatch.wire.wireguard import SIZES

NOW = 1000.0


def make_tunnel(seed: int) -> Tunnel[str]:
    rng = random.Random(seed)
    return Tunnel(
        rng.randbytes(32), now=NOW, rng=rng, wall_clock=lambda: NOW, entropy=rng.randbytes
    )


def exchange(left: Tunnel[str], right: Tunnel[str]) -> list[bytes]:
    """Carry everything both ways until they are silent; what was on the wire."""
    wire: list[bytes] = []
    while True:
        sent = [(right, "left", left.poll_transmit()), (left, "right", right.poll_transmit())]
        if all(transmit is None for _, _, transmit in sent):
            return wire
        for receiver, source, transmit in sent:
            if transmit is not None:
                wire.append(transmit[1])
                receiver.receive(memoryview(transmit[1]), len(transmit[1]), source, NOW)


def connected() -> tuple[Tunnel[str], Tunnel[str], list[bytes]]:
    """Two tunnels with a session, and every kind of message but a cookie reply from the wire."""
    left, right = make_tunnel(1), make_tunnel(2)
    left.add_peer(right.public_key, endpoint="right")
    right.add_peer(left.public_key, endpoint="left")
    left.peers[right.public_key].send(b"E" * 160, NOW)
    wire = exchange(left, right)
    while left.poll_event() or right.poll_event():
        pass
    return left, right, wire


def kept(tunnel: Tunnel[str]) -> tuple[int, ...]:
    """The sizes of all that a tunnel could grow by."""
    return (
        len(tunnel.peers),
        len(tunnel._sessions),
        len(tunnel._handshakes),
        len(tunnel._held),
        len(tunnel._checker._sources),
        len(tunnel._events),
        len(tunnel._arena),
        len(tunnel.timers),
    )


def with_type(first: int, body: bytes) -> bytes:
    return bytes((first, 0, 0, 0)) + body


plausible_sizes = st.sampled_from([*SIZES.values(), 4, 31, 32, 33, 48, 1408])
datagrams = st.one_of(
    st.binary(max_size=2000),
    st.builds(with_type, st.integers(0, 5), st.binary(max_size=200)),
    st.builds(
        lambda first, size, seed: with_type(first, random.Random(seed).randbytes(size - 4)),
        st.integers(0, 5),
        plausible_sizes,
        st.integers(0, 1 << 32),
    ),
)


@given(datagrams, st.integers(1, 2000))
@settings(max_examples=400, deadline=None)
def test_a_stranger_gets_a_named_drop_for_each_datagram_and_nothing_else(data, segment_size):
    left, _, _ = connected()
    before, drops = kept(left), left.drops.total()
    assert left.receive(memoryview(data), segment_size, "stranger", NOW) == []
    assert left.drops.total() - drops == -(-len(data) // segment_size)
    assert left.poll_transmit() is None
    assert kept(left) == before


@given(st.integers(1, 4), st.integers(0, 1 << 32))
@settings(max_examples=200, deadline=None)
def test_who_knows_our_public_key_and_no_more_gets_no_answer_either(kind, seed):
    """The first MAC is right, all else is noise: as much as a stranger can do."""
    left, _, _ = connected()
    size = SIZES.get(kind, 148)
    body = with_type(kind, random.Random(seed).randbytes(size - 4))
    message = CookieHolder(left.public_key, lifetime=120.0).stamp(body, NOW)
    before, drops = kept(left), left.drops.total()
    assert left.receive(memoryview(message), len(message), "stranger", NOW) == []
    assert left.drops.total() == drops + 1
    assert left.poll_transmit() is None
    assert kept(left) == before


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_message_of_a_true_peer_with_one_bit_flipped_is_dropped(data):
    left, right, wire = connected()
    message = bytearray(data.draw(st.sampled_from(wire)))
    bit = data.draw(st.integers(0, 8 * len(message) - 1))
    message[bit // 8] ^= 1 << bit % 8
    for tunnel in (left, right):
        before, drops = kept(tunnel), tunnel.drops.total()
        endpoints = [peer.endpoint for peer in tunnel.peers.values()]
        assert tunnel.receive(memoryview(bytes(message)), len(message), "elsewhere", NOW) == []
        assert tunnel.drops.total() == drops + 1
        assert kept(tunnel) == before
        assert [peer.endpoint for peer in tunnel.peers.values()] == endpoints


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=60), st.integers(0, 100))
@settings(max_examples=150, deadline=None)
def test_however_a_batch_is_shuffled_doubled_and_damaged_each_packet_comes_once(order, seed):
    left, right, _ = connected()
    session = left.peers[right.public_key].session(NOW)
    assert session is not None
    out = memoryview(bytearray(64))
    sealed = []
    for number in range(41):
        session.seal(number.to_bytes(16), out)
        sealed.append(bytes(out[:48]))
    rng = random.Random(seed)
    batch = bytearray()
    expected: list[int] = []
    for number, damaged in order:
        datagram = bytearray(sealed[number])
        if damaged:
            datagram[rng.randrange(16, 48)] ^= 1 << rng.randrange(8)
        elif number not in expected:
            expected.append(number)
        batch += datagram
    drops = right.drops.total()
    opened = right.receive(memoryview(batch), 48, "left", NOW)
    packets = [int.from_bytes(packet) for _, views in opened for packet in views]
    assert packets == expected
    assert right.drops.total() - drops == len(order) - len(expected)
