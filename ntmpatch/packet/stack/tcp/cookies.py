"""SYN cookies (RFC 4987 section 3.6): a SYN is answered, and nothing of it is kept.

All that a connection needs comes back in the ACK: our sequence number says which MSS was offered,
and the echo of our timestamp which options. Without timestamps there are no options, as Linux.
"""

from __future__ import annotations

from hashlib import blake2s
from typing import TYPE_CHECKING

from ntmpatch.wire import tcp
from ntmpatch.wire.tcp import Options, Segment

if TYPE_CHECKING:
    from collections.abc import Callable

PERIOD = 64.0
"""Seconds in which the same SYN gets the same cookie."""
MAX_AGE = 2
"""Periods after which a cookie is worth nothing; so it lives 64 to 128 seconds."""

MSS_TABLE = (536, 1220, 1316, 1336, 1360, 1380, 1440, 8940)
"""What a cookie can say of the far end's MSS: the next smaller. Ethernet's and tunnels' values."""

COOKIE_WINDOW = 0xFFFF
"""What the SYN-ACK advertises, which is unscaled; each receive buffer begins larger."""
COOKIE_RTT = 1.0
"""Seconds assumed at most (RFC 6298 (5.7)): when the SYN-ACK was sent was not kept."""

_TAG_BITS = 24
_TAG_MASK = (1 << _TAG_BITS) - 1
_WORD = 0xFFFFFFFF

# The low bits of our TSval, as in Linux's net/ipv4/syncookies.c.
OPTION_BITS = 6
_OPTION_MASK = (1 << OPTION_BITS) - 1
_SCALE_MASK = 0x0F
_NO_SCALE = 0x0F
_SACK = 0x10
_ECN = 0x20
_NO_TIMESTAMPS = 0xFF
"""In place of the six bits, of a peer that sends no timestamps."""

_ECN_SETUP = tcp.ECE | tcp.CWR
"""Both flags in a SYN offer ECN (RFC 3168 section 6.1.1)."""

Flow = tuple[bytes, int, bytes, int]
"""Our address and port, theirs."""


class SynCookies:
    """Makes and checks cookies; its size does not depend on how many SYNs there are.

    ``clock`` gives our TSval at an instant.
    """

    def __init__(self, secret: bytes, epoch: float, clock: Callable[[float], int]) -> None:
        self.sent = 0
        self.accepted = 0
        self._key = secret
        self._epoch = epoch
        self._clock = clock
        self._sent_period: int | None = None

    def build_answer(
        self,
        flow: Flow,
        syn: Segment,
        now: float,
        *,
        mss: int,
        window_scale: int,
        ecn: bool,
    ) -> bytes:
        """The header of the SYN-ACK for ``syn``.

        ``mss`` and ``window_scale`` are what we offer.
        """
        offered = syn.options
        ecn = ecn and syn.flags & _ECN_SETUP == _ECN_SETUP
        stamps = None
        bits = _NO_TIMESTAMPS
        if offered.timestamp is not None:
            bits = _pack_options(offered, ecn=ecn)
            stamps = (_stamp(self._clock(now), bits), offered.timestamp)
        has_scale = stamps is not None and offered.window_scale is not None
        period = self._period(now)
        self._sent_period = period
        self.sent += 1
        return tcp.build(
            flow[1],
            flow[3],
            seq=self._cookie(flow, syn.seq, period, bits, _mss_index(offered.mss, flow[0])),
            ack=(syn.seq + 1) & _WORD,
            flags=tcp.SYN | tcp.ACK | (tcp.ECE if ecn and stamps is not None else 0),
            window=COOKIE_WINDOW,
            options=tcp.build_syn_options(
                mss,
                window_scale=window_scale if has_scale else None,
                sack_permitted=stamps is not None and offered.sack_permitted,
                timestamps=stamps,
            ),
        )

    def recall(self, flow: Flow, seg: Segment, now: float) -> Segment | None:
        """The SYN that ``seg`` completes the handshake of; None if it acknowledges no cookie.

        Its timestamp is that of ``seg``, and its window is none: ``seg`` has the window.
        """
        if not self.are_out(now) or not seg.flags & tcp.ACK:
            return None
        irs = (seg.seq - 1) & _WORD
        cookie = (seg.ack - 1) & _WORD
        bits = _NO_TIMESTAMPS
        if seg.options.timestamp is not None:
            bits = seg.options.echo & _OPTION_MASK
        newest = self._period(now)
        for period in range(newest, newest - MAX_AGE, -1):
            index = (cookie - self._cookie(flow, irs, period, bits, 0)) & _WORD
            if index < len(MSS_TABLE):
                self.accepted += 1
                return _syn(seg, irs, bits, MSS_TABLE[index])
        return None

    def are_out(self, now: float) -> bool:
        """Whether a cookie was sent that is still worth something: else no ACK is examined."""
        sent = self._sent_period
        return sent is not None and self._period(now) - sent < MAX_AGE

    def _period(self, now: float) -> int:
        """Never so small that an earlier one would be negative."""
        return MAX_AGE + int((now - self._epoch) / PERIOD)

    def _cookie(self, flow: Flow, irs: int, period: int, bits: int, index: int) -> int:
        """Their sequence number, and the period in the high bits, keep ours growing (RFC 6528).

        The tag covers the options, so that forging any of it is guessing 24 bits.
        """
        where = flow[0] + flow[2] + flow[1].to_bytes(2) + flow[3].to_bytes(2)
        offset = blake2s(where, key=self._key, digest_size=4, person=b"cookie-o").digest()
        what = where + irs.to_bytes(4) + period.to_bytes(8) + bytes((bits,))
        tag = blake2s(what, key=self._key, digest_size=4, person=b"cookie-t").digest()
        low = (int.from_bytes(tag) & _TAG_MASK) + index
        return (int.from_bytes(offset) + irs + (period << _TAG_BITS) + low) & _WORD


def _mss_index(offered: int | None, address: bytes) -> int:
    if offered is None:
        offered = 536 if len(address) == 4 else 1220  # RFC 9293 MUST-15
    return max((i for i, mss in enumerate(MSS_TABLE) if mss <= offered), default=0)


def _pack_options(options: Options, *, ecn: bool) -> int:
    scale = _NO_SCALE if options.window_scale is None else options.window_scale
    return scale | (_SACK if options.sack_permitted else 0) | (_ECN if ecn else 0)


def _stamp(now: int, bits: int) -> int:
    """The latest TSval that is not after ``now`` and ends with ``bits``."""
    value = (now & ~_OPTION_MASK) | bits
    return (value - (1 << OPTION_BITS) if value > now else value) & _WORD


def _syn(seg: Segment, irs: int, bits: int, mss: int) -> Segment:
    options = Options(mss=mss, timestamp=seg.options.timestamp)
    flags = tcp.SYN
    if bits != _NO_TIMESTAMPS:
        scale = bits & _SCALE_MASK
        options.window_scale = None if scale == _NO_SCALE else scale
        options.sack_permitted = bool(bits & _SACK)
        if bits & _ECN:
            flags |= _ECN_SETUP
    return Segment(seg.source_port, seg.destination_port, irs, 0, flags, 0, options, [], 0)
