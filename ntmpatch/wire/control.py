"""The envelope of control messages: what travels in a channel beside IP packets.

A standard WireGuard peer ignores such a payload: its first nibble (12) is no IP version.
One message is one datagram; its body never exceeds what a 1280-byte path carries.
"""

from __future__ import annotations

import enum
import struct
from typing import Annotated, TypeAlias, get_args

import msgspec

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.base.packing import BROKEN
from ntmpatch.wire.control_messages import (
    Ack,
    AuthenticationInquiry,
    AuthenticationVerdict,
    CertificateRenewal,
    DirectionRequest,
    EnrolmentRequest,
    EnrolmentResponse,
    FederationRequest,
    FederationResponse,
    InformationRequest,
    InformationResponse,
    KeyRotationRequest,
    Message,
    Notification,
    NotificationRequest,
    PrefixLeaseRequest,
    PrefixLeaseResponse,
    Recall,
    Refusal,
    RelayGrant,
    RelayRequest,
    RevocationNotice,
    Revocations,
    RevocationsRequest,
    RouteDirection,
    ServiceRegistration,
    ServiceRequest,
    SharedKeyOffer,
    TraceRequest,
    TraceResponse,
)
from ntmpatch.wire.control_registration import (
    AnnouncementResponse,
    Deregistration,
    RegistrationRequest,
    RegistrationResponse,
    ServerAnnouncement,
)

CONTROL_BYTE = 0xC0
"""First byte of a control payload."""
VERSION = 1
"""Changes only when a receiver could misread; messages and fields are added without it."""
MAX_CONTROL_SIZE = 1200
"""Bytes of a control payload, envelope included: fits every IPv6 path when tunnelled."""
TRANSACTION_ID_SIZE = 8

# 0xC0 | version | kind | figure | step | flags | body size u16 | transaction id (8) | msgpack body
_HEADER = struct.Struct("!BBBBBBH8s")
HEADER_SIZE = _HEADER.size
FLAG_RECORD = 0x01
"""Of a request: keep for a while what you see of its steps (signalling/recording.py)."""


class Kind(enum.IntEnum):
    """Where in its transaction a message stands."""

    REQUEST = 1
    RESPONSE = 2
    REFUSAL = 3


AnyMessage: TypeAlias = (
    Ack
    | Refusal
    | EnrolmentRequest
    | EnrolmentResponse
    | CertificateRenewal
    | AuthenticationInquiry
    | AuthenticationVerdict
    | PrefixLeaseRequest
    | PrefixLeaseResponse
    | RegistrationRequest
    | RegistrationResponse
    | Deregistration
    | ServerAnnouncement
    | AnnouncementResponse
    | DirectionRequest
    | SharedKeyOffer
    | InformationRequest
    | InformationResponse
    | RouteDirection
    | NotificationRequest
    | Notification
    | ServiceRequest
    | ServiceRegistration
    | RelayRequest
    | RelayGrant
    | Recall
    | FederationRequest
    | FederationResponse
    | TraceRequest
    | TraceResponse
    | KeyRotationRequest
    | RevocationsRequest
    | Revocations
    | RevocationNotice
)
"""Every message that there is."""


class UnknownMessage(Message, frozen=True, array_like=True, tag=0):
    """A message of a later version: well formed, but its tag is not known here."""

    unknown_tag: int


class Envelope(msgspec.Struct, frozen=True):
    """One control message with its place in a transaction and in the paper's figures."""

    transaction_id: bytes
    """Eight random bytes, drawn by whoever asked first; all hops of a transaction bear them."""
    kind: Kind
    step: str
    """``"3.8"`` for Fig. 3 (8); empty for what is in no figure."""
    message: Message
    record: bool = False
    """`FLAG_RECORD`; a receiver ignores flags that it does not know."""


class _Tag(msgspec.Struct, frozen=True, array_like=True):
    """Only the tag of any message, to tell an unknown one from a broken one."""

    tag: Annotated[int, msgspec.Meta(ge=0, le=65535)]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyMessage)
_tag_decoder = msgspec.msgpack.Decoder(_Tag)
_KNOWN_TAGS = frozenset(message_type.__struct_config__.tag for message_type in get_args(AnyMessage))


def encode(envelope: Envelope) -> bytes:
    """A control payload; ValueError if it would not fit one datagram."""
    figure, _, number = envelope.step.partition(".")
    body = _encoder.encode(envelope.message)
    payload = (
        _HEADER.pack(
            CONTROL_BYTE,
            VERSION,
            envelope.kind,
            int(figure or 0),
            int(number or 0),
            FLAG_RECORD if envelope.record else 0,
            len(body),
            envelope.transaction_id,
        )
        + body
    )
    if len(payload) > MAX_CONTROL_SIZE:
        raise ValueError(f"{type(envelope.message).__name__} takes {len(payload)} bytes")
    return payload


def fits(message: Message) -> bool:
    """Whether the message fits one datagram."""
    return HEADER_SIZE + len(_encoder.encode(message)) <= MAX_CONTROL_SIZE


def decode_untrusted(payload: bytes | memoryview) -> Envelope:
    """Read a control payload.

    Unknown fields are skipped; an unknown type yields an UnknownMessage, which the receiver
    refuses. UntrustedError: too long or short, not a control message, another version, or a body
    that is not what its tag promises.
    """
    if len(payload) > MAX_CONTROL_SIZE + 15:
        raise UntrustedError(Drop.CONTROL_OVERSIZE)
    if len(payload) <= HEADER_SIZE:
        raise UntrustedError(Drop.CONTROL_RUNT)
    first, version, kind, figure, number, flags, size, transaction_id = _HEADER.unpack_from(payload)
    if first != CONTROL_BYTE:
        raise UntrustedError(Drop.CONTROL_NOT_CONTROL)
    if version != VERSION:
        raise UntrustedError(Drop.CONTROL_VERSION)
    # The tunnel pads with zeros to a multiple of 16, so a payload may be longer than its message.
    body = payload[HEADER_SIZE : HEADER_SIZE + size]
    if len(body) < size:
        raise UntrustedError(Drop.CONTROL_RUNT)
    try:
        kind = Kind(kind)
    except ValueError:
        raise UntrustedError(Drop.CONTROL_MALFORMED) from None
    return Envelope(
        transaction_id=transaction_id,
        kind=kind,
        step=f"{figure}.{number}" if figure else "",
        message=_decode_body_untrusted(body),
        record=bool(flags & FLAG_RECORD),
    )


def _decode_body_untrusted(body: bytes | memoryview) -> Message:
    try:
        message: Message = _decoder.decode(body)
        return message
    except BROKEN:
        pass
    try:
        tag = _tag_decoder.decode(body).tag
    except BROKEN:
        raise UntrustedError(Drop.CONTROL_MALFORMED) from None
    if tag in _KNOWN_TAGS:
        raise UntrustedError(Drop.CONTROL_MALFORMED)
    return UnknownMessage(tag)
