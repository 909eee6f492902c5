"""TCP headers and options (RFC 9293 section 3.1)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.wire.checksum import Buffer

HEADER_SIZE = 20

FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10
URG = 0x20
ECE = 0x40
CWR = 0x80

CE = 0x100
"""Not of the header: the packet was marked on its way (RFC 3168); ``Segment.flags`` has it."""

# source port, destination port, sequence number, acknowledgment number, data offset in words of
# four bytes (high nibble), flags, window, checksum, urgent pointer
HEADER = struct.Struct("!HHIIBBHHH")

_OPTION_END = 0
_OPTION_NOP = 1
_OPTION_MSS = 2
_OPTION_WINDOW_SCALE = 3
_OPTION_SACK_PERMITTED = 4
_OPTION_SACK = 5
_OPTION_TIMESTAMPS = 8

MAX_WINDOW_SCALE = 14
"""RFC 7323 section 2.3."""

TIMESTAMPS_SIZE = 12
"""With the two NOPs that align it (RFC 7323 appendix A)."""

# NOP, NOP, kind 8, length 10, TSval, TSecr
_TIMESTAMPS = struct.Struct("!III")
_TIMESTAMPS_PREFIX = 0x0101080A
_TIMESTAMPS_PREFIX_BYTES = b"\x01\x01\x08\x0a"
_TWO_WORDS = struct.Struct("!II")


@dataclass(slots=True)
class Options:
    """What the options of one segment say; None is an absent option."""

    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    timestamp: int | None = None
    """TSval."""
    echo: int = 0
    """TSecr; means something only beside a timestamp and an ACK flag."""
    sack: Sequence[tuple[int, int]] = ()
    """Left and right edges, 32 bits each."""


@dataclass(slots=True)
class Segment:
    """One segment, or a run of them; numbers are the wire's 32 bits, the window is unscaled."""

    source_port: int
    destination_port: int
    seq: int
    ack: int
    flags: int
    window: int
    options: Options
    payload: list[memoryview]
    """Pieces of data, in order, none of them empty."""
    size: int
    """Bytes of data."""


def parse_untrusted(segment: memoryview) -> Segment:
    """Read one segment, its checksum aside."""
    if len(segment) < HEADER_SIZE:
        raise UntrustedError(Drop.TCP_MALFORMED)
    source_port, destination_port, seq, ack, offset, flags, window, _, _ = HEADER.unpack_from(
        segment
    )
    header_size = (offset >> 4) * 4
    if not HEADER_SIZE <= header_size <= len(segment):
        raise UntrustedError(Drop.TCP_MALFORMED)
    size = len(segment) - header_size
    return Segment(
        source_port,
        destination_port,
        seq,
        ack,
        flags,
        window,
        parse_options_untrusted(segment[HEADER_SIZE:header_size]),
        [segment[header_size:]] if size else [],
        size,
    )


def parse_options_untrusted(data: memoryview) -> Options:
    """Read options; unknown ones are skipped (RFC 9293 MUST-6), wrong lengths are not."""
    options = Options()
    if not data:
        return options
    end = len(data)
    if end == TIMESTAMPS_SIZE and data[:4] == _TIMESTAMPS_PREFIX_BYTES:
        options.timestamp, options.echo = _TWO_WORDS.unpack_from(data, 4)
        return options
    position = 0
    while position < end:
        kind = data[position]
        if kind == _OPTION_END:
            break
        if kind == _OPTION_NOP:
            position += 1
            continue
        size = data[position + 1] if position + 1 < end else 0
        if size < 2 or position + size > end:
            raise UntrustedError(Drop.TCP_MALFORMED)
        _read_option_untrusted(options, kind, data[position + 2 : position + size])
        position += size
    return options


def _read_option_untrusted(options: Options, kind: int, body: memoryview) -> None:
    size = len(body)
    if kind == _OPTION_TIMESTAMPS and size == 8:
        options.timestamp, options.echo = _TWO_WORDS.unpack(body)
    elif kind == _OPTION_SACK and size and size % 8 == 0:
        options.sack = [_TWO_WORDS.unpack_from(body, at) for at in range(0, size, 8)]
    elif kind == _OPTION_MSS and size == 2:
        options.mss = int.from_bytes(body, "big")
    elif kind == _OPTION_WINDOW_SCALE and size == 1:
        # RFC 7323 section 2.3: a greater shift is used as 14.
        options.window_scale = min(body[0], MAX_WINDOW_SCALE)
    elif kind == _OPTION_SACK_PERMITTED and size == 0:
        options.sack_permitted = True
    elif kind in (2, 3, 4, 5, 8):
        raise UntrustedError(Drop.TCP_MALFORMED)


def build_syn_options(
    mss: int, *, window_scale: int | None, sack_permitted: bool, timestamps: tuple[int, int] | None
) -> bytes:
    """Options of a SYN, or of its answer with what the other side offered."""
    options = struct.pack("!BBH", _OPTION_MSS, 4, mss)
    if window_scale is not None:
        options += bytes((_OPTION_NOP, _OPTION_WINDOW_SCALE, 3, window_scale))
    if sack_permitted:
        options += bytes((_OPTION_NOP, _OPTION_NOP, _OPTION_SACK_PERMITTED, 2))
    if timestamps is not None:
        options += build_timestamps(*timestamps)
    return options


def build_timestamps(value: int, echo: int) -> bytes:
    """The timestamps option, aligned: 12 bytes."""
    return _TIMESTAMPS.pack(_TIMESTAMPS_PREFIX, value, echo)


def build_sack(blocks: Sequence[tuple[int, int]]) -> bytes:
    """The SACK option (RFC 2018 section 3), aligned: 4 bytes and 8 for each block."""
    return bytes((_OPTION_NOP, _OPTION_NOP, _OPTION_SACK, 2 + 8 * len(blocks))) + b"".join(
        _TWO_WORDS.pack(left, right) for left, right in blocks
    )


def build(
    source_port: int,
    destination_port: int,
    *,
    seq: int,
    ack: int,
    flags: int,
    window: int,
    options: Buffer = b"",
) -> bytes:
    """A header with its checksum zero; ``options`` is a multiple of four bytes."""
    return (
        HEADER.pack(
            source_port,
            destination_port,
            seq,
            ack,
            (HEADER_SIZE + len(options)) << 2,
            flags,
            window,
            0,
            0,
        )
        + options
    )
