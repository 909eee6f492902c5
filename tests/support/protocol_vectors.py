"""Test vectors of the protocol: one of everything that travels, made of fixed values.

They stand in ``docs/protocol-vectors.json``; ``protocol_document.py --write`` writes them anew.
"""

from __future__ import annotations

import json
import random
import types
import typing
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from ntmpatch.base.addresses import Endpoint
from ntmpatch.crypto.certificate import Certificate, issue, signing_public_key
from ntmpatch.crypto.noise import Initiator, Responder, StaticKey
from ntmpatch.crypto.primitives import ChaCha20Poly1305, X25519PrivateKey, public_of
from ntmpatch.crypto.token import Token
from ntmpatch.packet.tunnel.cookie import CookieHolder
from ntmpatch.servers.direction.published import coordinator_text
from ntmpatch.servers.direction.shared_keys import SharedKey
from ntmpatch.wire.control import AnyMessage, Envelope, Kind, encode
from ntmpatch.wire.control_messages import Ack
from ntmpatch.wire.relay import bind_frame, data_header
from ntmpatch.wire.wireguard import (
    DATA,
    DATA_HEADER,
    INITIATION,
    INITIATION_LAYOUT,
    RESPONSE,
    RESPONSE_LAYOUT,
)

FILE = Path(__file__).parents[2] / "docs" / "protocol-vectors.json"
TRANSACTION_ID = bytes(range(1, 9))

OVERRIDES: dict[str, tuple[Any, ...]] = {
    "Address": ("192.0.2.1", 3471),
    "FederatedDomain": ("b.example", "198.18.4.0/22", "fd00:0:1::/48"),
}
"""Fields of structures for which not any values do."""


def example(kind: Any, name: str = "") -> Any:
    """A value of this type: the same one every time."""
    if get_origin(kind) is Annotated:
        base, *rest = get_args(kind)
        meta = next(each for each in rest if isinstance(each, msgspec.Meta))
        if get_origin(base) is tuple:
            count = meta.min_length or 1
            return tuple(example(get_args(base)[0], name) for _ in range(count))
        if base is bytes:
            return bytes(range(meta.min_length or min(8, meta.max_length or 8)))
        if base is str:
            return name[: meta.max_length]
        if base is int:
            return min(max(7, int(meta.ge or 0)), int(meta.le if meta.le is not None else 7))
        return base(min(1.5, meta.le if meta.le is not None else 1.5))
    if get_origin(kind) in (typing.Union, types.UnionType):
        return example(get_args(kind)[0], name)
    if get_origin(kind) is tuple:
        return (example(get_args(kind)[0], name),)
    if kind is bool:
        return True
    if kind.__name__ in OVERRIDES:
        return kind(*OVERRIDES[kind.__name__])
    hints = get_type_hints(kind, include_extras=True)
    return kind(*(example(hints[each], each) for each in kind.__struct_fields__))


def vectors() -> dict[str, Any]:
    """One of everything that travels, in hexadecimal; all secrets are made up."""
    return {
        "envelopes": [_envelope_vector(kind) for kind in sorted(get_args(AnyMessage), key=tag_of)],
        "certificate": _certificate_vector(),
        "token": _token_vector(),
        "dns": _dns_vector(),
        "relay": _relay_vector(),
        "preshared_key": _preshared_key_vector(),
        "channel": _channel_vector(),
    }


