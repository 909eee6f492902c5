"""Messages that prove a path: a challenge, and the answer to it (as RFC 9000, section 8.2).

They are inner payloads of an established session, so only the peer can make them and none counts
twice. What they prove is where the peer can be reached, which a packet's source address does not.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError

PATH_BYTE = 0xC2
"""First byte; an IP packet begins with 0x4 or 0x6, a control message with 0xC0."""
CHALLENGE = 1
RESPONSE = 2
USED = 1
"""Flag of a challenge: the sender sends its data this way from now on."""
IDENTIFIER_SIZE = 8
PADDED_SIZE = 1200
"""Bytes of a challenge that asks the peer to follow: it may be answered with three times as many
(RFC 9000, section 8.1), and the path is shown to carry datagrams of that size (section 14.1)."""

# 0xC2 | kind | flags | 0 | identifier
_LAYOUT = struct.Struct("!BBBx8s")
_PADDING = bytes(PADDED_SIZE - _LAYOUT.size)


class PathMessage(NamedTuple):
    """As read; it came through the session, but the path that it came by proves nothing yet."""

    kind: int
    flags: int
    identifier: bytes


def encode_path_message(message: PathMessage, *, padded: bool = False) -> bytes:
    """The payload, 12 bytes long or ``PADDED_SIZE``."""
    encoded = _LAYOUT.pack(PATH_BYTE, message.kind, message.flags, message.identifier)
    return encoded + _PADDING if padded else encoded


def decode_path_message_untrusted(payload: bytes | memoryview) -> PathMessage:
    """Read a payload; zeros that pad it are allowed. UntrustedError otherwise."""
    if len(payload) < _LAYOUT.size:
        raise UntrustedError(Drop.PATH_MALFORMED)
    first, kind, flags, identifier = _LAYOUT.unpack_from(payload)
    if first != PATH_BYTE or kind not in (CHALLENGE, RESPONSE) or flags & ~USED:
        raise UntrustedError(Drop.PATH_MALFORMED)
    if any(payload[_LAYOUT.size :]):
        raise UntrustedError(Drop.PATH_MALFORMED)
    return PathMessage(kind, flags, identifier)
