"""NAT Port Mapping Protocol (RFC 6886): the requests of a client, and what a router answers."""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError

VERSION = 0
MAX_SIZE = 1100

EXTERNAL_ADDRESS = 0
MAP_UDP = 1
_RESPONSE = 0x80

SUCCESS = 0
UNSUPPORTED_VERSION = 1

# Section 3.3: version | opcode | reserved | internal port | suggested external port | lifetime
_MAP_REQUEST = struct.Struct("!BBxxHHI")
# Sections 3.2 and 3.3: version | 128 + opcode | result code | seconds since start of epoch
_ANSWER = struct.Struct("!BBHI")
# ... and of a mapping: | internal port | external port | lifetime
_MAPPING = struct.Struct("!HHI")


class ExternalAddress(NamedTuple):
    """The router's address on the far side."""

    epoch: int
    host: str


class Mapped(NamedTuple):
    """A mapping of a UDP port; a lifetime of 0 seconds says that it was deleted."""

    epoch: int
    internal_port: int
    external_port: int
    lifetime: int


class Refused(NamedTuple):
    """An error, whose opcode may be any: a PCP request is answered so (section 3.5)."""

    epoch: int
    opcode: int
    result: int


def address_request() -> bytes:
    """Ask for the external address (section 3.2)."""
    return bytes((VERSION, EXTERNAL_ADDRESS))


def map_request(internal_port: int, suggested_port: int, lifetime: int) -> bytes:
    """Ask for a mapping of a UDP port (section 3.3).

    A ``lifetime`` of 0 seconds deletes it; ``suggested_port`` is then 0 (section 3.4).
    """
    return _MAP_REQUEST.pack(VERSION, MAP_UDP, internal_port, suggested_port, lifetime)


def decode_untrusted(data: bytes) -> ExternalAddress | Mapped | Refused:
    """Read a router's response to one of the two requests."""
    if data and data[0] != VERSION:
        raise UntrustedError(Drop.NATPMP_VERSION)
    if not _ANSWER.size <= len(data) <= MAX_SIZE:
        raise UntrustedError(Drop.NATPMP_SIZE)
    _, code, result, epoch = _ANSWER.unpack_from(data)
    opcode = code & ~_RESPONSE
    if not code & _RESPONSE:
        raise UntrustedError(Drop.NATPMP_OPCODE)
    if result != SUCCESS:
        return Refused(epoch, opcode, result)
    body = data[_ANSWER.size :]
    if opcode == EXTERNAL_ADDRESS:
        if len(body) != 4:
            raise UntrustedError(Drop.NATPMP_SIZE)
        address = ipaddress.IPv4Address(body)
        if address.is_unspecified:
            raise UntrustedError(Drop.NATPMP_NO_ADDRESS)
        return ExternalAddress(epoch, str(address))
    if opcode != MAP_UDP:
        raise UntrustedError(Drop.NATPMP_OPCODE)
    if len(body) != _MAPPING.size:
        raise UntrustedError(Drop.NATPMP_SIZE)
    internal_port, external_port, lifetime = _MAPPING.unpack(body)
    if lifetime and not external_port:
        raise UntrustedError(Drop.NATPMP_NO_ADDRESS)
    return Mapped(epoch, internal_port, external_port, lifetime)
