"""Port numbers: the ephemeral range, and when Linux lets two sockets share one."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

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


def addresses_overlap(one: bytes | None, other: bytes | None) -> bool:
    """Whether two bound addresses (None: all of the family) would receive the same packet."""
    return one is None or other is None or one == other
