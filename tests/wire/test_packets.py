"""IP, TCP, UDP and ICMP on the wire: what is built is parsed; hostile bytes drop by name."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire import checksum, icmp, ip, tcp, udp
from ntmpatch.wire.segments import SuperSegment, cut

V4 = bytes([198, 18, 0, 1]), bytes([198, 18, 0, 2])
V6 = bytes.fromhex("fd" + "00" * 14 + "01"), bytes.fromhex("fd" + "00" * 14 + "02")


def reference_sum(data: bytes) -> int:
    """RFC 1071, as it is written there."""
    total = 0
    padded = data + b"\0" * (len(data) & 1)
    for at in range(0, len(padded), 2):
        total += int.from_bytes(padded[at : at + 2], "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@given(st.binary(min_size=1).filter(any))
def test_checksum_is_that_of_rfc_1071(data: bytes) -> None:
    assert checksum.finish(checksum.ones_sum(data)) == reference_sum(data)


def tcp_super_segment(addresses: tuple[bytes, bytes], payload: bytes, size: int) -> SuperSegment:
    header = tcp.build(
        1,
        2,
        seq=0xFFFFFF00,
        ack=7,
        flags=tcp.ACK | tcp.PSH | tcp.FIN | tcp.CWR,
        window=512,
        options=tcp.build_timestamps(3, 4),
    )
    first = ip.build(*addresses, ip.TCP, len(header) + min(size, len(payload)))
    return SuperSegment(addresses[1], first + header, memoryview(payload), size, len(first))


@pytest.mark.parametrize("addresses", [V4, V6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("total", [0, 1, 1000, 1001, 5000, 5001])
def test_cut_packets_are_those_of_one_flow(addresses: tuple[bytes, bytes], total: int) -> None:
    payload = random.Random(total).randbytes(total)
    segment = tcp_super_segment(addresses, payload, 1000)
    packets = cut(segment, memoryview(bytearray(65536)), checksums=True)
    assert len(packets) == segment.packet_count
    joined = b""
    for index, packet in enumerate(packets):
        parsed = ip.parse_untrusted(packet)
        assert (parsed.source, parsed.destination) == addresses
        assert checksum.is_valid(b"".join(addresses), ip.TCP, parsed.payload)
        read = tcp.parse_untrusted(parsed.payload)
        assert read.seq == (0xFFFFFF00 + len(joined)) & 0xFFFFFFFF
        assert bool(read.flags & tcp.CWR) == (index == 0)
        assert bool(read.flags & tcp.FIN) == (index == len(packets) - 1)
        assert bool(read.flags & tcp.PSH) == (index == len(packets) - 1)
        assert (read.options.timestamp, read.options.echo) == (3, 4)
        joined += b"".join(read.payload)
    assert joined == payload


@pytest.mark.parametrize("addresses", [V4, V6], ids=["ipv4", "ipv6"])
def test_udp_and_icmp_round_trip_and_notice_a_wrong_bit(addresses: tuple[bytes, bytes]) -> None:
    payload = b"odd"
    datagram = udp.build_with_checksum((addresses[0], 5), (addresses[1], 6), payload) + payload
    read = udp.parse_untrusted(memoryview(datagram), *addresses, verify=True)
    assert (read[0], read[1], bytes(read[2])) == (5, 6, payload)
    packet = bytes(ip.build(*addresses, ip.UDP, len(datagram))) + datagram
    message = icmp.build_port_unreachable(*addresses[::-1], packet)
    error = icmp.parse_untrusted(memoryview(message), *addresses[::-1], verify=True)
    assert error.kind is icmp.Kind.PORT_UNREACHABLE
    assert error.quote is not None
    assert (error.quote.source, error.quote.source_port) == (addresses[0], 5)
    for wrong, parse in ((datagram, udp.parse_untrusted), (message, icmp.parse_untrusted)):
        broken = bytearray(wrong)
        broken[-1] ^= 1
        with pytest.raises(UntrustedError) as caught:
            parse(memoryview(broken), *addresses, verify=True)
        assert caught.value.drop is Drop.TRANSPORT_BAD_CHECKSUM


def test_syn_options_round_trip() -> None:
    options = tcp.build_syn_options(
        1336, window_scale=6, sack_permitted=True, timestamps=(9, 0)
    ) + tcp.build_sack([(1, 2), (3, 4)])
    read = tcp.parse_options_untrusted(memoryview(options))
    assert (read.mss, read.window_scale, read.sack_permitted) == (1336, 6, True)
    assert (read.timestamp, list(read.sack)) == (9, [(1, 2), (3, 4)])
    assert len(options) % 4 == 0


def test_link_padding_is_not_payload_and_short_packets_are_named() -> None:
    packet = bytes(ip.build(*V4, ip.UDP, 4)) + b"data" + bytes(9)
    assert bytes(ip.parse_untrusted(memoryview(packet)).payload) == b"data"
    for hostile, drop in (
        (b"", Drop.PACKET_RUNT),
        (packet[:19], Drop.PACKET_RUNT),
        (packet[:22], Drop.PACKET_LENGTH),
        (b"\x15" + packet[1:], Drop.PACKET_VERSION),
        (packet[:8] + b"\1" + packet[9:], Drop.PACKET_BAD_CHECKSUM),
    ):
        with pytest.raises(UntrustedError) as caught:
            ip.parse_untrusted(memoryview(hostile))
        assert caught.value.drop is drop
