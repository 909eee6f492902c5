"""STUN (RFC 8489): Binding requests, and where their answers say that they came from.

A request of ours is padded (PADDING, RFC 5780, section 7.6) to the size of the largest answer, so
that it makes nothing larger in another's name. Answers are not padded, whatever the request has.
"""

from __future__ import annotations

import ipaddress
import struct
import zlib
from typing import NamedTuple

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError

MAGIC_COOKIE = bytes.fromhex("2112a442")
TRANSACTION_ID_SIZE = 12
MAX_SIZE = 1280
"""Bytes of a message that is read; none of ours has more than 52."""

BINDING_REQUEST = 0x0001
BINDING_SUCCESS = 0x0101
BINDING_ERROR = 0x0111

UNKNOWN_ATTRIBUTE = 420
"""Error code: the request has attributes that have to be understood, and are not."""

# Attributes; those below 0x8000 have to be understood (section 14).
MAPPED_ADDRESS = 0x0001
MESSAGE_INTEGRITY = 0x0008
ERROR_CODE = 0x0009
UNKNOWN_ATTRIBUTES = 0x000A
XOR_MAPPED_ADDRESS = 0x0020
PADDING = 0x0026
FINGERPRINT = 0x8028
_OPTIONAL = 0x8000

_IN_REQUESTS = frozenset({PADDING})
# MESSAGE-INTEGRITY cannot be checked without credentials, and we have sent none.
_IN_RESPONSES = frozenset(
    {
        *(MAPPED_ADDRESS, XOR_MAPPED_ADDRESS, ERROR_CODE, UNKNOWN_ATTRIBUTES),
        *(PADDING, MESSAGE_INTEGRITY),
    }
)

# Section 5: type | length of what follows the header | magic cookie | transaction id
_HEADER = struct.Struct("!HH4s12s")
# Section 14: type | length, without the padding to four bytes
_ATTRIBUTE = struct.Struct("!HH")
# Section 14.2: 0 | family | X-Port, before the X-Address
_ADDRESS = struct.Struct("!xBH")
_FAMILIES = {1: 4, 2: 16}
# Section 14.8: 0 | class, hundreds | number
_ERROR = struct.Struct("!HBB")
_FINGERPRINT_SIZE = _ATTRIBUTE.size + 4
_FINGERPRINT_XOR = 0x5354554E

MAX_ANSWER_SIZE = _HEADER.size + _ATTRIBUTE.size + _ADDRESS.size + 16
"""Bytes of an answer that tells an IPv6 address; a FINGERPRINT answers one."""


class BindingRequest(NamedTuple):
    """As read."""

    transaction_id: bytes
    unknown: tuple[int, ...]
    """Attributes that would have to be understood."""
    has_fingerprint: bool


class BindingAnswer(NamedTuple):
    """As read: where the request came from, or why that is not said."""

    transaction_id: bytes
    mapped: Endpoint | None
    """None in an error."""
    error: int
    """Error code, 300 to 699; 0 in a success."""


def is_stun(datagram: bytes | memoryview) -> bool:
    """Whether a datagram is STUN: not WireGuard (whose second byte is 0), not a relay's frame."""
    return (
        len(datagram) >= _HEADER.size
        and (datagram[0], datagram[1]) in ((0x00, 0x01), (0x01, 0x01), (0x01, 0x11))
        and datagram[4:8] == MAGIC_COOKIE
    )


def encode_binding_request(transaction_id: bytes) -> bytes:
    """A request as large as the largest answer to it."""
    padding = bytes(MAX_ANSWER_SIZE - _HEADER.size - _ATTRIBUTE.size)
    return _message(BINDING_REQUEST, transaction_id, _attribute(PADDING, padding))


def encode_binding_success(request: BindingRequest, source: Endpoint) -> bytes:
    """The answer to a request that came from ``source``."""
    address = ipaddress.ip_address(source.host.partition("%")[0])
    family = 1 if address.version == 4 else 2
    value = _ADDRESS.pack(family, source.port ^ int.from_bytes(MAGIC_COOKIE[:2]))
    value += _xor(address.packed, request.transaction_id)
    return _answer(BINDING_SUCCESS, request, _attribute(XOR_MAPPED_ADDRESS, value))


def encode_unknown_attributes(request: BindingRequest) -> bytes:
    """The refusal of a request with attributes that are not understood (section 6.3.1)."""
    unknown = struct.pack(f"!{len(request.unknown)}H", *request.unknown)
    return _answer(
        BINDING_ERROR,
        request,
        _attribute(ERROR_CODE, _ERROR.pack(0, *divmod(UNKNOWN_ATTRIBUTE, 100)))
        + _attribute(UNKNOWN_ATTRIBUTES, unknown),
    )


def decode_binding_request_untrusted(datagram: bytes | memoryview) -> BindingRequest:
    """Read a request; UntrustedError unless it is one."""
    kind, transaction_id, attributes = _parse_untrusted(datagram)
    if kind != BINDING_REQUEST:
        raise UntrustedError(Drop.STUN_KIND)
    unknown = [each for each, _ in attributes if each < _OPTIONAL and each not in _IN_REQUESTS]
    return BindingRequest(transaction_id, tuple(unknown), has_fingerprint=_is_marked(attributes))


