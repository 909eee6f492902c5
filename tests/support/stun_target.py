"""The decoders of STUN messages as a target of the fuzzer: see decoder_fuzz.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder_fuzz import Target

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire.stun import (
    BINDING_REQUEST,
    PADDING,
    BindingRequest,
    decode_binding_answer_untrusted,
    decode_binding_request_untrusted,
    encode_binding_request,
    encode_binding_success,
    encode_unknown_attributes,
    is_stun,
)

if TYPE_CHECKING:
    import random


def stun_messages() -> Target:
    """Requests and answers, as who keeps an RS's port gets them."""

    def make(rng: random.Random) -> list[bytes]:
        unknown = tuple(rng.sample((3, 6, 8, PADDING + 1), rng.randrange(4)))
        request = BindingRequest(rng.randbytes(12), unknown, has_fingerprint=rng.random() < 0.5)
        host = rng.choice(("192.0.2.1", "2001:db8::1"))
        return [
            encode_binding_request(request.transaction_id),
            encode_binding_success(request, Endpoint(host, rng.randint(1, 65535))),
            encode_unknown_attributes(request),
        ]

    def run(data: bytes) -> str:
        is_request = data[:2] == BINDING_REQUEST.to_bytes(2)
        if is_request:
            request = decode_binding_request_untrusted(data)
            assert is_stun(data)
            told = encode_binding_success(request, Endpoint("192.0.2.1", 9))
            assert decode_binding_answer_untrusted(told).transaction_id == request.transaction_id
            return "request"
        answer = decode_binding_answer_untrusted(data)
        assert is_stun(data)
        return f"error {answer.error // 100}" if answer.mapped is None else "mapped"

    return Target("STUN", make, run, allowed=(UntrustedError,))
