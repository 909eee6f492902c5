"""Reassembly: what overlaps, what is too large, what never ends, and whose memory it costs."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.packet.stack.fragments import (
    MAX_REASSEMBLIES,
    MAX_REASSEMBLIES_PER_SOURCE,
    REASSEMBLY_TIMEOUT,
    Reassembler,
)
from ntmpatch.wire import ip

HERE4, HERE6 = bytes((10, 0, 0, 1)), bytes.fromhex("fd" + "00" * 14 + "01")


def source(number: int, size: int = 4) -> bytes:
    return bytes((10, 9)) + bytes(size - 4) + number.to_bytes(2)


def piece(
    body: bytes,
    offset: int,
    *,
    more: bool,
    ipv6: bool = False,
    number: int = 1,
    identification: int = 1,
    protocol: int = ip.UDP,
    ecn: int = ip.NOT_ECT,
) -> ip.Packet:
    size, here = (16, HERE6) if ipv6 else (4, HERE4)
    return ip.Packet(
        source(number, size), here, protocol, memoryview(body), identification, offset, more, ecn
    )


@pytest.mark.parametrize("marked", [0, 1])
def test_a_mark_on_any_fragment_is_one_on_the_packet(marked: int) -> None:
    reassembler = Reassembler(DropCounter())
    ecn = [ip.ECT_0, ip.ECT_0]
    assert reassembler.add(piece(bytes(8), 0, more=True, ecn=ecn[0]), 0.0) is None
    whole = reassembler.add(piece(bytes(8), 8, more=False, ecn=ecn[1]), 0.0)
    assert whole is not None
    assert whole.ecn != ip.CE
    ecn[marked] = ip.CE
    assert reassembler.add(piece(bytes(8), 0, more=True, ecn=ecn[0]), 0.0) is None
    whole = reassembler.add(piece(bytes(8), 8, more=False, ecn=ecn[1]), 0.0)
    assert whole is not None
    assert whole.ecn == ip.CE


@settings(max_examples=200)
@given(st.data())
def test_pieces_in_any_order_and_repeated_make_the_packet(data: st.DataObject) -> None:
    ipv6 = data.draw(st.booleans())
    body = data.draw(st.binary(min_size=24, max_size=400))
    count = -(-len(body) // 8)
    cuts = sorted(data.draw(st.sets(st.integers(1, count - 1), min_size=1, max_size=8)))
    edges = [0, *(8 * cut for cut in cuts), len(body)]
    pieces = [
        piece(body[start:end], start, more=end < len(body), ipv6=ipv6)
        for start, end in itertools.pairwise(edges)
    ]
    order = data.draw(st.permutations(pieces))
    reassembler = Reassembler(DropCounter())
    for each in order[:-1]:
        assert reassembler.add(each, 0.0) is None
        assert reassembler.add(each, 0.0) is None, "a duplicate"
    whole = reassembler.add(order[-1], 0.0)
    assert whole is not None
    assert bytes(whole.payload) == body
    assert reassembler.poll_timeout() is None


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(
    "second",
    [(bytes(16), 8, True), (bytes(8), 8, True), (bytes(24), 0, True), (bytes(4), 8, False)],
    ids=["over the end", "within", "around", "as a shorter end"],
)
def test_an_overlap_costs_the_whole_packet(ipv6: bool, second: tuple[bytes, int, bool]) -> None:
    drops = DropCounter()
    reassembler = Reassembler(drops)
    body, offset, more = second
    reassembler.add(piece(bytes(16), 0, more=True, ipv6=ipv6), 0.0)
    reassembler.add(piece(body, offset, more=more, ipv6=ipv6), 0.0)
    assert drops[Drop.FRAGMENT_OVERLAP] == 1
    assert reassembler.poll_timeout() is None


@pytest.mark.parametrize(
    ("offset", "size", "more", "ipv6", "good"),
    [
        (65_512, 3, False, False, True),  # with its header, 65,535 bytes
        (65_512, 4, False, False, False),
        (65_528, 7, False, True, True),
        (65_528, 8, False, True, False),
        (0, 12, True, False, False),  # only the last may be odd
        (8, 0, False, False, False),
    ],
)
def test_no_packet_is_larger_than_its_length_field(
    offset: int, size: int, more: bool, ipv6: bool, good: bool
) -> None:
    drops = DropCounter()
    Reassembler(drops).add(piece(bytes(size), offset, more=more, ipv6=ipv6), 0.0)
    assert drops[Drop.FRAGMENT_MALFORMED] == (not good)


def test_a_peer_that_floods_costs_others_nothing() -> None:
    drops = DropCounter()
    reassembler = Reassembler(drops)
    reassembler.add(piece(bytes(8), 0, more=True, number=1), 0.0)
    for identification in range(10 * MAX_REASSEMBLIES):
        flood = piece(bytes(8), 0, more=True, number=2, identification=identification)
        reassembler.add(flood, 0.0)
    assert drops[Drop.FRAGMENT_TOO_MANY] == 10 * MAX_REASSEMBLIES - MAX_REASSEMBLIES_PER_SOURCE
    # Nor do many of them: who has most gives way.
    for identification in range(MAX_REASSEMBLIES_PER_SOURCE):
        for number in range(3, 13):
            reassembler.add(
                piece(bytes(8), 0, more=True, number=number, identification=identification), 0.0
            )
    whole = reassembler.add(piece(b"end", 8, more=False, number=1), 0.0)
    assert whole is not None
    assert bytes(whole.payload) == bytes(8) + b"end"
    reassembler.handle_timeout(REASSEMBLY_TIMEOUT)
    assert drops[Drop.FRAGMENT_TIMEOUT] == MAX_REASSEMBLIES - 1
    assert reassembler.poll_timeout() is None


def test_headers_behind_the_fragment_header_are_read_when_it_is_whole() -> None:
    """And IPv6 asks the first fragment only what it carries (RFC 8200 section 4.5)."""
    drops = DropCounter()
    reassembler = Reassembler(drops)
    options = bytes((ip.UDP, 0, 1, 4, 0, 0, 0, 0))
    reassembler.add(piece(b"datagram", 8, more=False, ipv6=True, protocol=99), 0.0)
    whole = reassembler.add(piece(options, 0, more=True, ipv6=True, protocol=60), 0.0)
    assert whole is not None
    assert (whole.protocol, bytes(whole.payload)) == (ip.UDP, b"datagram")
    routed = bytes((ip.UDP, 0, 0, 3, 0, 0, 0, 0))
    reassembler.add(piece(routed, 0, more=True, ipv6=True, protocol=43), 0.0)
    assert reassembler.add(piece(b"datagram", 8, more=False, ipv6=True, protocol=43), 0.0) is None
    assert drops[Drop.PACKET_SOURCE_ROUTE] == 1
