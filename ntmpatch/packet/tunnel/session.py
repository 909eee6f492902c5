"""A session: two keys that one handshake made, its counters, and the sealing of packets."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ntmpatch.packet.tunnel.constants import REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES
from ntmpatch.packet.tunnel.replay import ReplayWindow
from ntmpatch.wire.wireguard import DATA, DATA_HEADER, DATA_HEADER_SIZE, TAG_SIZE

if TYPE_CHECKING:
    from ntmpatch.crypto.noise import SessionKeys

_nonce = struct.Struct("<4xQ").pack
_pack_header = DATA_HEADER.pack_into
_PADDING = 16
_ZEROS = bytes(_PADDING)


class Session:
    """One pair of transport keys with a peer. It owns its nonces: no counter is used twice."""

    __slots__ = (
        "_counter",
        "_sealing",
        "created_at",
        "initiator",
        "local_index",
        "open_into",
        "peer",
        "reject_at",
        "remote_index",
        "replay",
    )

    def __init__(
        self,
        peer: Any,  # the Peer; this file stays below peer.py
        *,
        keys: SessionKeys,
        local_index: int,
        remote_index: int,
        initiator: bool,
        now: float,
        reject_after_time: float,
    ) -> None:
        self.peer = peer
        self.local_index = local_index
        self.remote_index = remote_index
        self.initiator = initiator
        self.created_at = now
        self.reject_at = now + reject_after_time
        self.replay = ReplayWindow()
        self.open_into = ChaCha20Poly1305(keys.receiving).decrypt_into
        self._sealing = ChaCha20Poly1305(keys.sending).encrypt_into
        self._counter = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether no counter is left to send with."""
        return self._counter >= REJECT_AFTER_MESSAGES

    @property
    def is_worn(self) -> bool:
        """Whether so many packets were sealed that another session should follow."""
        return self._counter >= REKEY_AFTER_MESSAGES

    def seal(self, plaintext: memoryview | bytes, out: memoryview) -> int:
        """Write one data message with ``plaintext`` to the start of ``out``; its size.

        The plaintext is padded with zeros to a multiple of 16; ``out`` needs 47 bytes more.
        """
        counter = self._counter
        self._counter = counter + 1
        size = len(plaintext)
        _pack_header(out, 0, DATA, self.remote_index, counter)
        body_end = DATA_HEADER_SIZE + size
        out[DATA_HEADER_SIZE:body_end] = plaintext
        padding = -size & (_PADDING - 1)
        if padding:
            out[body_end : body_end + padding] = _ZEROS[:padding]
            body_end += padding
        # In place: the ciphertext lands where the plaintext was, the tag behind it.
        end = body_end + TAG_SIZE
        self._sealing(
            _nonce(counter), out[DATA_HEADER_SIZE:body_end], None, out[DATA_HEADER_SIZE:end]
        )
        return end
