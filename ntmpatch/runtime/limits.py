"""What the system grants a server: descriptors."""

from __future__ import annotations

import resource

RESERVED_DESCRIPTORS = 128
"""For ports, databases, logs, the event loop; what is left may be connections."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one; how many connections that allows.

    Children inherit it; servers have none that use select().
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return 1 << 30
    return max(16, hard - RESERVED_DESCRIPTORS)
