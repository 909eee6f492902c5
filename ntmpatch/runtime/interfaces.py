"""What this machine's network looks like to a node: usable families, its own addresses."""

from __future__ import annotations

import _socket

from ntmpatch.base.addresses import Endpoint

WILDCARDS = ("0.0.0.0", "::")


def usable(binds: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """Leave out wildcard families that this machine does not have."""
    usable = []
    for bind in binds:
        if bind.host == "::":
            try:
                probe = _socket.socket(_socket.AF_INET6, _socket.SOCK_DGRAM)
                probe.bind(("::", 0))
                probe.close()
            except OSError:
                continue
        usable.append(bind)
    return tuple(usable)


def is_routable(remote: Endpoint) -> bool:
    """Whether the kernel knows a way to there; nothing is sent."""
    family = _socket.AF_INET6 if remote.is_ipv6 else _socket.AF_INET
    try:
        probe = _socket.socket(family, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    except OSError:
        return False
    try:
        probe.connect((remote.host, remote.port))
    except OSError:
        return False
    finally:
        probe.close()
    return True


def concrete(bound: tuple[Endpoint, ...], towards: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """Wildcards become the address that the kernel would send from to one of ``towards``."""
    found = []
    for end in bound:
        if end.host not in ("0.0.0.0", "::"):
            found.append(end)
            continue
        remote = next((r for r in towards if r.is_ipv6 == end.is_ipv6), None)
        if remote is None:
            continue
        probe = _socket.socket(
            _socket.AF_INET6 if end.is_ipv6 else _socket.AF_INET, _socket.SOCK_DGRAM
        )
        try:
            probe.connect((remote.host, remote.port))
            found.append(Endpoint(probe.getsockname()[0], end.port))
        except OSError:
            pass
        finally:
            probe.close()
    return tuple(found)
