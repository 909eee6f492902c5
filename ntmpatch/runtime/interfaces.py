"""What this machine's network looks like to a node: usable families, its own addresses."""

from __future__ import annotations

import _socket
import ipaddress

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
    return source_towards(remote) is not None


def source_towards(remote: Endpoint) -> str | None:
    """The address that the kernel would send from to ``remote``; None if there is no way.

    IPv6 routes outlive the addresses of their interface. What would then be sent from a link-local
    address goes no further than the link (RFC 4291, section 2.5.6).
    """
    family = _socket.AF_INET6 if remote.is_ipv6 else _socket.AF_INET
    try:
        probe = _socket.socket(family, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    except OSError:
        return None
    try:
        probe.connect((remote.host, remote.port))
        source = str(probe.getsockname()[0])
    except OSError:
        return None
    finally:
        probe.close()
    stays_on_link = remote.is_ipv6 and _is_link_local(source) and not _is_link_local(remote.host)
    return None if stays_on_link else source


def _is_link_local(host: str) -> bool:
    return ipaddress.ip_address(host).is_link_local


def concrete(bound: tuple[Endpoint, ...], towards: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """Wildcards become the address that the kernel would send from to one of ``towards``."""
    found = []
    for end in bound:
        if end.host not in ("0.0.0.0", "::"):
            found.append(end)
            continue
        remote = next((r for r in towards if r.is_ipv6 == end.is_ipv6), None)
        source = None if remote is None else source_towards(remote)
        if source is not None:
            found.append(Endpoint(source, end.port))
    return tuple(found)
