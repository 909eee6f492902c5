"""Control messages on the wire: any bytes give a message or a named drop."""

from __future__ import annotations

import contextlib
import struct
import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.wire.control import (
    HEADER_SIZE,
    MAX_CONTROL_SIZE,
    AnyMessage,
    Envelope,
    Kind,
    UnknownMessage,
    decode_untrusted,
    encode,
)
from ntmpatch.wire.control_messages import (
    Ack,
    Address,
    DirectionRequest,
    Refusal,
    RefusalCode,
    RelayLeg,
    RouteDirection,
)

TRANSACTION = b"12345678"

LARGEST_DIRECTION = RouteDirection(
    serial=1_800_000_000_000_000,
    certificate=bytes(250),
    coordinator=bytes(250),
    ipv4=bytes(4),
    ipv6=bytes(16),
    endpoints=(Address("2001:db8:1111:2222:3333:4444:5555:6666", 65535),) * 4,
    initiate=True,
    preshared_key=bytes(32),
    relay=RelayLeg(
        bytes(250),
        (Address("2001:db8:1111:2222:3333:4444:5555:6666", 1),) * 2,
        7,
        1,
        bytes(32),
        9.0,
    ),
    answers=TRANSACTION,
)


def framed(body: bytes, kind: int = Kind.REQUEST, version: int = 1, first: int = 0xC0) -> bytes:
    """``body`` behind a header that need not be right."""
    return struct.pack("!BBBBBxH8s", first, version, kind, 3, 8, len(body), TRANSACTION) + body


def test_the_largest_direction_fits_one_datagram_and_comes_back_equal() -> None:
    envelope = Envelope(TRANSACTION, Kind.REQUEST, "3.15", LARGEST_DIRECTION)
    payload = encode(envelope)
    assert len(payload) <= MAX_CONTROL_SIZE
    assert decode_untrusted(memoryview(payload)) == envelope


def test_what_would_not_fit_a_datagram_is_not_encoded() -> None:
    huge = msgspec.structs.replace(LARGEST_DIRECTION, certificate=bytes(1000))
    with pytest.raises(ValueError, match="RouteDirection takes"):
        encode(Envelope(TRANSACTION, Kind.REQUEST, "", huge))


def test_the_padding_of_the_tunnel_is_no_part_of_a_message() -> None:
    payload = encode(Envelope(TRANSACTION, Kind.RESPONSE, "", Ack()))
    assert decode_untrusted(payload + bytes(15)) == decode_untrusted(payload)


def test_a_step_is_two_bytes_and_optional() -> None:
    assert encode(Envelope(TRANSACTION, Kind.RESPONSE, "5.22", Ack()))[3:5] == bytes([5, 22])
    assert decode_untrusted(encode(Envelope(TRANSACTION, Kind.REFUSAL, "", Ack()))).step == ""


def test_fields_of_later_versions_are_skipped_and_missing_ones_have_defaults() -> None:
    fields = [30, "b.home.example", [], b"", False, False]
    later = framed(msgspec.msgpack.encode([*fields, {"new": [1, 2]}, 5]))
    assert decode_untrusted(later).message == DirectionRequest("b.home.example")
    older = framed(msgspec.msgpack.encode([30, "b.home.example"]))
    assert decode_untrusted(older).message == DirectionRequest("b.home.example")


def test_a_message_of_a_later_version_is_known_to_be_unknown() -> None:
    later = framed(msgspec.msgpack.encode([199, "whatever", {"x": 1}]))
    assert decode_untrusted(later) == Envelope(
        TRANSACTION, Kind.REQUEST, "3.8", UnknownMessage(199)
    )


def test_a_refusal_code_of_a_later_version_reads_as_other() -> None:
    payload = framed(msgspec.msgpack.encode([2, 999, "because"]), Kind.REFUSAL)
    message = decode_untrusted(payload).message
    assert isinstance(message, Refusal)
    assert (message.code, message.reason) == (999, RefusalCode.OTHER)