def _envelope_vector(kind: type[msgspec.Struct]) -> dict[str, Any]:
    message = example(kind)
    envelope = Envelope(TRANSACTION_ID, Kind.REQUEST, "3.8", message)
    return {
        "message": kind.__name__,
        "tag": tag_of(kind),
        "fields": _plain(msgspec.structs.astuple(message)),
        "hex": encode(envelope).hex(),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bin": value.hex()}
    if isinstance(value, msgspec.Struct):
        return _plain(msgspec.structs.astuple(value))
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


_SIGNING_KEY = bytes(range(32))
_CERTIFICATE = Certificate(
    "dc",
    "dc.home.example",
    public_of(X25519PrivateKey.from_private_bytes(bytes(range(32, 64)))),
    ("198.18.0.0/22", "fd00:0:1::/48"),
    1_800_000_000.0,
    1_800_600_000.0,
    ("cars.example",),
)


def _certificate_vector() -> dict[str, Any]:
    return {
        "signing_key": _SIGNING_KEY.hex(),
        "signing_public_key": signing_public_key(_SIGNING_KEY).hex(),
        "fields": _plain(msgspec.structs.astuple(_CERTIFICATE)),
        "hex": issue(_CERTIFICATE, _SIGNING_KEY).hex(),
    }


def _token_vector() -> dict[str, Any]:
    token = Token(
        account_server=bytes(range(32)),
        endpoints=(Endpoint("192.0.2.1", 3470),),
        signing_key=signing_public_key(_SIGNING_KEY),
        token_id=bytes(range(8)),
        secret=bytes(range(32)),
        fqdn="cam.home.example",
    )
    return {"fields": _plain(msgspec.structs.astuple(token)), "text": token.encode()}


def _dns_vector() -> dict[str, Any]:
    strings = coordinator_text(3471, issue(_CERTIFICATE, _SIGNING_KEY))
    return {"name": "_ntm.dc.home.example", "strings": [each.decode() for each in strings]}


def _relay_vector() -> dict[str, Any]:
    capability = bytes(range(32))
    return {
        "session_id": 0x01020304,
        "capability": capability.hex(),
        "counter": 5,
        "side": 1,
        "data_header": data_header(0x01020304).hex(),
        "bind": bind_frame(0x01020304, 1, capability, 5).hex(),
        "bound": bind_frame(0x01020304, 1, capability, 5, bound=True).hex(),
    }


def _preshared_key_vector() -> dict[str, Any]:
    key, salt, calling, called = (bytes([each]) * 32 for each in (1, 2, 3, 4))
    shared = SharedKey(bytes(8), key, 0.0)
    return {
        "shared_key": key.hex(),
        "salt": salt.hex(),
        "calling_public_key": calling.hex(),
        "called_public_key": called.hex(),
        "preshared_key": shared.preshared_key(salt, calling, called).hex(),
    }


def _channel_vector() -> dict[str, Any]:
    calling, called, ephemeral, answering = (
        random.Random(each).randbytes(32) for each in ("calling", "called", "first", "second")
    )
    psk, timestamp = bytes([9]) * 32, bytes.fromhex("400000006b49d200075bcd15")
    initiator, responder = StaticKey(calling), StaticKey(called)
    call = Initiator(initiator, responder.public, ephemeral, timestamp)
    initiation = CookieHolder(responder.public, lifetime=120.0).stamp(
        INITIATION_LAYOUT.pack(INITIATION, 1, *call.message_parts, b"", b""), 0.0
    )
    answer = Responder(responder, *call.message_parts)
    public, sealed, keys = answer.respond(answering, psk)
    response = CookieHolder(initiator.public, lifetime=120.0).stamp(
        RESPONSE_LAYOUT.pack(RESPONSE, 2, 1, public, sealed, b"", b""), 0.0
    )
    payload = encode(Envelope(TRANSACTION_ID, Kind.RESPONSE, "3.13", Ack()))
    padded = payload + bytes(-len(payload) % 16)
    body = ChaCha20Poly1305(keys.receiving).encrypt(bytes(12), padded, None)
    data = DATA_HEADER.pack(DATA, 2, 0) + body
    return {
        "initiator_private": calling.hex(),
        "initiator_public": initiator.public.hex(),
        "responder_private": called.hex(),
        "responder_public": responder.public.hex(),
        "initiator_ephemeral": ephemeral.hex(),
        "responder_ephemeral": answering.hex(),
        "preshared_key": psk.hex(),
        "timestamp": timestamp.hex(),
        "initiator_index": 1,
        "responder_index": 2,
        "initiation": initiation.hex(),
        "response": response.hex(),
        "initiator_sending_key": keys.receiving.hex(),
        "responder_sending_key": keys.sending.hex(),
        "ack_in_first_data_message": data.hex(),
        "same_over_tcp": (len(data).to_bytes(2) + data).hex(),
    }


def tag_of(kind: type[msgspec.Struct]) -> int:
    """The number that a message begins with."""
    tag = kind.__struct_config__.tag
    assert isinstance(tag, int)
    return tag


def text() -> str:
    """The file."""
    return json.dumps(vectors(), indent=1) + "\n"
