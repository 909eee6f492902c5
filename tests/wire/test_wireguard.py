"""The layouts of the WireGuard paper, section 5.4, byte by byte."""

from __future__ import annotations

from ntmpatch.wire.wireguard import (
    COOKIE_REPLY_LAYOUT,
    DATA_HEADER,
    INITIATION_LAYOUT,
    MIN_DATA_SIZE,
    RESPONSE_LAYOUT,
    SIZES,
    TYPE_WORD,
)


def test_sizes_are_those_of_the_protocol():
    assert SIZES == {1: 148, 2: 92, 3: 64}
    assert (DATA_HEADER.size, MIN_DATA_SIZE) == (16, 32)


def test_fields_lie_where_other_implementations_look_for_them():
    initiation = INITIATION_LAYOUT.pack(
        1, 0x04030201, b"e" * 32, b"s" * 48, b"t" * 28, b"1" * 16, b"2" * 16
    )
    assert initiation == (
        b"\x01\0\0\0\x01\x02\x03\x04" + b"e" * 32 + b"s" * 48 + b"t" * 28 + b"1" * 16 + b"2" * 16
    )
    response = RESPONSE_LAYOUT.pack(2, 1, 2, b"e" * 32, b"n" * 16, b"1" * 16, b"2" * 16)
    assert response == (
        b"\x02\0\0\0\x01\0\0\0\x02\0\0\0" + b"e" * 32 + b"n" * 16 + b"1" * 16 + b"2" * 16
    )
    reply = COOKIE_REPLY_LAYOUT.pack(3, 1, b"n" * 24, b"c" * 32)
    assert reply == b"\x03\0\0\0\x01\0\0\0" + b"n" * 24 + b"c" * 32
    assert DATA_HEADER.pack(4, 1, 2) == b"\x04\0\0\0\x01\0\0\0\x02" + bytes(7)


def test_reserved_bytes_make_another_type():
    """A type is four bytes little-endian: a message with junk in them is none of the four."""
    (kind,) = TYPE_WORD.unpack_from(b"\x01\0\x01\0" + bytes(144))
    assert kind not in SIZES
