"""Fragmentation and reassembly of IP packets (RFC 791 section 3.2, RFC 8200 section 4.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.base.timers import TimerQueue
from ntmpatch.wire import icmp, ip
from ntmpatch.wire.segments import SuperSegment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ntmpatch.base.drops import DropCounter

REASSEMBLY_TIMEOUT = 60.0
"""RFC 8200 section 4.5."""

MAX_REASSEMBLIES = 256
"""Ours: 256 packets of 64 KB under way at most; the source with the most of them gives way."""

MAX_REASSEMBLIES_PER_SOURCE = 32
"""Beyond, a source's oldest gives way to its newest: no peer can drive out another's."""

_MAX_FRAGMENTS = 512
"""Of one packet, so that small ones cannot multiply the bookkeeping."""

_Key: TypeAlias = tuple[bytes, bytes, int, int]
"""Source, destination, protocol (RFC 791), identification. IPv6 does not count the protocol
(RFC 8200 section 4.5): there it is 0."""


class _Partial:
    """A packet of which some fragments have come."""

    __slots__ = ("data", "ecn", "pieces", "protocol", "received_size", "total_size")

    def __init__(self) -> None:
        self.data = bytearray()
        self.pieces: dict[int, int] = {}
        """Offset to end."""
        self.received_size = 0
        self.total_size: int | None = None
        self.protocol = 0
        """As the first fragment says."""
        self.ecn = ip.NOT_ECT


class Reassembler:
    """All packets that are being put together."""

    def __init__(self, drops: DropCounter) -> None:
        self._drops = drops
        self._by_source: dict[bytes, dict[_Key, _Partial]] = {}
        self._count = 0
        self._timers: TimerQueue[_Key] = TimerQueue()

    def add(self, packet: ip.Packet, now: float) -> ip.Packet | None:
        """Take a fragment; the whole packet, when it was the last that was missing."""
        start = packet.fragment_offset
        end = start + len(packet.payload)
        # IPv4's length field counts the header, that of IPv6 does not.
        header_size = ip.IPV4_HEADER_SIZE if len(packet.source) == 4 else 0
        if (
            header_size + end > ip.MAX_PACKET_SIZE
            or start == end
            or (packet.more_fragments and len(packet.payload) % 8)
        ):
            self._drops.drop(Drop.FRAGMENT_MALFORMED)
            return None
        protocol = packet.protocol if len(packet.source) == 4 else 0
        key = (packet.source, packet.destination, protocol, packet.identification)
        partial = self._by_source.get(packet.source, {}).get(key)
        if partial is None:
            partial = self._begin(key, now)
        if partial.pieces.get(start) == end:
            return None  # a duplicate, which RFC 8200 lets be ignored
        if not self._fits(partial, start, end, last=not packet.more_fragments):
            # RFC 5722: the whole packet goes, not just this fragment.
            self._forget(key)
            self._drops.drop(Drop.FRAGMENT_OVERLAP)
            return None
        partial.pieces[start] = end
        partial.received_size += end - start
        if not start:
            partial.protocol = packet.protocol
        if packet.ecn == ip.CE:
            partial.ecn = ip.CE  # a mark on any is one on the whole (RFC 3168 section 5.3)
        if len(partial.data) < end:
            partial.data += bytes(end - len(partial.data))
        partial.data[start:end] = packet.payload
        if not packet.more_fragments:
            partial.total_size = end
        if partial.received_size != partial.total_size:
            return None
        self._forget(key)
        whole = ip.Packet(
            packet.source,
            packet.destination,
            partial.protocol,
            memoryview(partial.data),
            ecn=partial.ecn,
        )
        if len(whole.source) == 16:
            try:
                ip.skip_extensions_untrusted(whole)
            except UntrustedError as error:
                self._drops.drop(error.drop)
                return None
        if whole.is_fragment:  # fragments of a fragment
            self._drops.drop(Drop.PACKET_BAD_EXTENSION)
            return None
        return whole

    @staticmethod
    def quotable(packet: ip.Packet) -> memoryview:
        """What an ICMP error quotes of a packet that was put together, or of its first fragment."""
        ends = packet.source, packet.destination, packet.protocol, len(packet.payload)
        if packet.more_fragments:
            identification = packet.identification
            header = ip.build_fragment(
                *ends, identification=identification, fragment_offset=0, more_fragments=True
            )
        else:
            header = ip.build(*ends)
        return memoryview(header + packet.payload[: icmp.MAX_QUOTE_SIZE])

    def _begin(self, key: _Key, now: float) -> _Partial:
        source = key[0]
        mine = self._by_source.get(source, {})
        if len(mine) >= MAX_REASSEMBLIES_PER_SOURCE:
            self._give_way(source)
        elif self._count >= MAX_REASSEMBLIES:
            most = max(self._by_source, key=lambda each: len(self._by_source[each]))
            self._give_way(most)
        partial = self._by_source.setdefault(source, {})[key] = _Partial()
        self._count += 1
        self._timers.arm(key, now + REASSEMBLY_TIMEOUT)
        return partial

    def _give_way(self, source: bytes) -> None:
        self._forget(next(iter(self._by_source[source])))
        self._drops.drop(Drop.FRAGMENT_TOO_MANY)

    def _fits(self, partial: _Partial, start: int, end: int, *, last: bool) -> bool:
        total_size = partial.total_size
        if total_size is not None and (end > total_size or last):
            return False
        if len(partial.pieces) >= _MAX_FRAGMENTS:
            return False
        if start >= len(partial.data):
            return True  # in order, as nearly always
        if last and end < len(partial.data):
            return False
        return all(end <= other or stop <= start for other, stop in partial.pieces.items())

    def _forget(self, key: _Key) -> None:
        self._timers.cancel(key)
        mine = self._by_source[key[0]]
        del mine[key]
        self._count -= 1
        if not mine:
            del self._by_source[key[0]]

    def poll_timeout(self) -> float | None:
        """When the oldest packet is given up."""
        return self._timers.earliest()

    def handle_timeout(self, now: float) -> list[ip.Packet]:
        """Give up what was not completed in time; the first fragments of it, where they came."""
        firsts = []
        for key in self._timers.pop_due(now):
            partial = self._by_source[key[0]][key]
            end = partial.pieces.get(0)
            if end is not None:
                source, destination, _, identification = key
                payload = memoryview(partial.data)[:end]
                head = source, destination, partial.protocol, payload, identification
                firsts.append(ip.Packet(*head, more_fragments=True))
            self._forget(key)
            self._drops.drop(Drop.FRAGMENT_TIMEOUT)
        return firsts


def packets(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload: memoryview,
    *,
    mtu: int,
    identify: Callable[[], int],
) -> Iterator[SuperSegment]:
    """One packet that carries ``payload``, checksum filled; in fragments if ``mtu`` asks for it.

    ``identify`` gives the next identification.
    """
    overhead = ip.header_size(source)
    if overhead + len(payload) <= mtu:
        head = ip.build(source, destination, protocol, len(payload))
        yield SuperSegment(destination, head, payload, max(1, len(payload)), overhead)
        return
    yield from fragment(source, destination, protocol, payload, mtu=mtu, identification=identify())


def fragment(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload: memoryview,
    *,
    mtu: int,
    identification: int,
) -> Iterator[SuperSegment]:
    """Packets of at most ``mtu`` bytes that carry ``payload``, which begins with its header."""
    overhead = ip.header_size(source)
    if overhead == ip.IPV6_HEADER_SIZE:
        overhead += ip.FRAGMENT_HEADER_SIZE
    step = (mtu - overhead) & ~7
    for start in range(0, len(payload), step):
        piece = payload[start : start + step]
        header = ip.build_fragment(
            source,
            destination,
            protocol,
            len(piece),
            identification=identification,
            fragment_offset=start,
            more_fragments=start + step < len(payload),
        )
        yield SuperSegment(destination, header, piece, max(1, len(piece)), ip.header_size(source))
