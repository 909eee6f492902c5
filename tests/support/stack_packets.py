"""Packets made from a fuzzer's bytes: their headers are nearly right, and anything else as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stack_sim import A4, A6, B4, B6

from ntmpatch.wire import icmp, ip, tcp, udp
from ntmpatch.wire.checksum import finish, ones_sum, transport_checksum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.packet.stack import TcpConnection

PORT, FAR_PORT = 80, 5000
"""Of the stack's listener and socket, and of what it connects to."""
FAR_ISN = 0xFFFFF000
"""The far end's numbers wrap soon."""
_WORD = 0xFFFFFFFF
_NEAR = (0, 0, 0, 0, 0, 0, 1, -1, 2, 100, -100, 1300, -1300, 70_000, 1 << 31, 300_000)
_FLAGS = (
    tcp.ACK,
    tcp.ACK | tcp.PSH,
    tcp.ACK,
    tcp.ACK | tcp.FIN,
    tcp.SYN,
    tcp.SYN | tcp.ACK,
    tcp.RST,
    tcp.RST | tcp.ACK,
    tcp.SYN | tcp.ECE | tcp.CWR,
    tcp.ACK | tcp.ECE,
    tcp.SYN | tcp.FIN,
    0,
)
_SIZES = (0, 0, 0, 1, 10, 100, 536, 1300, 4000)


