"""The four messages of the WireGuard protocol (the WireGuard paper, section 5.4)."""

from __future__ import annotations

import struct

INITIATION = 1
RESPONSE = 2
COOKIE_REPLY = 3
DATA = 4

MAC_SIZE = 16
TAG_SIZE = 16

# type u8 | reserved 3 | sender u32 | ephemeral 32 | static 32+16 | timestamp 12+16 | mac1 | mac2
INITIATION_LAYOUT = struct.Struct("<B3xI32s48s28s16s16s")
# type | reserved 3 | sender u32 | receiver u32 | ephemeral 32 | empty 0+16 | mac1 | mac2
RESPONSE_LAYOUT = struct.Struct("<B3xII32s16s16s16s")
# type | reserved 3 | receiver u32 | nonce 24 | cookie 16+16
COOKIE_REPLY_LAYOUT = struct.Struct("<B3xI24s32s")
# type | reserved 3 | receiver u32 | counter u64 ; then the sealed packet
DATA_HEADER = struct.Struct("<B3xIQ")

INITIATION_SIZE = INITIATION_LAYOUT.size
RESPONSE_SIZE = RESPONSE_LAYOUT.size
COOKIE_REPLY_SIZE = COOKIE_REPLY_LAYOUT.size
DATA_HEADER_SIZE = DATA_HEADER.size
MIN_DATA_SIZE = DATA_HEADER_SIZE + TAG_SIZE
"""A keep-alive: an empty packet, sealed."""

MAC1_OFFSET_FROM_END = 2 * MAC_SIZE

# type and reserved bytes as one little-endian word, so that junk behind the type is seen at once
TYPE_WORD = struct.Struct("<I")

SIZES = {
    INITIATION: INITIATION_SIZE,
    RESPONSE: RESPONSE_SIZE,
    COOKIE_REPLY: COOKIE_REPLY_SIZE,
}
"""The exact size of each message but data."""
