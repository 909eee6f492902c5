"""A session: two keys that one handshake made, its counters, and sealing and opening of packets.

This is the path that every packet takes: one call of the cipher, and as little around it as
Python allows.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ntmpatch.base.drops import Drop
from ntmpatch.packet.tunnel.replay import ReplayWindow
from ntmpatch.wire.wireguard import DATA, DATA_HEADER_SIZE, MIN_DATA_SIZE, TAG_SIZE

if TYPE_CHECKING:
    from ntmpatch.base.drops import DropCounter
    from ntmpatch.crypto.noise import SessionKeys
    from ntmpatch.packet.tunnel.constants import Timers

# type u8, reserved 3 and receiver u32 as one word | counter u64
_HEADER = struct.Struct("<QQ")
_pack_header = _HEADER.pack_into
_unpack_header = _HEADER.unpack_from
# zero 4 | counter u64 (RFC 8439's nonce, as Noise fills it)
_nonce = struct.Struct("<4xQ").pack

_PADDING = tuple(bytes(-size & 15) for size in range(16))
"""What rounds a packet up to 16 bytes, by the last four bits of its size."""


def data_word(index: int) -> int:
    """The first 8 bytes of a data message to the receiver ``index``, as one number."""
    return DATA | index << 32


class Session:
    """One pair of transport keys with a peer. It owns its nonces: no counter is used twice."""

    __slots__ = (
        "_counter",
        "_exhausted_after",
        "_open_into",
        "_receiving_word",
        "_replay",
        "_seal_into",
        "_sending_word",
        "_worn_after",
        "created_at",
        "heard_at",
        "initiator",
        "local_index",
        "reject_at",
        "remote_index",
        "sealed_size",
    )

    def __init__(
        self,
        *,
        keys: SessionKeys,
        local_index: int,
        remote_index: int,
        initiator: bool,
        now: float,
        times: Timers,
    ) -> None:
        self.local_index = local_index
        self.remote_index = remote_index
        self.initiator = initiator
        self.created_at = now
        self.reject_at = now + times.reject_after_time
        self.heard_at = float("-inf")
        """When the far end sent with it, as far as that was not late."""
        self.sealed_size = 0
        """Bytes of all data messages made so far."""
        self._replay = ReplayWindow()
        self._open_into = ChaCha20Poly1305(keys.receiving).decrypt_into
        self._seal_into = ChaCha20Poly1305(keys.sending).encrypt_into
        self._receiving_word = data_word(local_index)
        self._sending_word = data_word(remote_index)
        self._counter = 0
        self._worn_after = times.rekey_after_messages
        self._exhausted_after = times.reject_after_messages

    @property
    def is_exhausted(self) -> bool:
        """Whether no counter is left to send with.

        Asked once a batch: the 2^13 counters that are left then are far more than a batch has,
        and a counter that does not fit its field raises ``struct.error`` rather than wraps.
        """
        return self._counter >= self._exhausted_after

    @property
    def is_worn(self) -> bool:
        """Whether so many packets were sealed that another session should follow."""
        return self._counter >= self._worn_after

    def seal(self, plaintext: memoryview | bytes, out: memoryview) -> int:
        """Write one data message with ``plaintext`` to the start of ``out``; its size.

        The plaintext is padded with zeros to a multiple of 16; ``out`` needs 47 bytes more.
        """
        counter = self._counter
        self._counter = counter + 1
        size = len(plaintext)
        if size & 15:
            plaintext = b"".join((plaintext, _PADDING[size & 15]))
            size = len(plaintext)
        end = size + MIN_DATA_SIZE
        _pack_header(out, 0, self._sending_word, counter)
        self._seal_into(_nonce(counter), plaintext, None, out[DATA_HEADER_SIZE:end])
        self.sealed_size += end
        return end

    def open_run(
        self,
        buffer: memoryview,
        start: int,
        segment_size: int,
        *,
        arena: memoryview,
        packets: list[memoryview],
        drops: DropCounter,
    ) -> tuple[int, int, bool]:
        """Open the datagrams of ``buffer`` from ``start`` on, up to the first that is not ours.

        The first one is ours and has at least the size of an empty packet, as the caller knows.
        Appends to ``packets`` views into ``arena``, which is as long as ``buffer``; empty packets
        leave none. Returns where it stopped, the bytes of authentic datagrams, and whether one of
        them was newer than all before.
        """
        size = len(buffer)
        word = self._receiving_word
        replay = self._replay
        open_into = self._open_into
        before = replay.newest
        authentic_size = 0
        while start < size:
            end = start + segment_size
            end = min(end, size)
            length = end - start
            if length < MIN_DATA_SIZE:
                break
            head, counter = _unpack_header(buffer, start)
            if head != word:
                break
            body = start + DATA_HEADER_SIZE
            plaintext = arena[body : end - TAG_SIZE]
            try:
                open_into(_nonce(counter), buffer[body:end], None, plaintext)
            except InvalidTag:
                drops.drop(Drop.TUNNEL_FORGED)
                start = end
                continue
            start = end
            if counter == replay.newest + 1:
                replay.newest = counter
            elif not replay.accept(counter):
                drops.drop(Drop.TUNNEL_REPLAYED)
                continue
            authentic_size += length
            if length > MIN_DATA_SIZE:
                packets.append(plaintext)
        return start, authentic_size, replay.newest > before
