"""docs/protocol.md is what the code does, and its test vectors are understood by it."""

from __future__ import annotations

import base64
import json
import struct
from hashlib import blake2s
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from protocol_document import DOCUMENT, document, message_types
from protocol_vectors import FILE, text

from ntmpatch.crypto.noise import Responder, StaticKey
from ntmpatch.signalling.figures import ANSWERS, TITLES
from ntmpatch.wire.control import Envelope, Kind, decode_untrusted, encode
from ntmpatch.wire.control_messages import Ack

pytestmark = pytest.mark.once

WRITE = "run: python tests/support/protocol_document.py --write"


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    """What the file says."""
    read: dict[str, Any] = json.loads(FILE.read_text())
    return read


def test_the_tables_are_those_of_the_code() -> None:
    written = DOCUMENT.read_text()
    assert document(written) == written, WRITE


def test_the_vectors_are_made_by_the_code() -> None:
    assert FILE.read_text() == text(), WRITE


def test_every_message_has_a_vector_that_is_read_as_what_it_is(vectors: dict[str, Any]) -> None:
    names = [vector["message"] for vector in vectors["envelopes"]]
    assert names == [kind.__name__ for kind in message_types()]
    for vector in vectors["envelopes"]:
        payload = bytes.fromhex(vector["hex"])
        envelope = decode_untrusted(payload)
        assert type(envelope.message).__name__ == vector["message"]
        assert envelope == Envelope(bytes(range(1, 9)), Kind.REQUEST, "3.8", envelope.message)
        assert encode(envelope) == payload


def test_the_documents_words_alone_read_the_vectors(vectors: dict[str, Any]) -> None:
    """A second implementation in small: struct, msgpack and primitives, and nothing of ours."""
    for vector in vectors["envelopes"]:
        payload = bytes.fromhex(vector["hex"])
        head = struct.unpack_from(">BBBBBBH8s", payload)
        assert head == (0xC0, 1, 1, 3, 8, 0, len(payload) - 16, bytes(range(1, 9)))
        assert plain(msgspec.msgpack.decode(payload[16:])) == [vector["tag"], *vector["fields"]]

    certificate = bytes.fromhex(vectors["certificate"]["hex"])
    key = Ed25519PublicKey.from_public_bytes(
        bytes.fromhex(vectors["certificate"]["signing_public_key"])
    )
    assert certificate[0] == 1
    key.verify(certificate[1:65], b"ntmpatch certificate\x00\x01" + certificate[65:])
    fields = plain(msgspec.msgpack.decode(certificate[65:]))
    assert fields == vectors["certificate"]["fields"]
    strings = vectors["dns"]["strings"]
    assert strings[:2] == ["v=ntm1", "port=3471"]
    joined = "".join(each.removeprefix("cert=") for each in strings[2:])
    assert base64.b64decode(joined) == certificate

    assert vectors["token"]["text"].startswith("ntm1.")
    encoded = vectors["token"]["text"][5:]
    token = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    assert blake2s(token[:-4], digest_size=4, person=b"ntm1").digest() == token[-4:]
    assert plain(msgspec.msgpack.decode(token[:-4])) == vectors["token"]["fields"]

    relay = vectors["relay"]
    for kind, name in ((1, "bind"), (2, "bound")):
        frame = bytes.fromhex(relay[name])
        head = struct.unpack_from(">BBBBIQ", frame)
        assert head == (0xC1, kind, relay["side"], 0, relay["session_id"], relay["counter"])
        capability = bytes.fromhex(relay["capability"])
        mac = blake2s(frame[:-16], key=capability, digest_size=16, person=b"ntm bind")
        assert frame[-16:] == mac.digest()
    assert struct.unpack(">BBBBI", bytes.fromhex(relay["data_header"])) == (
        *(0xC1, 0, 0, 0),
        relay["session_id"],
    )

    psk = {name: bytes.fromhex(value) for name, value in vectors["preshared_key"].items()}
    ends = psk["calling_public_key"] + psk["called_public_key"]
    derived = blake2s(psk["salt"] + ends, key=psk["shared_key"], person=b"ntm psk")
    assert derived.digest() == psk["preshared_key"]


def test_the_handshake_in_the_vectors_makes_the_keys_that_open_its_data(
    vectors: dict[str, Any],
) -> None:
    channel = {
        name: bytes.fromhex(value) if isinstance(value, str) else value
        for name, value in vectors["channel"].items()
    }
    # WireGuard's message layouts by offset, as in its paper, section 5.4.
    _, ephemeral, static, timestamp = (
        channel["initiation"][start:end] for start, end in ((4, 8), (8, 40), (40, 88), (88, 116))
    )
    opened = Responder(StaticKey(channel["responder_private"]), ephemeral, static, timestamp)
    assert (opened.initiator, opened.timestamp) == (
        channel["initiator_public"],
        channel["timestamp"],
    )
    public, sealed, keys = opened.respond(channel["responder_ephemeral"], channel["preshared_key"])
    assert channel["response"][12:60] == public + sealed
    assert keys == (channel["responder_sending_key"], channel["initiator_sending_key"])
    data = channel["ack_in_first_data_message"]
    assert struct.unpack_from("<IIQ", data) == (4, channel["responder_index"], 0)
    payload = ChaCha20Poly1305(keys.receiving).decrypt(bytes(12), data[16:], None)
    assert len(payload) % 16 == 0
    assert decode_untrusted(payload).message == Ack()
    assert channel["same_over_tcp"] == struct.pack(">H", len(data)) + data


def plain(value: Any) -> Any:
    """Arrays as lists, and bytes as the file writes them."""
    if isinstance(value, bytes):
        return {"bin": value.hex()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def test_the_document_names_every_step_that_is_a_message() -> None:
    told = DOCUMENT.read_text()
    for step in {*ANSWERS, *ANSWERS.values()} & set(TITLES):
        figure, _, number = step.partition(".")
        names = {step, f"({number})" if figure == "3" else f"Fig. 5 ({number})"}
        assert any(name in told for name in names), step
