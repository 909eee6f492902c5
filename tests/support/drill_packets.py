"""Packets of drill's scripts, from and to their notation."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from ntmpatch.wire import icmp, ip, tcp
from ntmpatch.wire.checksum import finish, ones_sum

FLAGS = {
    "S": tcp.SYN,
    "F": tcp.FIN,
    "R": tcp.RST,
    "P": tcp.PSH,
    "U": tcp.URG,
    ".": tcp.ACK,
    "E": tcp.ECE,
    "W": tcp.CWR,
}
ECN = {"noecn": ip.NOT_ECT, "ect1": ip.ECT_1, "ect0": ip.ECT_0, "ce": ip.CE}

PACKET = re.compile(
    r"""^(?:\[(?P<ecn>\w+)\]\s+)?(?:@(?P<port>\d+)\s+)?
    (?P<flags>[SFRPU.EW]+|-)\s+(?P<start>\d+):(?P<end>\d+)\((?P<size>\d+)\)
    (?:\s+ack\s+(?P<ack>\d+))?(?:\s+win\s+(?P<window>\d+))?(?:\s+<(?P<options>.*)>)?$""",
    re.VERBOSE,
)

_PATTERN = bytes(i * 7 + (i >> 8) * 13 & 0xFF for i in range(1 << 16)) * 2

ERRORS = {
    4: {
        "net_unreachable": (3, 0),
        "host_unreachable": (3, 1),
        "port_unreachable": (3, 3),
        "admin_prohibited": (3, 13),
        "too_big": (3, 4),
    },
    6: {
        "net_unreachable": (1, 0),
        "host_unreachable": (1, 3),
        "port_unreachable": (1, 4),
        "admin_prohibited": (1, 1),
        "too_big": (2, 0),
    },
}


def pattern(offset: int, size: int) -> bytes:
    """What a stream carries from ``offset`` on."""
    parts: list[bytes] = []
    while size > 0:
        start = offset & 0xFFFF
        part = _PATTERN[start : start + min(size, 0x10000)]
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return b"".join(parts)


def _read(text: str) -> re.Match[str]:
    found = PACKET.match(text.strip())
    if found is None:
        raise ValueError("no packet")
    if int(found["end"]) - int(found["start"]) != int(found["size"]):
        raise ValueError("the numbers do not fit the size")
    return found


def _flag_bits(letters: str) -> int:
    return sum(FLAGS[letter] for letter in letters if letter != "-")


@dataclass(frozen=True)
class Expected:
    """A packet that we should send."""

    port: int | None
    text: str
    window: str | None
    options: str | None
    ecn: int | None

    @classmethod
    def read(cls, text: str) -> Expected:
        """ValueError if it is no packet."""
        found = _read(text)
        bits = _flag_bits(found["flags"])
        flags = "".join(letter for letter, bit in FLAGS.items() if bits & bit)
        ack = f" ack {found['ack']}" if found["ack"] else ""
        return cls(
            int(found["port"]) if found["port"] else None,
            f"{flags} {found['start']}:{found['end']}({found['size']}){ack} ",
            found["window"],
            found["options"],
            ECN[found["ecn"]] if found["ecn"] else None,
        )

    def matches(self, rendered: str, ecn: int) -> bool:
        """Whether that was sent."""
        window = rendered.partition(" win ")[2].split()[0]
        options = rendered.partition("<")[2].rstrip(">")
        return (
            rendered.startswith(self.text)
            and self.window in (None, window)
            and (self.options is None or self.options.replace(" ", "") == options.replace(" ", ""))
            and self.ecn in (None, ecn)
        )


@dataclass(frozen=True)
class Arrival:
    """A packet of the far end."""

    port: int | None
    flags: int
    seq: int
    size: int
    ack: int | None
    window: int
    options: str
    ecn: int

    @classmethod
    def read(cls, text: str) -> Arrival:
        """ValueError if it is no packet."""
        found = _read(text)
        return cls(
            int(found["port"]) if found["port"] else None,
            _flag_bits(found["flags"]),
            int(found["start"]),
            int(found["size"]),
            int(found["ack"]) if found["ack"] else None,
            int(found["window"] or 65535),
            found["options"] or "",
            ECN[found["ecn"] or "noecn"],
        )

    def build(self, ports: tuple[int, int], *, isn: int, iss: int, stamps: int) -> bytes:
        """The segment, from ``ports[0]`` to ``ports[1]``; its checksum is zero."""
        header = tcp.build(
            *ports,
            seq=(self.seq + isn) & 0xFFFFFFFF,
            ack=0 if self.ack is None else (self.ack + iss) & 0xFFFFFFFF,
            flags=self.flags,
            window=self.window,
            options=_build_options(self.options, iss, stamps),
        )
        return header + pattern(self.seq - 1, self.size)


def _build_options(text: str, iss: int, stamps: int) -> bytes:
    built = b""
    for option in filter(None, (each.strip() for each in text.split(","))):
        name, *words = option.split()
        match name:
            case "nop":
                built += b"\x01"
            case "eol":
                built += b"\x00"
            case "mss":
                built += struct.pack("!BBH", 2, 4, int(words[0]))
            case "wscale":
                built += bytes((3, 3, int(words[0])))
            case "sackOK":
                built += b"\x04\x02"
            case "TS":  # TS val 1 ecr 2
                built += struct.pack(
                    "!BBII", 8, 10, int(words[1]), (int(words[3]) + stamps) & 0xFFFFFFFF
                )
            case "sack":  # sack 1:2 3:4, of what we sent
                edges = [int(edge) + iss & 0xFFFFFFFF for w in words for edge in w.split(":")]
                built += bytes((5, 2 + 4 * len(edges))) + struct.pack(f"!{len(edges)}I", *edges)
            case "raw":  # raw 0a1b
                built += bytes.fromhex(words[0])
            case _:
                raise ValueError(f"no option {name}")
    return built + b"\x01" * (-len(built) % 4)


def render_options(options: tcp.Options, stamps: int, isn: int) -> str:
    """Padding aside, in the order in which we send them."""
    parts: list[str] = []
    if options.mss is not None:
        parts.append(f"mss {options.mss}")
    if options.window_scale is not None:
        parts.append(f"wscale {options.window_scale}")
    if options.sack_permitted:
        parts.append("sackOK")
    if options.timestamp is not None:
        parts.append(f"TS val {options.timestamp - stamps & 0xFFFFFFFF} ecr {options.echo}")
    if options.sack:
        parts.append(
            "sack "
            + " ".join(
                f"{left - isn & 0xFFFFFFFF}:{right - isn & 0xFFFFFFFF}"
                for left, right in options.sack
            )
        )
    return ",".join(parts)


def build_error(source: bytes, destination: bytes, words: list[str], quoted: memoryview) -> bytes:
    """An ICMP error about a packet of ours: ``host_unreachable``, ``too_big 1240`` (of IPv4)."""
    family = 4 if len(source) == 4 else 6
    type_, code = ERRORS[family][words[0]]
    mtu = int(words[1]) if len(words) > 1 else 0
    message = bytearray(
        struct.pack("!BBHI", type_, code, 0, mtu + (20 if family == 6 and mtu else 0))
    )
    message += quoted[:100]
    pseudo = ones_sum(source + destination, ip.ICMPV6 + len(message)) if family == 6 else 0
    message[2:4] = finish(ones_sum(message, pseudo)).to_bytes(2, "big")
    protocol = icmp.protocol_of(source)
    return bytes(ip.build(source, destination, protocol, len(message)) + message)
