"""The decoder of path messages as a target of the fuzzer: see decoder_fuzz.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder_fuzz import Target

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire.paths import (
    CANDIDATES,
    CHALLENGE,
    MAX_CANDIDATES,
    RESPONSE,
    Candidate,
    CandidateKind,
    PathMessage,
    decode_path_message_untrusted,
    encode_path_message,
)

if TYPE_CHECKING:
    import random


def path_messages() -> Target:
    """Challenges, answers and candidates, padded or not."""

    def make(rng: random.Random) -> list[bytes]:
        kind = rng.choice((CHALLENGE, RESPONSE, CANDIDATES))
        count = rng.randint(0, MAX_CANDIDATES) if kind == CANDIDATES else 0
        candidates = tuple(candidate(rng) for _ in range(count))
        message = PathMessage(kind, rng.randrange(2), rng.randbytes(8), candidates)
        return [encode_path_message(message, padded=rng.random() < 0.2)]

    def candidate(rng: random.Random) -> Candidate:
        host = rng.choice(("192.0.2.1", "2001:db8::1", "10.0.0.1"))
        kind = rng.choice(list(CandidateKind))
        return Candidate(kind, Endpoint(host, rng.randint(1, 65535)), rng.randrange(3))

    def run(data: bytes) -> str:
        message = decode_path_message_untrusted(data)
        assert decode_path_message_untrusted(encode_path_message(message)) == message
        return str(message.kind)

    return Target("path messages", make, run, allowed=(UntrustedError,))
