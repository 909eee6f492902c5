"""Another private key for a node, which keeps its name and its virtual addresses.

The old key's channel tells the AS a secret; the new key's channel shows it, as a token, and is
certified. Killed at any point, the state holds an identity that the AS accepts, or both keys and
what tells which one it is: `rotate_key` called again finishes.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ntmpatch.base.errors import ConfigError, RefusedError
from ntmpatch.crypto.token import Token
from ntmpatch.runtime.enrol import enrolled_by, keep_enrolment, offer_key
from ntmpatch.runtime.state import PRIVATE_KEY, ROTATION
from ntmpatch.signalling.enrolled import EnrolmentState
from ntmpatch.signalling.errors import Refused
from ntmpatch.wire.control_messages import RefusalCode

if TYPE_CHECKING:
    from ntmpatch.negotiation.node import NodeNegotiation
    from ntmpatch.runtime.settings import NodeSettings

_STALE = frozenset({RefusalCode.TOKEN_WITHDRAWN, RefusalCode.TOKEN_EXPIRED})
"""It was begun too long ago, or another one after it: a fresh secret is needed."""


class _Rotation(msgspec.Struct, frozen=True, array_like=True):
    """The file: the key that is to follow, and the secret that stands for it."""

    private_key: bytes
    token_id: bytes
    secret: bytes


def rotate_key(settings: NodeSettings, timeout: float) -> None:
    """Give the node another key, or finish what was begun; each question takes ``timeout`` at most.

    RefusedError: the node runs, or the AS says no. UnavailableError: the AS is silent.
    """
    stored = settings.enrolment
    if stored is None or settings.static is not None:
        raise ConfigError(f"{settings.state.path} holds no identity that an AS has certified")
    lock = settings.state.lock()
    if lock is None:
        raise RefusedError("the node is running: end it first")
    with contextlib.closing(lock):
        begun = settings.state.read(ROTATION)
        rotation = _begin(settings) if begun is None else _decode(begun)
        enrolment = EnrolmentState.decode(stored)
        try:
            party, state = _follow(settings, enrolment, rotation, timeout)
        except Refused as refusal:
            if begun is None or refusal.code not in _STALE:
                raise
            rotation = _begin(settings, rotation.private_key)
            party, state = _follow(settings, enrolment, rotation, timeout)
        # From here on the new key is the node's. If the state is not stored, the node asks for it
        # again by the channel of that key.
        settings.state.write(PRIVATE_KEY, rotation.private_key)
        keep_enrolment(settings, party, state)
        settings.state.remove(ROTATION)


def _follow(
    settings: NodeSettings, enrolment: EnrolmentState, rotation: _Rotation, timeout: float
) -> tuple[NodeNegotiation, bytes]:
    """Have the AS put the new key in the old one's place. Again and again it is the same."""
    try:
        offer_key(settings, rotation.token_id, rotation.secret, timeout)
    except Refused as refusal:
        if refusal.code is not RefusalCode.KEY_REPLACED:
            raise
        # The new key is in its place already: it was cut short after that.
    token = Token(
        account_server=enrolment.account_server,
        endpoints=enrolment.account_server_endpoints,
        signing_key=enrolment.trusted_keys[0],
        token_id=rotation.token_id,
        secret=rotation.secret,
    )
    return enrolled_by(settings, rotation.private_key, token, timeout)


def _begin(settings: NodeSettings, private_key: bytes | None = None) -> _Rotation:
    """Have the new key on the disk before anybody hears of it."""
    if private_key is None:
        private_key = X25519PrivateKey.generate().private_bytes_raw()
    rotation = _Rotation(private_key, os.urandom(8), os.urandom(32))
    settings.state.write(ROTATION, msgspec.msgpack.encode(rotation))
    return rotation


def _decode(stored: bytes) -> _Rotation:
    try:
        return msgspec.msgpack.decode(stored, type=_Rotation)
    except msgspec.DecodeError as error:
        raise ConfigError(f"the stored change of key is damaged: {error}") from None
