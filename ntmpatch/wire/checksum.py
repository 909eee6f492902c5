"""The Internet checksum (RFC 1071), by big integers: the fastest that pure Python has."""

from __future__ import annotations

from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview


def ones_sum(data: Buffer, initial: int = 0) -> int:
    """One's complement sum of big-endian 16-bit words; an odd last byte is padded with zero.

    2**16 is 1 modulo 65535, so the number that the bytes spell, modulo 65535, is the sum of its
    words. Zero and 65535 are the same number here: see :func:`finish`.
    """
    value = int.from_bytes(data, "big")
    if len(data) & 1:
        value <<= 8
    return (value + initial) % 0xFFFF


def finish(total: int) -> int:
    """The checksum field for a sum of :func:`ones_sum`s.

    The sum of a real packet is never the zero that only zero words have, so a remainder of zero
    means 65535 and its complement is 0.
    """
    return (0xFFFF - total % 0xFFFF) % 0xFFFF


def pseudo_sum(addresses: Buffer, protocol: int, size: int) -> int:
    """Sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).

    ``addresses`` is source and destination, 8 or 32 bytes; ``size`` that of transport header and
    payload together.
    """
    return ones_sum(addresses, protocol + (size >> 16) + (size & 0xFFFF))


def transport_checksum(addresses: Buffer, protocol: int, *parts: Buffer) -> int:
    """Checksum of a transport packet in ``parts``, of which only the last may be odd in size.

    The checksum field among the parts must be zero. UDP's own rule, zero is sent as 65535, is the
    caller's.
    """
    total = pseudo_sum(addresses, protocol, sum(map(len, parts)))
    for part in parts:
        total = ones_sum(part, total)
    return finish(total)


def is_valid(addresses: Buffer, protocol: int, packet: Buffer) -> bool:
    """Whether a transport packet, checksum in place, sums to all ones."""
    return ones_sum(packet, pseudo_sum(addresses, protocol, len(packet))) == 0
