"""PCP and NAT-PMP: the bytes as the RFCs draw them, and what is refused."""

import pytest

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire import natpmp, pcp

NONCE = bytes(range(12))
INSIDE = bytes.fromhex("00000000000000000000ffff c0000202")
OUTSIDE = bytes.fromhex("00000000000000000000ffff cb007109")
MAP_BODY = NONCE + bytes.fromhex("11 000000 ca6c 1f90") + OUTSIDE
GRANTED = bytes.fromhex("02 81 00 00 00000e10 00000007") + bytes(12) + MAP_BODY


def test_pcp_asks_and_is_answered_as_rfc_6887_draws_it() -> None:
    asked = pcp.map_request("192.0.2.2", NONCE, 51820, 3600, Endpoint("203.0.113.9", 8080))
    assert asked == bytes.fromhex("02 01 0000 00000e10") + INSIDE + MAP_BODY
    assert pcp.map_request("fd00::2", NONCE, 51820, 0)[-16:] == bytes(16)
    assert pcp.announce_request("192.0.2.2") == bytes.fromhex("02 00 0000 00000000") + INSIDE
    mapping = pcp.Mapping(NONCE, pcp.UDP, 51820, Endpoint("203.0.113.9", 8080))
    assert pcp.decode_untrusted(GRANTED) == pcp.Answer(pcp.MAP, pcp.SUCCESS, 3600, 7, mapping)
    epoch = bytes.fromhex("02 80 00 00 00000000 00000001") + bytes(12)
    assert pcp.decode_untrusted(epoch) == pcp.Answer(pcp.ANNOUNCE, pcp.SUCCESS, 0, 1, None)


def test_natpmp_asks_and_is_answered_as_rfc_6886_draws_it() -> None:
    assert natpmp.address_request() == bytes(2)
    asked = natpmp.map_request(51820, 8080, 7200)
    assert asked == bytes.fromhex("00 01 0000 ca6c 1f90 00001c20")
    address = bytes.fromhex("00 80 0000 00000007 cb007109")
    assert natpmp.decode_untrusted(address) == natpmp.ExternalAddress(7, "203.0.113.9")
    mapped = bytes.fromhex("00 81 0000 00000007 ca6c 1f90 00001c20")
    assert natpmp.decode_untrusted(mapped) == natpmp.Mapped(7, 51820, 8080, 7200)
    refused = bytes.fromhex("00 81 0001 00000007")
    assert natpmp.decode_untrusted(refused) == natpmp.Refused(7, 1, natpmp.UNSUPPORTED_VERSION)
    # A router that has only NAT-PMP answers a PCP request so: no PCP, and no damage either.
    with pytest.raises(UntrustedError) as caught:
        pcp.decode_untrusted(refused)
    assert caught.value.drop is Drop.PCP_VERSION


@pytest.mark.parametrize(
    ("data", "drop"),
    [
        (b"", Drop.PCP_SIZE),
        (GRANTED[:-1], Drop.PCP_SIZE),
        (GRANTED[:-4], Drop.PCP_SIZE),
        (GRANTED + bytes(1100 - len(GRANTED) + 4), Drop.PCP_SIZE),
        (b"\x02\x01" + GRANTED[2:], Drop.PCP_OPCODE),
        (b"\x02\x82" + GRANTED[2:], Drop.PCP_OPCODE),
        (GRANTED[:-16] + bytes(16), Drop.PCP_NO_ADDRESS),
    ],
)
def test_pcp_refuses(data: bytes, drop: Drop) -> None:
    with pytest.raises(UntrustedError) as caught:
        pcp.decode_untrusted(data)
    assert caught.value.drop is drop


@pytest.mark.parametrize(
    ("text", "drop"),
    [
        ("", Drop.NATPMP_SIZE),
        ("02 80 0000 00000007 cb007109", Drop.NATPMP_VERSION),
        ("00 80 0000 00000007", Drop.NATPMP_SIZE),
        ("00 80 0000 00000007 00000000", Drop.NATPMP_NO_ADDRESS),
        ("00 01 0000 00000007 ca6c 1f90 00001c20", Drop.NATPMP_OPCODE),
        ("00 82 0000 00000007 ca6c 1f90 00001c20", Drop.NATPMP_OPCODE),
        ("00 81 0000 00000007 ca6c 0000 00001c20", Drop.NATPMP_NO_ADDRESS),
    ],
)
def test_natpmp_refuses(text: str, drop: Drop) -> None:
    with pytest.raises(UntrustedError) as caught:
        natpmp.decode_untrusted(bytes.fromhex(text))
    assert caught.value.drop is drop
