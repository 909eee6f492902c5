"""The relay server tells who asks where it is seen: everybody, and nobody to another's harm."""

from __future__ import annotations

import pytest

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop, DropCounter
from ntmpatch.servers.relay.reflexive import STUN_BURST, STUN_RATE, BindingResponder
from ntmpatch.wire.stun import decode_binding_answer_untrusted, encode_binding_request

BARE = bytes.fromhex("000100002112a442") + b"transaction."
PADDED = encode_binding_request(b"transaction.")
CHANGE_REQUEST = bytes.fromhex("0003000400000006")
SOURCE = Endpoint("203.0.113.7", 4460)


class Responder(BindingResponder):
    def __init__(self) -> None:
        self.drops = DropCounter()
        super().__init__(b"k" * 32, self.drops)


@pytest.mark.parametrize("request_", [BARE, PADDED])
@pytest.mark.parametrize("source", [SOURCE, Endpoint("2001:db8::7", 1)])
def test_who_asks_is_told_where_from(request_: bytes, source: Endpoint) -> None:
    answer = Responder().answer(source, request_, 0.0)
    assert answer is not None
    assert decode_binding_answer_untrusted(answer) == (b"transaction.", source, 0)


def test_what_is_not_understood_is_refused_if_that_makes_nothing_larger() -> None:
    responder = Responder()
    head = BARE[:2] + (8).to_bytes(2) + BARE[4:]
    assert responder.answer(SOURCE, head + CHANGE_REQUEST, 0.0) is None
    assert responder.drops == {Drop.STUN_UNKNOWN_ATTRIBUTE: 1}
    padded = BARE[:2] + (24).to_bytes(2) + BARE[4:] + CHANGE_REQUEST + b"\0\x26\0\x0c" + bytes(12)
    answer = responder.answer(SOURCE, padded, 0.0)
    assert answer is not None
    assert len(answer) <= len(padded)
    assert decode_binding_answer_untrusted(answer).error == 420


def test_a_network_is_answered_so_often_and_others_do_not_notice() -> None:
    responder = Responder()
    for number in range(int(STUN_BURST)):
        source = Endpoint(f"203.0.113.{number % 256}", 1024 + number)
        assert responder.answer(source, PADDED, 0.0) is not None
    assert responder.answer(SOURCE, PADDED, 0.0) is None
    assert responder.drops == {Drop.STUN_FLOOD: 1}
    assert responder.answer(Endpoint("198.51.100.1", 9), PADDED, 0.0) is not None
    assert responder.answer(SOURCE, PADDED, 1.0 / STUN_RATE) is not None
    assert responder.answers == int(STUN_BURST) + 2


@pytest.mark.parametrize("source", [SOURCE, Endpoint("2001:db8::7", 1)])
def test_a_flood_in_anothers_name_is_not_made_larger(source: Endpoint) -> None:
    """Of 100 bare requests a second some are answered, by less than all of them have."""
    responder = Responder()
    bytes_in = bytes_out = 0
    for number in range(3000):
        bytes_in += len(BARE)
        bytes_out += len(responder.answer(source, BARE, number / STUN_RATE) or b"")
    assert 0 < responder.answers < 3000
    assert bytes_out < bytes_in
    assert responder.answer(source, PADDED, 30.0) is not None, "a node of ours is still answered"