class Bytes:
    """A fuzzer's input, read from its beginning; behind its end are zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        return self._at >= len(self._data)

    def take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        self._at += size
        return part.ljust(size, b"\0")

    def byte(self) -> int:
        return self.take(1)[0]

    def word(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def long(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def choose(self, choices: Sequence[int]) -> int:
        return choices[self.byte() % len(choices)]


class Forge:
    """The far end of everything, under the fuzzer's hammer."""

    def __init__(self, source: Bytes, *, family: int, verify: bool) -> None:
        self.family = family
        self.here, self.there = (A4, B4) if family == 4 else (A6, B6)
        self.last: tcp.Segment | None = None
        """What the stack sent last, over TCP."""
        self._bytes = source
        self._verify = verify

    # --- conversations that go well ------------------------------------------------------------

    def syn(self) -> bytes:
        """Of a connection to the stack's listener, with all options."""
        options = tcp.build_syn_options(
            1300, window_scale=7, sack_permitted=True, timestamps=(1000, 0)
        )
        return self._tcp(FAR_PORT, PORT, FAR_ISN, 0, tcp.SYN, options=options)

    def answer(self) -> bytes:
        """What a far end says to what the stack sent last."""
        last = self.last
        assert last is not None
        size = last.size + bool(last.flags & tcp.SYN) + bool(last.flags & tcp.FIN)
        flags, options = tcp.ACK, b""
        stamps = None
        if last.options.timestamp is not None:
            stamps = ((last.options.echo or 1000) + 1 & _WORD, last.options.timestamp)
            options = tcp.build_timestamps(*stamps)
        seq = last.ack
        if last.flags & (tcp.SYN | tcp.ACK) == tcp.SYN:
            flags |= tcp.SYN
            seq = FAR_ISN
            options = tcp.build_syn_options(
                1300, window_scale=7, sack_permitted=True, timestamps=stamps
            )
        ports = last.destination_port, last.source_port
        return self._tcp(*ports, seq, last.seq + size, flags, options=options)

    # --- one step of a fuzzer ------------------------------------------------------------------

    def packets(self, kind: int, conns: Sequence[TcpConnection]) -> list[bytes]:
        """One packet or a few."""
        source = self._bytes
        match kind % 17:
            case 0:
                return [source.take(source.byte())]
            case 1:
                return [self.syn()]
            case 2 | 3 if self.last is not None:
                return [self.answer()]
            case 4:
                return [self._ip(ip.UDP, self._datagram())]
            case 5:
                rest = source.long()
                build = (icmp.build_echo_request, icmp.build_echo_reply)[rest & 1]
                message = build(self.there, self.here, rest, source.take(source.choose(_SIZES)))
                return [self._ip(icmp.protocol_of(self.here), message)]
            case 6:
                return [self._error(conns)]
            case 7:
                return self._fragments(conns)
            case 8:
                return [self._extended(conns)]
            case 9:
                return [self._broken(conns)]
            case 10:
                return self._run(conns)
            case _:
                return [self._ip(ip.TCP, self._segment(conns))]

    def _flow(self, conns: Sequence[TcpConnection]) -> tuple[int, int, int, int]:
        """Far and near port, and numbers to begin with."""
        source = self._bytes
        which = source.byte()
        if conns and which < 192:
            conn = conns[which % len(conns)]
            ack = conn.snd_una if which & 64 else conn.snd_nxt
            return conn.remote[1], conn.local[1], conn.rcv_nxt, ack
        if self.last is not None and which < 224:
            return self.last.destination_port, self.last.source_port, self.last.ack, self.last.seq
        return FAR_PORT + which % 8, PORT + which % 2, source.long(), source.long()

    def _segment(self, conns: Sequence[TcpConnection]) -> bytes:
        source = self._bytes
        far, near, seq, ack = self._flow(conns)
        flags = source.byte()
        flags = _FLAGS[flags % len(_FLAGS)] if flags < 200 else source.byte()
        seq += source.choose(_NEAR)
        ack += source.choose(_NEAR)
        options = self._options(ack)
        window = source.word()
        size = source.choose(_SIZES)
        return self._transport(far, near, seq, ack, flags, window, options, bytes(size))

    def _options(self, ack: int) -> bytes:
        source = self._bytes
        kind = source.byte() % 7
        last = self.last
        stamp = last.options.timestamp if last is not None else None
        if kind == 1 and last is not None:
            value = (last.options.echo + source.choose(_NEAR)) & _WORD
            echo = ((stamp or 0) + source.choose(_NEAR)) & _WORD
            return tcp.build_timestamps(value, echo)
        if kind == 2:
            blocks = []
            for _ in range(1 + source.byte() % 3):
                left = ack + source.word()
                blocks.append((left & _WORD, (left + source.word()) & _WORD))
            return tcp.build_sack(blocks)
        if kind == 3:
            scale = source.byte()
            return tcp.build_syn_options(
                source.word(),
                window_scale=scale & 31 if scale & 32 else None,
                sack_permitted=bool(scale & 64),
                timestamps=(source.long(), stamp or 0) if scale & 128 else None,
            )
        if kind == 4:
            return source.take(4 * (source.byte() % 11))
        return b""

    def _run(self, conns: Sequence[TcpConnection]) -> list[bytes]:
        """Segments that follow each other, of which some may be missing."""
        source = self._bytes
        far, near, seq, ack = self._flow(conns)
        mask = source.byte()
        size = source.choose((1, 100, 1300))
        options = self._options(ack)
        packets = []
        for index in range(8):
            if mask >> index & 1:
                data = bytes(size)
                made = self._transport(far, near, seq, ack, tcp.ACK, 8000, options, data)
                packets.append(self._ip(ip.TCP, made))
            seq += size
        return packets

    def _datagram(self) -> bytes:
        source = self._bytes
        wrong = source.byte()
        size = source.choose((*_SIZES, 9000, 40_000))
        claimed = size if wrong & 3 else source.word() % 65_000
        head = udp.build(FAR_PORT, PORT + wrong // 64, claimed)
        if self._verify and wrong & 12:
            checksum = transport_checksum(self.there + self.here, ip.UDP, head, bytes(size))
            head = head[:6] + (checksum or 0xFFFF).to_bytes(2, "big")
        return head + bytes(size)

    def _error(self, conns: Sequence[TcpConnection]) -> bytes:
        """An ICMP error about something that the stack may have sent."""
        source = self._bytes
        what = source.byte()
        if what & 1:
            far, near, _, seq = self._flow(conns)
            seq = seq + source.choose(_NEAR) & _WORD
            quoted = tcp.build(near, far, seq=seq, ack=0, flags=tcp.ACK, window=0)
            protocol = ip.TCP
        elif what & 2:
            quoted, protocol = udp.build(PORT, FAR_PORT, 100), ip.UDP
        else:
            rest = source.long()
            protocol = icmp.protocol_of(self.here)
            quoted = icmp.build_echo_request(self.here, self.there, rest, b"")
        quote = bytes(ip.build(self.here, self.there, protocol, len(quoted))) + quoted
        message = bytearray(icmp.build_packet_too_big(self.there, self.here, quote, source.word()))
        if what & 0xC0:
            message[0] = source.byte() % 16
            message[1] = source.byte() % 18
            message[2:4] = b"\0\0"
            if self.family == 4:
                checksum = finish(ones_sum(message))
            else:
                checksum = transport_checksum(self.there + self.here, ip.ICMPV6, message)
            message[2:4] = checksum.to_bytes(2, "big")
        return self._ip(icmp.protocol_of(self.here), bytes(message))

    def _fragments(self, conns: Sequence[TcpConnection]) -> list[bytes]:
        """Pieces of something, of which some may be missing, overlap, or come in another order."""
        source = self._bytes
        what = source.byte()
        protocol = (ip.TCP, ip.UDP, ip.UDP, 99)[what & 3]
        whole = self._segment(conns) if protocol == ip.TCP else self._datagram()
        step = 8 * (1 + source.byte() % 64)
        skew = 8 * (source.byte() % 4) if what & 4 else 0
        identification = source.byte() % 4 if what & 8 else source.long()
        pieces = []
        for start in range(0, min(len(whole), 16 * step), step):
            piece = whole[start : start + step + skew]
            header = ip.build_fragment(
                self.there,
                self.here,
                protocol,
                len(piece),
                identification=identification,
                fragment_offset=start if start < 65_528 else 0,
                more_fragments=start + step < len(whole),
            )
            pieces.append(bytes(header) + piece)
        if what & 16:
            pieces.reverse()
        if what & 32:
            pieces = pieces[source.byte() % 3 :]
        return pieces

    def _extended(self, conns: Sequence[TcpConnection]) -> bytes:
        """With options, or extension headers."""
        source = self._bytes
        inner = self._segment(conns)
        if self.family == 4:
            options = source.take(4 * (1 + source.byte() % 10))
            packet = ip.build(self.there, self.here, ip.TCP, len(options) + len(inner))
            packet[0] = 0x45 + len(options) // 4
            packet[10:12] = b"\0\0"
            packet += options
            packet[10:12] = finish(ones_sum(packet)).to_bytes(2, "big")
            return bytes(packet) + inner
        chain, protocol = b"", ip.TCP
        for _ in range(1 + source.byte() % 5):
            kind = source.choose((0, 43, 44, 60))
            body = bytes(6) if source.byte() & 1 else source.take(6)
            chain = bytes((protocol, 0)) + body + chain
            protocol = kind
        return self._ip(protocol, chain + inner)

    def _broken(self, conns: Sequence[TcpConnection]) -> bytes:
        """A byte changed, or cut short, or padded."""
        source = self._bytes
        packet = bytearray(self._ip(ip.TCP, self._segment(conns)))
        packet[source.word() % len(packet)] ^= source.byte()
        if self.family == 4 and source.byte() & 1 and packet[0] == 0x45:
            packet[10:12] = b"\0\0"
            packet[10:12] = finish(ones_sum(packet[:20])).to_bytes(2, "big")
        change = source.byte()
        return bytes(packet[: change or None]) + bytes(change & 15)

    # --- layers --------------------------------------------------------------------------------

    def _tcp(
        self, far: int, near: int, seq: int, ack: int, flags: int, *, options: bytes = b""
    ) -> bytes:
        return self._ip(ip.TCP, self._transport(far, near, seq, ack, flags, 65_000, options, b""))

    def _transport(
        self,
        far: int,
        near: int,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        options: bytes,
        data: bytes,
    ) -> bytes:
        options = options[:40]
        header = tcp.build(
            far,
            near,
            seq=seq & _WORD,
            ack=ack & _WORD,
            flags=flags,
            window=window,
            options=options,
        )
        if self._verify:
            checksum = transport_checksum(self.there + self.here, ip.TCP, header, data)
            header = header[:16] + checksum.to_bytes(2, "big") + header[18:]
        return header + data

    def _ip(self, protocol: int, payload: bytes) -> bytes:
        return bytes(ip.build(self.there, self.here, protocol, len(payload))) + payload
