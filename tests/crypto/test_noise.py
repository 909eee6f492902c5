"""The handshake against ``noiseprotocol``, an implementation of the Noise framework by others."""

from __future__ import annotations

import random
from typing import Any

import pytest
from noise.connection import Keypair, NoiseConnection

from ntmpatch.crypto.noise import (
    CONSTRUCTION,
    IDENTIFIER,
    Initiator,
    Responder,
    SessionKeys,
    StaticKey,
)
from ntmpatch.crypto.primitives import InvalidTag, hash_

TIMESTAMP = bytes(range(12))


def keys(seed: int) -> tuple[random.Random, StaticKey, StaticKey, bytes, bytes]:
    """Ours, theirs, their private bytes, and a pre-shared key."""
    rng = random.Random(seed)
    theirs = rng.randbytes(32)
    return rng, StaticKey(rng.randbytes(32)), StaticKey(theirs), theirs, rng.randbytes(32)


def foreign(private_key: bytes, preshared_key: bytes, *, responder: bytes | None) -> Any:
    """The other implementation, with WireGuard's identifier as its prologue."""
    noise = NoiseConnection.from_name(CONSTRUCTION)
    noise.set_prologue(IDENTIFIER)
    noise.set_psks(preshared_key)
    noise.set_keypair_from_private_bytes(Keypair.STATIC, private_key)
    if responder is None:
        noise.set_as_responder()
    else:
        noise.set_as_initiator()
        noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, responder)
    noise.start_handshake()
    return noise


def assert_same_session(session: SessionKeys, noise: Any) -> None:
    """Each side's sending key is the other's receiving key."""
    cipher = noise.noise_protocol
    assert session.sending == cipher.cipher_state_decrypt.k
    assert session.receiving == cipher.cipher_state_encrypt.k


@pytest.mark.parametrize("seed", range(4))
def test_we_call_another_implementation(seed):
    rng, static, far, far_private, preshared_key = keys(seed)
    noise = foreign(far_private, preshared_key, responder=None)
    initiator = Initiator(static, far.public, rng.randbytes(32), TIMESTAMP)
    assert noise.read_message(b"".join(initiator.message_parts)) == TIMESTAMP
    response = bytes(noise.write_message(b""))
    session = initiator.finish(response[:32], response[32:], preshared_key)
    assert_same_session(session, noise)


@pytest.mark.parametrize("seed", range(4))
def test_another_implementation_calls_us(seed):
    rng, static, far, far_private, preshared_key = keys(seed)
    noise = foreign(far_private, preshared_key, responder=static.public)
    message = bytes(noise.write_message(TIMESTAMP))
    responder = Responder(static, message[:32], message[32:80], message[80:])
    assert (responder.initiator, responder.timestamp) == (far.public, TIMESTAMP)
    ephemeral, sealed_empty, session = responder.respond(rng.randbytes(32), preshared_key)
    assert noise.read_message(ephemeral + sealed_empty) == b""
    assert_same_session(session, noise)


def test_the_initial_hashes_are_wireguards():
    """The two constants that every implementation of WireGuard has precomputed."""
    assert hash_(CONSTRUCTION).hex() == (
        "60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36"
    )
    assert hash_(hash_(CONSTRUCTION), IDENTIFIER).hex() == (
        "2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3"
    )


def test_a_response_made_with_another_preshared_key_is_refused_and_the_right_one_still_taken():
    rng, static, far, _, preshared_key = keys(1)
    initiator = Initiator(static, far.public, rng.randbytes(32), TIMESTAMP)
    responder = Responder(far, *initiator.message_parts)
    wrong_ephemeral, wrong, _ = responder.respond(rng.randbytes(32), bytes(32))
    with pytest.raises(InvalidTag):
        initiator.finish(wrong_ephemeral, wrong, preshared_key)
    ephemeral, sealed_empty, session = responder.respond(rng.randbytes(32), preshared_key)
    ours = initiator.finish(ephemeral, sealed_empty, preshared_key)
    assert (ours.sending, ours.receiving) == (session.receiving, session.sending)


def test_an_initiation_to_somebody_else_is_refused():
    rng, static, far, _, _ = keys(2)
    initiator = Initiator(static, far.public, rng.randbytes(32), TIMESTAMP)
    with pytest.raises(InvalidTag):
        Responder(StaticKey(rng.randbytes(32)), *initiator.message_parts)


def test_ephemeral_keys_of_small_order_are_refused():
    """The shared secret would be known to everybody (RFC 7748, section 6.1)."""
    rng, static, far, _, preshared_key = keys(3)
    initiator = Initiator(static, far.public, rng.randbytes(32), TIMESTAMP)
    _, sealed_static, sealed_timestamp = initiator.message_parts
    with pytest.raises(ValueError):  # noqa: PT011  # whatever the message: the type is the contract
        Responder(far, bytes(32), sealed_static, sealed_timestamp)
    with pytest.raises(ValueError):  # noqa: PT011  # as above
        initiator.finish(bytes(32), bytes(16), preshared_key)
