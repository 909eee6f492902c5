"""The decoder of path messages as a target of the fuzzer: see decoder_fuzz.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder_fuzz import Target

from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire.paths import (
    CHALLENGE,
    RESPONSE,
    PathMessage,
    decode_path_message_untrusted,
    encode_path_message,
)

if TYPE_CHECKING:
    import random


def path_messages() -> Target:
    """Challenges and answers, padded or not."""

    def make(rng: random.Random) -> list[bytes]:
        message = PathMessage(rng.choice((CHALLENGE, RESPONSE)), rng.randrange(2), rng.randbytes(8))
        return [encode_path_message(message, padded=rng.random() < 0.2)]

    def run(data: bytes) -> str:
        return str(decode_path_message_untrusted(data).kind)

    return Target("path messages", make, run, allowed=(UntrustedError,))
