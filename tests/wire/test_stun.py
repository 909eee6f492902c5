"""STUN messages: the vectors of RFC 5769, what we make, and what is refused."""

from __future__ import annotations

import pytest

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire.stun import (
    MAX_ANSWER_SIZE,
    BindingRequest,
    decode_binding_answer_untrusted,
    decode_binding_request_untrusted,
    encode_binding_request,
    encode_binding_success,
    encode_unknown_attributes,
    is_stun,
)

TRANSACTION_ID = bytes.fromhex("b7e7a701bc34d686fa87dfae")
# RFC 5769, section 2.1
REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae"
    "802200105354554e207465737420636c69656e74"
    "002400046e0001ff80290008932ff9b151263b36"
    "000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
# Sections 2.2 and 2.3
ANSWERS = {
    Endpoint("192.0.2.1", 32853): bytes.fromhex(
        "0101003c2112a442b7e7a701bc34d686fa87dfae"
        "8022000b7465737420766563746f7220002000080001a147e112a643"
        "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
    ),
    Endpoint("2001:db8:1234:5678:11:2233:4455:6677", 32853): bytes.fromhex(
        "010100482112a442b7e7a701bc34d686fa87dfae"
        "8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
        "00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
    ),
}
ENDS = [Endpoint("203.0.113.7", 4460), Endpoint("2001:db8::7", 65535)]


def test_the_request_of_rfc_5769_is_read() -> None:
    """It is one of ICE, which a server of ours knows nothing of: what has to be understood."""
    request = decode_binding_request_untrusted(REQUEST)
    assert request == BindingRequest(TRANSACTION_ID, (0x24, 0x06, 0x08), has_fingerprint=True)
    refusal = encode_unknown_attributes(request)
    assert len(refusal) <= len(REQUEST)
    assert decode_binding_answer_untrusted(refusal).error == 420


@pytest.mark.parametrize("endpoint", ANSWERS, ids=("IPv4", "IPv6"))
def test_the_answers_of_rfc_5769_are_read(endpoint: Endpoint) -> None:
    answer = decode_binding_answer_untrusted(ANSWERS[endpoint])
    assert answer == (TRANSACTION_ID, endpoint, 0)
    # What we would have answered says the same in the same bytes, without the names.
    ours = encode_binding_success(
        BindingRequest(TRANSACTION_ID, (), has_fingerprint=True), endpoint
    )
    assert ours[20:-8] in ANSWERS[endpoint]
    assert decode_binding_answer_untrusted(ours) == answer


@pytest.mark.parametrize("source", ENDS, ids=("IPv4", "IPv6"))
def test_no_answer_is_larger_than_our_request(source: Endpoint) -> None:
    asked = encode_binding_request(TRANSACTION_ID)
    request = decode_binding_request_untrusted(asked)
    assert request == BindingRequest(TRANSACTION_ID, (), has_fingerprint=False)
    told = encode_binding_success(request, source)
    assert len(told) <= len(asked) == MAX_ANSWER_SIZE
    assert decode_binding_answer_untrusted(told) == (TRANSACTION_ID, source, 0)
    assert is_stun(asked)
    assert is_stun(told)


def header(kind: int, length: int, cookie: str = "2112a442") -> bytes:
    return kind.to_bytes(2) + length.to_bytes(2) + bytes.fromhex(cookie) + TRANSACTION_ID


@pytest.mark.parametrize(
    ("datagram", "drop"),
    [
        pytest.param(b"", Drop.STUN_SIZE, id="nothing"),
        pytest.param(header(0x0101, 4), Drop.STUN_SIZE, id="cut"),
        pytest.param(header(0x0101, 1276) + bytes(1276), Drop.STUN_SIZE, id="large"),
        pytest.param(header(0x0101, 0, "00000000"), Drop.STUN_KIND, id="RFC-3489"),
        pytest.param(header(0x0011, 0), Drop.STUN_KIND, id="indication"),
        pytest.param(header(0x0101, 0), Drop.STUN_MALFORMED, id="no-address"),
        pytest.param(header(0x0111, 0), Drop.STUN_MALFORMED, id="no-code"),
        pytest.param(
            header(0x0101, 4) + bytes.fromhex("00200008"), Drop.STUN_MALFORMED, id="attribute-cut"
        ),
        pytest.param(
            header(0x0101, 12) + bytes.fromhex("002000080003a147e112a643"),
            Drop.STUN_MALFORMED,
            id="family",
        ),
        pytest.param(
            header(0x0101, 12) + bytes.fromhex("0020000800012112e112a643"),
            Drop.STUN_MALFORMED,
            id="port-0",
        ),
        pytest.param(
            header(0x0101, 12) + bytes.fromhex("002000080001a1472112a442"),
            Drop.STUN_MALFORMED,
            id="host-0",
        ),
        pytest.param(
            header(0x0101, 4) + bytes.fromhex("7fff0000"), Drop.STUN_UNKNOWN_ATTRIBUTE, id="unknown"
        ),
        pytest.param(
            ANSWERS[Endpoint("192.0.2.1", 32853)][:-1] + b"\0",
            Drop.STUN_BAD_FINGERPRINT,
            id="fingerprint",
        ),
    ],
)
def test_what_is_no_answer_is_refused_by_name(datagram: bytes, drop: Drop) -> None:
    with pytest.raises(UntrustedError) as caught:
        decode_binding_answer_untrusted(datagram)
    assert caught.value.drop is drop


def test_tunnel_messages_and_relay_frames_are_not_taken_for_it() -> None:
    for first in ("01000000", "02000000", "04000000", "c0010000", "c1010000"):
        assert not is_stun(bytes.fromhex(first + "2112a442") + bytes(140))
