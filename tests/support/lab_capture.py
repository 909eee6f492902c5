"""Reading what a capture recorded: packets by protocol and endpoint, and traces of known bytes."""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# pcap: magic u32, version u16 u16, zone i32, accuracy u32, snapshot length u32, link type u32
_FILE_HEADER = struct.Struct("<IHHiIII")
# seconds u32, microseconds u32, captured size u32, original size u32
_RECORD_HEADER = struct.Struct("<IIII")
_MAGIC = 0xA1B2C3D4
_ETHERNET = 1

# One place in 256 of random bytes begins a trace; 16 bytes do not occur twice by chance.
_ANCHOR = re.compile(rb"\xa5(?=.{16})", re.DOTALL)
_TRACE_SIZE = 16


@dataclass(frozen=True, slots=True)
class CapturedPacket:
    """source and destination are (address, port); the port is 0 where the protocol has none."""

    protocol: str  # "udp", "tcp", "icmp", "icmpv6", "arp", "fragment" or "other"
    source: tuple[str, int]
    destination: tuple[str, int]
    payload: memoryview
    size: int  # bytes on the wire, with the Ethernet header
    at: float = 0.0  # seconds since 1970
    sequence: int = 0  # TCP: number of the first byte of the payload, or of the SYN
    syn: bool = False  # TCP


class Capture:
    """The packets of one interface, in a pcap file that lab_recorder.py wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost = 0  # packets that the recorder was too slow for

    def packets(self) -> Iterator[CapturedPacket]:
        data = memoryview(self.path.read_bytes())
        magic, *_, link_type = _FILE_HEADER.unpack_from(data)
        if magic != _MAGIC or link_type != _ETHERNET:
            raise ValueError(f"{self.path} is no Ethernet capture")
        position = _FILE_HEADER.size
        while position < len(data):
            seconds, microseconds, size, original_size = _RECORD_HEADER.unpack_from(data, position)
            position += _RECORD_HEADER.size
            at = seconds + microseconds / 1e6
            yield _parse(data[position : position + size], original_size, at)
            position += size

    def traces_of(self, secret: bytes) -> int:
        """How many places of secret (random bytes) were seen on the wire, in any packet.

        Both are searched for the same anchor byte, and the 16 bytes behind each anchor compared. So
        the comparison does not depend on where packets cut the bytes, and a run of 1000 secret
        bytes is missed with a probability of 2 %, ten such runs never.
        """
        wanted = _traces(secret)
        return len(wanted & _traces(self.path.read_bytes()))


def _traces(data: bytes) -> set[bytes]:
    return {data[m.end() : m.end() + _TRACE_SIZE] for m in _ANCHOR.finditer(data)}


def _parse(frame: memoryview, size: int, at: float) -> CapturedPacket:
    match int.from_bytes(frame[12:14]):
        case 0x0800:
            header_size = (frame[14] & 0x0F) * 4
            addresses = _address(frame[26:30]), _address(frame[30:34])
            end = 14 + int.from_bytes(frame[16:18])
            fragment = bool(int.from_bytes(frame[20:22]) & 0x3FFF)
            number, body = frame[23], frame[14 + header_size : end]
        case 0x86DD:
            addresses = _address(frame[22:38]), _address(frame[38:54])
            number, body = frame[20], frame[54 : 54 + int.from_bytes(frame[18:20])]
            fragment = number == 44
        case 0x0806:
            return CapturedPacket("arp", ("", 0), ("", 0), frame[14:], size, at)
        case _:
            return CapturedPacket("other", ("", 0), ("", 0), frame[14:], size, at)
    source_port = destination_port = sequence = 0
    syn = False
    protocol = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}.get(number, "other")
    if fragment:
        protocol = "fragment"
    elif protocol in {"tcp", "udp"}:
        source_port, destination_port = int.from_bytes(body[0:2]), int.from_bytes(body[2:4])
        if protocol == "tcp":
            sequence, syn = int.from_bytes(body[4:8]), bool(body[13] & 2)
        body = body[8 if protocol == "udp" else (body[12] >> 4) * 4 :]
    elif number == 0:
        protocol = "icmpv6"  # a hop-by-hop header: multicast listener reports of the kernel
    source, destination = (addresses[0], source_port), (addresses[1], destination_port)
    return CapturedPacket(protocol, source, destination, body, size, at, sequence, syn)


def _address(packed: memoryview) -> str:
    return str(ipaddress.ip_address(bytes(packed)))
