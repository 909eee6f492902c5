"""Headers of IPv4 and IPv6: each thing that is wrong with one has its name; the rest is read."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire import icmp, ip, tcp, udp
from ntmpatch.wire.checksum import finish, ones_sum

V4 = bytes([198, 18, 0, 1]), bytes([198, 18, 0, 2])
V6 = bytes.fromhex("fd" + "00" * 14 + "01"), bytes.fromhex("fd" + "00" * 14 + "02")
HOP_BY_HOP, ROUTING, DESTINATION, NOTHING = 0, 43, 60, 59
PADDING = bytes((1, 4, 0, 0, 0, 0))


def ipv4(*, options: bytes = b"", flags: int = 0, ttl: int = 64, body: bytes = b"body") -> bytes:
    header = bytearray(ip.build_ipv4(*V4, ip.UDP, len(options) + len(body)))
    header[0] = 0x45 + len(options) // 4
    header[6] = flags
    header[8] = ttl
    header[10:12] = b"\0\0"
    header += options
    header[10:12] = finish(ones_sum(header)).to_bytes(2)
    return bytes(header) + body


def ipv6(*chain: tuple[int, bytes], body: bytes = bytes(8), last: int = ip.UDP) -> bytes:
    """Extension headers as (type, what follows the next-header byte)."""
    kinds = [*(kind for kind, _ in chain), last]
    extensions = b"".join(
        bytes((following,)) + rest for following, (_, rest) in zip(kinds[1:], chain, strict=True)
    )
    return bytes(ip.build_ipv6(*V6, kinds[0], len(extensions) + len(body))) + extensions + body


def fragment_header(offset: int, *, more: bool) -> tuple[int, bytes]:
    return ip.FRAGMENT, struct.pack("!BHI", 0, offset | more, 7)


def options(content: bytes) -> bytes:
    assert len(content) % 8 == 6
    return bytes((len(content) // 8,)) + content


REFUSED = {
    "v4 strict source route": (ipv4(options=bytes((137, 3, 4, 0))), Drop.PACKET_SOURCE_ROUTE),
    "v4 loose source route": (ipv4(options=bytes((1, 131, 3, 4))), Drop.PACKET_SOURCE_ROUTE),
    "v4 option without length": (ipv4(options=bytes((1, 1, 1, 7))), Drop.PACKET_BAD_OPTION),
    "v4 option of length 0": (ipv4(options=bytes((7, 0, 0, 0))), Drop.PACKET_BAD_OPTION),
    "v4 option too long": (ipv4(options=bytes((7, 5, 4, 0))), Drop.PACKET_BAD_OPTION),
    "v4 reserved flag": (ipv4(flags=0x80), Drop.PACKET_RESERVED_BIT),
    "v4 header length": (b"\x44" + ipv4()[1:], Drop.PACKET_LENGTH),
    "v4 total length": (ipv4()[:-1], Drop.PACKET_LENGTH),
    "v6 length": (ipv6()[:-1], Drop.PACKET_LENGTH),
    "v6 hop-by-hop, but not first": (
        ipv6((DESTINATION, options(PADDING)), (HOP_BY_HOP, options(PADDING))),
        Drop.PACKET_BAD_EXTENSION,
    ),
    "v6 routing header 0": (
        ipv6((ROUTING, bytes((2, 0, 1)) + bytes(20))),
        Drop.PACKET_SOURCE_ROUTE,
    ),
    "v6 jumbogram": (
        ipv6((HOP_BY_HOP, options(bytes((0xC2, 4, 0, 1, 0, 0))))),
        Drop.PACKET_BAD_EXTENSION,
    ),
    "v6 option to be understood": (
        ipv6((DESTINATION, options(bytes((0x80, 4, 0, 0, 0, 0))))),
        Drop.PACKET_BAD_EXTENSION,
    ),
    "v6 option too long": (
        ipv6((DESTINATION, options(bytes((1, 5, 0, 0, 0, 0))))),
        Drop.PACKET_BAD_EXTENSION,
    ),
    "v6 endless chain": (
        ipv6(*[(DESTINATION, options(PADDING))] * 9),
        Drop.PACKET_BAD_EXTENSION,
    ),
    "v6 tiny first fragment": (
        ipv6(fragment_header(0, more=True), last=ip.TCP, body=bytes(16)),
        Drop.FRAGMENT_TINY,
    ),
    "v6 first fragment ends in the chain": (
        ipv6(
            fragment_header(0, more=True),
            (DESTINATION, bytes((2,)) + bytes(6)),
            body=b"",
        ),
        Drop.FRAGMENT_TINY,
    ),
    "v6 fragment of a fragment": (
        ipv6(fragment_header(0, more=True), fragment_header(0, more=True), body=bytes(64)),
        Drop.PACKET_BAD_EXTENSION,
    ),
}


@pytest.mark.parametrize(("packet", "drop"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_has_a_name(packet: bytes, drop: Drop) -> None:
    with pytest.raises(UntrustedError) as caught:
        ip.parse_untrusted(memoryview(packet))
    assert caught.value.drop is drop


READ = {
    "v4 time-stamp and router alert": ipv4(options=bytes((148, 4, 0, 0, 68, 4, 5, 0)), body=b"x"),
    "v4 end of options, then anything": ipv4(options=bytes((0, 131, 3, 4)), body=b"x"),
    "v4 TTL 0 at its destination": ipv4(ttl=0, body=b"x"),
    "v6 hop-by-hop first": ipv6((HOP_BY_HOP, options(PADDING)), body=b"x"),
    "v6 option that may be skipped": ipv6(
        (DESTINATION, options(bytes((0x1E, 4, 9, 9, 9, 9)))), body=b"x"
    ),
    "v6 routing header at its end": ipv6((ROUTING, bytes((0, 0, 0)) + bytes(4)), body=b"x"),
    "v6 atomic fragment": ipv6(
        fragment_header(0, more=False), (DESTINATION, options(PADDING)), body=b"x"
    ),
}


@pytest.mark.parametrize("packet", READ.values(), ids=READ)
def test_what_is_unusual_is_read(packet: bytes) -> None:
    parsed = ip.parse_untrusted(memoryview(packet))
    assert (parsed.protocol, bytes(parsed.payload)) == (ip.UDP, b"x")
    assert not parsed.is_fragment


def test_a_fragment_of_ipv4_may_forbid_to_be_fragmented_again() -> None:
    parsed = ip.parse_untrusted(memoryview(ipv4(flags=0x60, body=bytes(8))))
    assert parsed.more_fragments


def test_no_next_header_is_left_to_the_stack() -> None:
    assert ip.parse_untrusted(memoryview(ipv6(last=NOTHING))).protocol == NOTHING


@given(
    st.sampled_from([V4, V6]),
    st.integers(0, 255).filter(lambda each: each not in (0, 43, 44, 60)),
    st.binary(max_size=64),
    st.integers(0, 0xFFFF),
    st.integers(0, 8000),
    st.booleans(),
)
def test_what_is_built_is_read(
    ends: tuple[bytes, bytes], protocol: int, body: bytes, number: int, offset: int, more: bool
) -> None:
    plain = ip.parse_untrusted(memoryview(ip.build(*ends, protocol, len(body)) + body))
    assert (plain.source, plain.destination, plain.protocol) == (*ends, protocol)
    assert bytes(plain.payload) == body
    body = body + bytes(64)  # enough for a first fragment
    offset &= ~7
    head = ip.build_fragment(
        *ends,
        protocol,
        len(body),
        identification=number,
        fragment_offset=offset,
        more_fragments=more,
    )
    piece = ip.parse_untrusted(memoryview(head + body))
    assert (piece.protocol, piece.identification) == (protocol, number)
    assert (piece.fragment_offset, piece.more_fragments) == (offset, more)
    assert bytes(piece.payload) == body


@given(
    st.sampled_from([V4, V6]),
    st.integers(0, 0xFFFFFFFF),
    st.binary(max_size=100),
    st.integers(0, 0xFFFF),
)
def test_icmp_that_is_built_is_read(
    ends: tuple[bytes, bytes], rest: int, body: bytes, mtu: int
) -> None:
    request = icmp.build_echo_request(*ends, rest, body)
    read = icmp.parse_untrusted(memoryview(request), *ends, verify=True)
    assert (read.kind, read.rest, bytes(read.body)) == (icmp.Kind.ECHO_REQUEST, rest, body)
    packet = bytes(ip.build(*ends, icmp.protocol_of(ends[0]), len(request))) + request
    answer = icmp.build_packet_too_big(*ends[::-1], packet, mtu)
    told = icmp.parse_untrusted(memoryview(answer), *ends[::-1], verify=True)
    assert (told.kind, told.rest) == (icmp.Kind.PACKET_TOO_BIG, mtu)
    assert told.quote is not None
    assert (told.quote.source, told.quote.destination, told.quote.seq) == (*ends, rest)


@given(st.binary(max_size=200), st.sampled_from([V4, V6]), st.booleans(), st.integers(0, 255))
def test_any_bytes_give_a_message_or_a_name(
    raw: bytes, ends: tuple[bytes, bytes], verify: bool, protocol: int
) -> None:
    view = memoryview(raw)
    for packet in (view, memoryview(bytes(ip.build(*ends, protocol, len(raw))) + raw)):
        with contextlib.suppress(UntrustedError):
            ip.parse_untrusted(packet)
    with contextlib.suppress(UntrustedError):
        udp.parse_untrusted(view, *ends, verify=verify)
    with contextlib.suppress(UntrustedError):
        tcp.parse_untrusted(view)
    quoted = bytes((3 if len(ends[0]) == 4 else 1, 4)) + bytes(6) + raw
    for message in (view, memoryview(quoted)):
        with contextlib.suppress(UntrustedError):
            icmp.parse_untrusted(message, *ends, verify=verify)


def test_udp_over_ipv6_needs_a_checksum_and_lengths_are_those_of_the_header() -> None:
    datagram = memoryview(udp.build(1, 2, 3) + b"abc" + b"behind")
    assert bytes(udp.parse_untrusted(datagram, *V4, verify=True)[2]) == b"abc"
    for ends, raw, drop in (
        (V6, bytes(datagram), Drop.TRANSPORT_BAD_CHECKSUM),
        (V4, bytes(datagram[:10]), Drop.UDP_MALFORMED),
        (V4, udp.build(1, 2, -1), Drop.UDP_MALFORMED),
    ):
        with pytest.raises(UntrustedError) as caught:
            udp.parse_untrusted(memoryview(raw), *ends, verify=True)
        assert caught.value.drop is drop
