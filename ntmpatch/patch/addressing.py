"""Between Python's socket addresses and packed ones: (4 or 16 bytes, port)."""

from __future__ import annotations

import _socket
from typing import Any, TypeAlias

Packed: TypeAlias = tuple[bytes, int]
"""Address and port as the node speaks of them."""

_MAPPED_PREFIX = bytes(10) + b"\xff\xff"

WILDCARDS = (bytes(4), bytes(16))


def pack_host(family: int, host: str) -> bytes | None:
    """A numeric host as 4 or 16 bytes, IPv4-mapped ones as 4; None if it is not numeric."""
    try:
        packed = _socket.inet_pton(family, host)
    except (OSError, ValueError):
        return None
    return packed[12:] if packed.startswith(_MAPPED_PREFIX) else packed


def format_host(family: int, packed: bytes) -> str:
    """A packed address as a socket of ``family`` shows it: mapped if that is AF_INET6."""
    if family == _socket.AF_INET6 and len(packed) == 4:
        packed = _MAPPED_PREFIX + packed
    return _socket.inet_ntop(_socket.AF_INET6 if len(packed) == 16 else _socket.AF_INET, packed)


def format_address(family: int, address: Packed) -> Any:
    """A socket address as Python shows it: 2-tuple for AF_INET, 4-tuple for AF_INET6."""
    host = format_host(family, address[0])
    if family == _socket.AF_INET6:
        return (host, address[1], 0, 0)
    return (host, address[1])


def wildcard_of(family: int) -> bytes:
    """The unspecified address of an address family."""
    return bytes(16) if family == _socket.AF_INET6 else bytes(4)


def text_host(host: object) -> str | None:
    """A host as Python's sockets take it (str, bytes, bytearray), as ASCII text; None if not."""
    if isinstance(host, str):
        if host.isascii():
            return host
        try:
            return host.encode("idna").decode("ascii")
        except UnicodeError:
            return None
    if isinstance(host, (bytes, bytearray)):
        try:
            return host.decode("ascii")
        except UnicodeError:
            return None
    return None
