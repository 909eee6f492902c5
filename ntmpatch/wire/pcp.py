"""Port Control Protocol (RFC 6887): the requests of a client, and what a server answers.

MAP asks the router for a mapping of one port; ANNOUNCE asks for nothing but the epoch, and a server
that has restarted sends it unasked (section 14.1).
"""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError

SERVER_PORT = 5351
CLIENT_PORT = 5350
VERSION = 2
MAX_SIZE = 1100
NONCE_SIZE = 12
UDP = 17

ANNOUNCE = 0
MAP = 1
_RESPONSE = 0x80

SUCCESS = 0
UNSUPP_VERSION = 1
ADDRESS_MISMATCH = 12

# Section 7.1: version | opcode | reserved | requested lifetime | client's address
_REQUEST = struct.Struct("!BBxxI16s")
# Section 7.2: version | R, opcode | reserved | result code | lifetime | epoch time | reserved
_ANSWER = struct.Struct("!BBxBII12x")
# Section 11.1: nonce | protocol | reserved | internal port | external port | external address
_MAP = struct.Struct("!12sB3xHH16s")


class Mapping(NamedTuple):
    """The body of a MAP answer; in an error, what had been asked for (section 11.1)."""

    nonce: bytes
    protocol: int
    internal_port: int
    external: Endpoint


class Answer(NamedTuple):
    """A server's response; any result code that is not SUCCESS is an error, known or not."""

    opcode: int
    result: int
    lifetime: int
    """Seconds: of the mapping, or, in an error, until it is worth asking again."""
    epoch: int
    """Seconds since the server lost its mappings (section 8.5)."""
    mapping: Mapping | None
    """None in an answer to ANNOUNCE."""


def map_request(
    local_address: str,
    nonce: bytes,
    internal_port: int,
    lifetime: int,
    suggested: Endpoint | None = None,
) -> bytes:
    """Ask for a mapping of a UDP port; a ``lifetime`` of 0 seconds deletes it (section 15).

    ``suggested`` is what an earlier mapping had, so that a router that restarted gives it back.
    """
    if suggested is None:
        # All zeros of the address' own family: any external address (section 11.1).
        suggested = Endpoint("::" if ":" in local_address else "0.0.0.0", 0)
    return _REQUEST.pack(VERSION, MAP, lifetime, _address(local_address)) + _MAP.pack(
        nonce, UDP, internal_port, suggested.port, _address(suggested.host)
    )


def announce_request(local_address: str) -> bytes:
    """Ask a server for its epoch (section 14.1)."""
    return _REQUEST.pack(VERSION, ANNOUNCE, 0, _address(local_address))


def decode_untrusted(data: bytes) -> Answer:
    """Read a server's response to MAP or ANNOUNCE; options behind it are left alone."""
    # Section 8.3: a response of another size is not one. One of another version is read first by
    # its version alone, because a NAT-PMP server's has eight bytes.
    if data and data[0] != VERSION:
        raise UntrustedError(Drop.PCP_VERSION)
    if not _ANSWER.size <= len(data) <= MAX_SIZE or len(data) % 4:
        raise UntrustedError(Drop.PCP_SIZE)
    _, code, result, lifetime, epoch = _ANSWER.unpack_from(data)
    opcode = code & ~_RESPONSE
    if not code & _RESPONSE or opcode not in (ANNOUNCE, MAP):
        raise UntrustedError(Drop.PCP_OPCODE)
    if opcode == ANNOUNCE:
        return Answer(opcode, result, lifetime, epoch, None)
    if len(data) < _ANSWER.size + _MAP.size:
        raise UntrustedError(Drop.PCP_SIZE)
    nonce, protocol, internal_port, port, packed = _MAP.unpack_from(data, _ANSWER.size)
    six = ipaddress.IPv6Address(packed)
    external = Endpoint(str(six.ipv4_mapped or six), port)
    if (
        result == SUCCESS
        and lifetime
        and (not port or ipaddress.ip_address(external.host).is_unspecified)
    ):
        raise UntrustedError(Drop.PCP_NO_ADDRESS)
    return Answer(
        opcode, result, lifetime, epoch, Mapping(nonce, protocol, internal_port, external)
    )


def _address(host: str) -> bytes:
    """128 bits: IPv4 as an IPv4-mapped IPv6 address (section 5)."""
    address = ipaddress.ip_address(host)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