@pytest.mark.parametrize(
    ("payload", "drop"),
    [
        (b"", Drop.CONTROL_RUNT),
        (framed(b""), Drop.CONTROL_RUNT),
        (framed(bytes(MAX_CONTROL_SIZE)), Drop.CONTROL_OVERSIZE),
        (framed(b"\x91\x01", first=0x45), Drop.CONTROL_NOT_CONTROL),
        (framed(b"\x91\x01", version=2), Drop.CONTROL_VERSION),
        (framed(b"\x91\x01", kind=9), Drop.CONTROL_MALFORMED),
        (framed(b"\x91\x01\x00"), Drop.CONTROL_MALFORMED),
        (framed(msgspec.msgpack.encode([30, 5])), Drop.CONTROL_MALFORMED),
        (framed(msgspec.msgpack.encode([30, "x" * 300])), Drop.CONTROL_MALFORMED),
        (framed(msgspec.msgpack.encode([31, b"short", bytes(32), 1.0])), Drop.CONTROL_MALFORMED),
        (framed(msgspec.msgpack.encode({"tag": 30})), Drop.CONTROL_MALFORMED),
        # A program's ordinary traffic would be taken for virtual.
        (
            framed(msgspec.msgpack.encode([51, [["b.c", "0.0.0.0/0", "fd00::/48"]]])),
            Drop.CONTROL_MALFORMED,
        ),
        (
            framed(msgspec.msgpack.encode([51, [["b.c", "198.18.0.0/22", "2001:db8::/48"]]])),
            Drop.CONTROL_MALFORMED,
        ),
        # A name as an endpoint's host would be looked up by the kernel's call, in the hub.
        (
            framed(msgspec.msgpack.encode([30, "b.c", [["slow.example", 1]]])),
            Drop.CONTROL_MALFORMED,
        ),
        (framed(msgspec.msgpack.encode([30, "b.c", [["::1%a\0b", 1]]])), Drop.CONTROL_MALFORMED),
        (framed(b"\x92\x01" + b"\x91" * 1100), Drop.CONTROL_MALFORMED),
        (framed(b"\x91\x01")[:-1], Drop.CONTROL_RUNT),
        (framed(b"\xdd\xff\xff\xff\xff\x01"), Drop.CONTROL_MALFORMED),
    ],
)
def test_broken_payloads_are_dropped_by_name(payload: bytes, drop: Drop) -> None:
    with pytest.raises(UntrustedError) as caught:
        decode_untrusted(payload)
    assert caught.value.drop is drop


def test_every_message_type_has_its_own_tag() -> None:
    tags = [message_type.__struct_config__.tag for message_type in typing.get_args(AnyMessage)]
    assert len(tags) == len(set(tags))
    assert 0 not in tags


@given(st.binary(max_size=MAX_CONTROL_SIZE + 50))
def test_any_bytes_give_a_message_or_a_drop(payload: bytes) -> None:
    check_decoding(payload)


@given(st.integers(0, 60), st.recursive(st.none() | st.booleans() | st.integers(-5, 2**64 - 1)
       | st.floats() | st.text(max_size=20) | st.binary(max_size=40),
       lambda inner: st.lists(inner, max_size=6), max_leaves=20))  # fmt: skip
def test_any_fields_of_any_tag_give_a_message_or_a_drop(tag: int, fields: object) -> None:
    body = [tag, *fields] if isinstance(fields, list) else [tag, fields]
    check_decoding(framed(msgspec.msgpack.encode(body)))


@given(st.integers(0, HEADER_SIZE + 900), st.integers(0, 255))
def test_any_changed_byte_of_a_direction_gives_a_message_or_a_drop(place: int, value: int) -> None:
    payload = bytearray(encode(Envelope(TRANSACTION, Kind.REQUEST, "3.15", LARGEST_DIRECTION)))
    payload[place % len(payload)] = value
    check_decoding(bytes(payload))


def check_decoding(payload: bytes) -> None:
    with contextlib.suppress(UntrustedError):
        envelope = decode_untrusted(payload)
        # What was read can be written, unless it is of a later version.
        if not isinstance(envelope.message, UnknownMessage):
            encode(envelope)