def decode_binding_answer_untrusted(datagram: bytes | memoryview) -> BindingAnswer:
    """Read an answer; UntrustedError unless it is one, and tells what its type promises."""
    kind, transaction_id, attributes = _parse_untrusted(datagram)
    if kind not in (BINDING_SUCCESS, BINDING_ERROR):
        raise UntrustedError(Drop.STUN_KIND)
    if any(each < _OPTIONAL and each not in _IN_RESPONSES for each, _ in attributes):
        raise UntrustedError(Drop.STUN_UNKNOWN_ATTRIBUTE)
    # Section 14: of several attributes of a type the first one counts.
    values = dict(reversed(attributes))
    if kind == BINDING_ERROR:
        return BindingAnswer(transaction_id, None, _error_untrusted(values.get(ERROR_CODE, b"")))
    value = values.get(XOR_MAPPED_ADDRESS, b"")
    return BindingAnswer(transaction_id, _mapped_untrusted(value, transaction_id), 0)


def _message(kind: int, transaction_id: bytes, body: bytes) -> bytes:
    return _HEADER.pack(kind, len(body), MAGIC_COOKIE, transaction_id) + body


def _answer(kind: int, request: BindingRequest, body: bytes) -> bytes:
    """A message to who asked, with a FINGERPRINT if the request had one (section 7.2)."""
    if not request.has_fingerprint:
        return _message(kind, request.transaction_id, body)
    # The length counts the FINGERPRINT before it is there (section 14.7).
    header = _HEADER.pack(kind, len(body) + _FINGERPRINT_SIZE, MAGIC_COOKIE, request.transaction_id)
    return header + body + _attribute(FINGERPRINT, _fingerprint(header + body))


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(kind, len(value)) + value + bytes(-len(value) % 4)


def _fingerprint(before: bytes) -> bytes:
    return (zlib.crc32(before) ^ _FINGERPRINT_XOR).to_bytes(4)


def _xor(packed: bytes, transaction_id: bytes) -> bytes:
    pairs = zip(packed, MAGIC_COOKIE + transaction_id, strict=False)  # IPv4: the cookie alone
    return bytes(one ^ other for one, other in pairs)


def _is_marked(attributes: list[tuple[int, bytes]]) -> bool:
    return bool(attributes) and attributes[-1][0] == FINGERPRINT


def _parse_untrusted(datagram: bytes | memoryview) -> tuple[int, bytes, list[tuple[int, bytes]]]:
    """Type, transaction id and attributes; a FINGERPRINT that is there is right, and last."""
    data = bytes(datagram)
    if not _HEADER.size <= len(data) <= MAX_SIZE:
        raise UntrustedError(Drop.STUN_SIZE)
    kind, length, cookie, transaction_id = _HEADER.unpack_from(data)
    if length % 4 or length != len(data) - _HEADER.size:
        raise UntrustedError(Drop.STUN_SIZE)
    if cookie != MAGIC_COOKIE:
        raise UntrustedError(Drop.STUN_KIND)
    attributes: list[tuple[int, bytes]] = []
    position = _HEADER.size
    while position < len(data):
        attribute, size = _ATTRIBUTE.unpack_from(data, position)
        start = position + _ATTRIBUTE.size
        if start + size > len(data) or _is_marked(attributes):
            raise UntrustedError(Drop.STUN_MALFORMED)
        value = data[start : start + size]
        if attribute == FINGERPRINT and value != _fingerprint(data[:position]):
            raise UntrustedError(Drop.STUN_BAD_FINGERPRINT)
        attributes.append((attribute, value))
        position = start + size + -size % 4
    return kind, transaction_id, attributes


def _mapped_untrusted(value: bytes, transaction_id: bytes) -> Endpoint:
    if len(value) < _ADDRESS.size:
        raise UntrustedError(Drop.STUN_MALFORMED)
    family, port = _ADDRESS.unpack_from(value)
    packed = _xor(value[_ADDRESS.size :], transaction_id)
    port ^= int.from_bytes(MAGIC_COOKIE[:2])
    if len(value) - _ADDRESS.size != _FAMILIES.get(family):
        raise UntrustedError(Drop.STUN_MALFORMED)
    address = ipaddress.ip_address(packed)
    if not port or address.is_unspecified or address.is_multicast:
        raise UntrustedError(Drop.STUN_MALFORMED)
    return Endpoint(str(address), port)


def _error_untrusted(value: bytes) -> int:
    if len(value) < _ERROR.size:
        raise UntrustedError(Drop.STUN_MALFORMED)
    _, hundreds, number = _ERROR.unpack_from(value)
    if not 3 <= hundreds <= 6 or number > 99:
        raise UntrustedError(Drop.STUN_MALFORMED)
    return int(100 * hundreds + number)
