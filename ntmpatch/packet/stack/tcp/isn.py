"""Initial sequence numbers (RFC 6528): a clock of 4 µs, and a keyed hash of the connection."""

from __future__ import annotations

from hashlib import blake2s

TICKS_A_SECOND = 250_000

UNWRAPPED = 1 << 32
"""Added to each, so that unwrapped numbers stay well above zero."""


def initial_sequence(
    secret: bytes, local: tuple[bytes, int], remote: tuple[bytes, int], elapsed: float
) -> int:
    """Unwrapped; ``elapsed`` is the clock in seconds."""
    flow = local[0] + remote[0] + local[1].to_bytes(2) + remote[1].to_bytes(2)
    digest = blake2s(flow, key=secret, digest_size=4).digest()
    return UNWRAPPED + ((int(elapsed * TICKS_A_SECOND) + int.from_bytes(digest)) & 0xFFFFFFFF)
