"""Port numbers: the ephemeral range, and when Linux lets two sockets share one."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

EPHEMERAL_PORTS = range(32768, 61000)
"""Linux's default net.ipv4.ip_local_port_range."""


def os_error(number: int) -> OSError:
    """An OSError as the kernel would raise it."""
    return OSError(number, os.strerror(number))


def choose_ephemeral(
    rng: random.Random, is_free: Callable[[int], bool], *, exhausted: int = errno.EADDRINUSE
) -> int:
    """A free port at random (RFC 6056 section 3.3.1); OSError(``exhausted``) if there is none."""
    count = len(EPHEMERAL_PORTS)
    start = rng.randrange(count)
    for step in range(count):
        port = EPHEMERAL_PORTS[(start + step) % count]
        if is_free(port):
            return port
    raise os_error(exhausted)


def flow_hash(remote: tuple[bytes, int]) -> int:
    """By which SO_REUSEPORT shares what comes from ``remote``; the same at every time."""
    return crc32(remote[0] + remote[1].to_bytes(2))


def addresses_overlap(one: bytes | None, other: bytes | None) -> bool:
    """Whether two bound addresses (None: all of the family) would receive the same packet."""
    return one is None or other is None or one == other
