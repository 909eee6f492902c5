"""Opening what a lab recorded, by the key logs and static keys of its stations.

A passive observer: it follows handshakes over UDP, through relays and over the notification
servers' TCP connections, and reads the control messages in the sessions that they make. So a test
can say what went over the wire, rather than what the programs say went over it.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ntmpatch.crypto.noise import Initiator, Responder, StaticKey
from ntmpatch.crypto.primitives import InvalidTag, hash_, keyed_mac, public_of
from ntmpatch.wire.control import CONTROL_BYTE, Envelope, decode_untrusted
from ntmpatch.wire.paths import PATH_BYTE
from ntmpatch.wire.relay import FRAME_DATA, RELAY_BYTE, RELAY_HEADER_SIZE
from ntmpatch.wire.wireguard import (
    COOKIE_REPLY,
    DATA,
    DATA_HEADER,
    DATA_HEADER_SIZE,
    INITIATION,
    INITIATION_LAYOUT,
    MAC_SIZE,
    MIN_DATA_SIZE,
    RESPONSE,
    RESPONSE_LAYOUT,
    SIZES,
    TYPE_WORD,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from lab_capture import CapturedPacket

TUNNEL_REQUEST: Final = "tunnel request"
TUNNEL_RESPONSE: Final = "tunnel response"
KEEP_ALIVE: Final = "keep-alive"
CONTROL: Final = "control"
PACKET: Final = "packet"
"""An IP packet of the stacks: Fig. 4."""
UNREADABLE: Final = "unreadable"
"""A tunnel message whose handshake was not seen, or whose keys are in no log."""

_length = struct.Struct("!H")
_nonce = struct.Struct("<4xQ").pack


@dataclass(frozen=True)
class Message:
    """One tunnel message as it was on the wire."""

    at: float
    kind: str
    protocol: str
    """``udp`` or ``tcp``."""
    source: tuple[str, int]
    destination: tuple[str, int]
    sender: str = ""
    """The station that made it, by its key; empty if that could not be told."""
    receiver: str = ""
    envelope: Envelope | None = None
    """Of CONTROL only."""
    payload: bytes = field(default=b"", repr=False)
    """Of PACKET only: what was sealed."""

    @property
    def step(self) -> str:
        """The step of the figures that it is by its envelope; empty for all else."""
        return self.envelope.step if self.envelope is not None else ""


class _Ephemeral(NamedTuple):
    private: bytes
    preshared: bytes


class _Handshake(NamedTuple):
    initiator: str
    responder: str
    ephemeral: bytes
    opened: Responder


class _Direction(NamedTuple):
    sender: str
    receiver: str
    cipher: ChaCha20Poly1305


def read_key_log(text: str) -> dict[bytes, _Ephemeral]:
    """What a key log says of ephemeral keys, by their public halves."""
    keys: dict[bytes, _Ephemeral] = {}
    private = b""
    for line in text.splitlines():
        name, _, value = line.partition(" = ")
        key = base64.b64decode(value)
        if name == "LOCAL_EPHEMERAL_PRIVATE_KEY":
            private = key
        elif name == "PRESHARED_KEY":
            public = public_of(X25519PrivateKey.from_private_bytes(private))
            keys[public] = _Ephemeral(private, key)
    return keys


class Decryptor:
    """``identities``: static private keys by the name to show; ``key_logs``: files of processes."""

    def __init__(self, identities: Mapping[str, bytes], key_logs: Iterable[Path]) -> None:
        self._stations = {name: StaticKey(private) for name, private in identities.items()}
        self._names = {station.public: name for name, station in self._stations.items()}
        self._mac1_keys = {
            name: hash_(b"mac1----", station.public) for name, station in self._stations.items()
        }
        self._ephemerals: dict[bytes, _Ephemeral] = {}
        for path in key_logs:
            self._ephemerals |= read_key_log(path.read_text())
        self._handshakes: dict[int, _Handshake] = {}
        self._directions: dict[int, _Direction] = {}
        self._streams: dict[tuple[tuple[str, int], tuple[str, int]], _Stream] = {}

    def read(self, packets: Iterable[CapturedPacket], *, tcp_port: int) -> Iterator[Message]:
        """The tunnel messages among ``packets``, in order; TCP to and from that port only."""
        for packet in packets:
            if packet.protocol == "udp":
                payload = bytes(packet.payload)
                if payload[:2] == bytes((RELAY_BYTE, FRAME_DATA)):
                    payload = payload[RELAY_HEADER_SIZE:]
                messages = [payload]
            elif packet.protocol == "tcp" and tcp_port in (packet.source[1], packet.destination[1]):
                flow = packet.source, packet.destination
                messages = self._streams.setdefault(flow, _Stream()).take(packet)
            else:
                continue
            for message in messages:
                kind = TYPE_WORD.unpack_from(message)[0] if len(message) >= 4 else 0
                if SIZES.get(kind) == len(message) or (
                    kind == DATA and len(message) >= MIN_DATA_SIZE
                ):
                    yield self._message(packet, kind, message)

    def _message(self, packet: CapturedPacket, kind: int, message: bytes) -> Message:
        def seen(what: str, sender: str = "", receiver: str = "", **more: object) -> Message:
            return Message(
                packet.at,
                what,
                packet.protocol,
                packet.source,
                packet.destination,
                sender,
                receiver,
                **more,  # type: ignore[arg-type]  # envelope or payload
            )

        if kind == INITIATION:
            initiation = self._initiation(message)
            if initiation is None:
                return seen(UNREADABLE)
            return seen(TUNNEL_REQUEST, initiation.initiator, initiation.responder)
        if kind == RESPONSE:
            response = self._response(message)
            if response is None:
                return seen(UNREADABLE)
            return seen(TUNNEL_RESPONSE, response.responder, response.initiator)
        if kind == COOKIE_REPLY:
            return seen("cookie reply")
        _, receiver_index, counter = DATA_HEADER.unpack_from(message)
        direction = self._directions.get(receiver_index)
        if direction is None:
            return seen(UNREADABLE)
        sender, receiver, cipher = direction
        try:
            payload = cipher.decrypt(_nonce(counter), message[DATA_HEADER_SIZE:], None)
        except InvalidTag:
            return seen(UNREADABLE, sender, receiver)
        if not payload:
            return seen(KEEP_ALIVE, sender, receiver)
        if payload[0] == CONTROL_BYTE:
            return seen(CONTROL, sender, receiver, envelope=decode_untrusted(payload))
        if payload[0] == PATH_BYTE:
            return seen("path message", sender, receiver)
        return seen(PACKET, sender, receiver, payload=payload)

    def _initiation(self, message: bytes) -> _Handshake | None:
        body, mac1 = message[: -2 * MAC_SIZE], message[-2 * MAC_SIZE : -MAC_SIZE]
        name = next((n for n, key in self._mac1_keys.items() if keyed_mac(key, body) == mac1), None)
        if name is None:
            return None
        _, index, ephemeral, static, timestamp, _, _ = INITIATION_LAYOUT.unpack(message)
        opened = Responder(self._stations[name], ephemeral, static, timestamp)
        initiator = self._names.get(opened.initiator)
        if initiator is None:
            return None
        handshake = self._handshakes[index] = _Handshake(initiator, name, ephemeral, opened)
        return handshake

    def _response(self, message: bytes) -> _Handshake | None:
        _, index, answered, ephemeral, sealed, _, _ = RESPONSE_LAYOUT.unpack(message)
        handshake = self._handshakes.get(answered)
        if handshake is None:
            return None
        # The responder's ephemeral key opens it, or else the initiator's.
        if (ours := self._ephemerals.get(ephemeral)) is not None:
            _, _, keys = handshake.opened.respond(ours.private, ours.preshared)
            to_initiator, to_responder = keys.sending, keys.receiving
        elif (ours := self._ephemerals.get(handshake.ephemeral)) is not None:
            again = Initiator(
                self._stations[handshake.initiator],
                self._stations[handshake.responder].public,
                ours.private,
                handshake.opened.timestamp,
            )
            keys = again.finish(ephemeral, sealed, ours.preshared)
            to_initiator, to_responder = keys.receiving, keys.sending
        else:
            return None
        ends = handshake.initiator, handshake.responder
        self._directions[index] = _Direction(*ends, ChaCha20Poly1305(to_responder))
        self._directions[answered] = _Direction(*ends[::-1], ChaCha20Poly1305(to_initiator))
        return handshake


class _Stream:
    """One direction of a TCP connection: its bytes in order, cut into tunnel messages."""

    def __init__(self) -> None:
        self._next = -1
        self._early: dict[int, bytes] = {}
        self._bytes = b""

    def take(self, packet: CapturedPacket) -> list[bytes]:
        """The tunnel messages that this segment completes; none of a connection begun before."""
        if packet.syn:
            self._next = packet.sequence + 1
            self._early.clear()
            self._bytes = b""
            return []
        if self._next < 0 or not packet.payload:
            return []
        self._early[packet.sequence] = bytes(packet.payload)
        while (segment := self._early.pop(self._next, None)) is not None:
            self._bytes += segment
            self._next = self._next + len(segment) & 0xFFFFFFFF
        messages = []
        while len(self._bytes) >= _length.size:
            end = _length.size + _length.unpack_from(self._bytes)[0]
            if len(self._bytes) < end:
                break
            messages.append(self._bytes[_length.size : end])
            self._bytes = self._bytes[end:]
        return messages
