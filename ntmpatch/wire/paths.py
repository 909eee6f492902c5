"""Messages about paths: challenges, the answers to them (RFC 9000, section 8.2), and candidates.

They are inner payloads of an established session, so only the peer can make them and none counts
twice. What a challenge proves is where the peer can be reached, which a packet's source address
does not. Candidates are where the peer may be reached besides (RFC 8445, section 5.1).
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from typing import NamedTuple

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError

PATH_BYTE = 0xC2
"""First byte; an IP packet begins with 0x4 or 0x6, a control message with 0xC0."""
CHALLENGE = 1
RESPONSE = 2
"""Also acknowledges candidates."""
CANDIDATES = 3
USED = 1
"""Flag of a challenge: the sender sends its data this way from now on."""
IDENTIFIER_SIZE = 8
PADDED_SIZE = 1200
"""Bytes of a challenge that asks the peer to follow: it may be answered with three times as many
(RFC 9000, section 8.1), and the path is shown to carry datagrams of that size (section 14.1)."""
MAX_CANDIDATES = 10
MAX_COST = 2
BROADCAST = "255.255.255.255"

# 0xC2 | kind | flags | number of candidates | identifier
_LAYOUT = struct.Struct("!BBBB8s")
# kind, 16 more for IPv6 | cost | port | address, 4 bytes or 16
_CANDIDATE = struct.Struct("!BBH")
_IPV6_BIT = 16
_PADDING = bytes(PADDED_SIZE - _LAYOUT.size)


class CandidateKind(enum.IntEnum):
    """How an endpoint is known, and so what it is good for."""

    HOST = 0
    """An address of an interface."""
    MAPPED = 1
    """What a NAT makes of the port for everybody (RFC 4787, 4.1), or forwards to it."""
    SYMMETRIC = 2
    """Seen by a server; for others the NAT has other ports. Only the address is of use."""


class Candidate(NamedTuple):
    """Where the sender may be reached."""

    kind: CandidateKind
    endpoint: Endpoint
    cost: int = 0
    """0 for the network that the sender prefers, 1 for others, 2 for those that are metered."""


class PathMessage(NamedTuple):
    """As read; it came through the session, but the path that it came by proves nothing yet."""

    kind: int
    flags: int
    identifier: bytes
    candidates: tuple[Candidate, ...] = ()


def encode_path_message(message: PathMessage, *, padded: bool = False) -> bytes:
    """The payload: 12 bytes and the candidates, or ``PADDED_SIZE`` for a challenge."""
    parts = [
        _LAYOUT.pack(
            PATH_BYTE, message.kind, message.flags, len(message.candidates), message.identifier
        )
    ]
    for kind, endpoint, cost in message.candidates:
        family = _IPV6_BIT if endpoint.is_ipv6 else 0
        parts.append(_CANDIDATE.pack(kind | family, cost, endpoint.port))
        parts.append(ipaddress.ip_address(endpoint.host).packed)
    if padded:
        parts.append(_PADDING)
    return b"".join(parts)


def decode_path_message_untrusted(payload: bytes | memoryview) -> PathMessage:
    """Read a payload; zeros that pad it are allowed. UntrustedError otherwise."""
    if len(payload) < _LAYOUT.size:
        raise UntrustedError(Drop.PATH_MALFORMED)
    first, kind, flags, count, identifier = _LAYOUT.unpack_from(payload)
    is_list = kind == CANDIDATES
    if first != PATH_BYTE or kind not in (CHALLENGE, RESPONSE, CANDIDATES):
        raise UntrustedError(Drop.PATH_MALFORMED)
    if flags & ~USED or count > (MAX_CANDIDATES if is_list else 0):
        raise UntrustedError(Drop.PATH_MALFORMED)
    candidates = []
    position = _LAYOUT.size
    for _ in range(count):
        candidate, position = _decode_candidate_untrusted(payload, position)
        candidates.append(candidate)
    if any(payload[position:]):
        raise UntrustedError(Drop.PATH_MALFORMED)
    return PathMessage(kind, flags, identifier, tuple(candidates))


def _decode_candidate_untrusted(
    payload: bytes | memoryview, position: int
) -> tuple[Candidate, int]:
    """One candidate and where the next one begins; only addresses of single hosts count."""
    if position + _CANDIDATE.size > len(payload):
        raise UntrustedError(Drop.PATH_MALFORMED)
    kind, cost, port = _CANDIDATE.unpack_from(payload, position)
    start = position + _CANDIDATE.size
    end = start + (16 if kind & _IPV6_BIT else 4)
    try:
        known = CandidateKind(kind & ~_IPV6_BIT)
        address = ipaddress.ip_address(bytes(payload[start:end]))
    except ValueError:
        raise UntrustedError(Drop.PATH_MALFORMED) from None
    if address.is_multicast or address.is_unspecified or str(address) == BROADCAST:
        raise UntrustedError(Drop.PATH_MALFORMED)
    if port == 0 or cost > MAX_COST:
        raise UntrustedError(Drop.PATH_MALFORMED)
    return Candidate(known, Endpoint(str(address), port), cost), end
