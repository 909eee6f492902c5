"""Frames between a node and a relay server: opaque tunnel packets, and the binding of an end.

A node binds its side of a session from the address that it sends from, again whenever that
changes and often enough to keep a NAT's mapping; the answer shows that the relay lives. The
capability, which the coordinator handed out, is a key and never travels.
"""

from __future__ import annotations

import struct
from hashlib import blake2s
from hmac import compare_digest
from typing import NamedTuple

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError

RELAY_BYTE = 0xC1
"""First byte of every relay frame; WireGuard's messages begin with 1 to 4."""
FRAME_DATA = 0
FRAME_BIND = 1
FRAME_BOUND = 2

# 0xC1 | frame type | side | 0 | session id
_HEADER = struct.Struct("!BBBxI")
# ... and of bind and bound: | counter | MAC
_COUNTER = struct.Struct("!Q")
RELAY_HEADER_SIZE = _HEADER.size
MAC_SIZE = 16
BIND_SIZE = RELAY_HEADER_SIZE + _COUNTER.size + MAC_SIZE
CAPABILITY_SIZE = 32
_MAC_PERSON = b"ntm bind"


class Bind(NamedTuple):
    """A bind frame, or the relay's answer to one (``bound``), as read; nothing is verified yet."""

    bound: bool
    side: int
    session_id: int
    counter: int
    """Grows from frame to frame of a side, so that none counts twice."""
    signed: bytes
    mac: bytes

    def is_genuine(self, capability: bytes) -> bool:
        """Whether who made this holds the side's capability."""
        return compare_digest(self.mac, _mac(capability, self.signed))


def data_header(session_id: int) -> bytes:
    """The eight bytes in front of a relayed tunnel packet, the same for both directions."""
    return _HEADER.pack(RELAY_BYTE, FRAME_DATA, 0, session_id)


def bind_frame(
    session_id: int, side: int, capability: bytes, counter: int, *, bound: bool = False
) -> bytes:
    """A bind frame; with ``bound`` the relay's answer, which is of the same size.

    ``counter`` must exceed that of the side's last frame: nanoseconds since 1970 serve well.
    """
    frame_type = FRAME_BOUND if bound else FRAME_BIND
    signed = _HEADER.pack(RELAY_BYTE, frame_type, side, session_id) + _COUNTER.pack(counter)
    return signed + _mac(capability, signed)


def decode_bind_untrusted(frame: bytes | memoryview) -> Bind:
    """Read a bind or bound frame; its MAC is yet to be verified. UntrustedError otherwise."""
    if len(frame) != BIND_SIZE:
        raise UntrustedError(Drop.RELAY_RUNT)
    signed = bytes(frame[:-MAC_SIZE])
    first, frame_type, side, session_id = _HEADER.unpack_from(signed)
    if first != RELAY_BYTE or frame_type not in (FRAME_BIND, FRAME_BOUND) or side > 1:
        raise UntrustedError(Drop.RELAY_UNKNOWN_FRAME)
    (counter,) = _COUNTER.unpack_from(signed, RELAY_HEADER_SIZE)
    return Bind(
        frame_type == FRAME_BOUND, side, session_id, counter, signed, bytes(frame[-MAC_SIZE:])
    )


def _mac(capability: bytes, signed: bytes) -> bytes:
    return blake2s(signed, key=capability, digest_size=MAC_SIZE, person=_MAC_PERSON).digest()
