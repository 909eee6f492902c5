"""The handshake's primitives against published vectors."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ntmpatch.crypto.primitives import (
    InvalidTag,
    X25519PrivateKey,
    agree,
    derive,
    hash_,
    hmac_blake2s,
    keyed_mac,
    open_,
    public_of,
    seal,
)

# RFC 7748, section 6.1
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it."
)
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")


def test_x25519_of_rfc_7748():
    alice = X25519PrivateKey.from_private_bytes(ALICE)
    bob = X25519PrivateKey.from_private_bytes(BOB)
    assert (public_of(alice), public_of(bob)) == (ALICE_PUBLIC, BOB_PUBLIC)
    assert agree(alice, BOB_PUBLIC) == agree(bob, ALICE_PUBLIC) == SHARED


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_x25519_refuses_points_of_small_order(point):
    with pytest.raises(ValueError):  # noqa: PT011  # whatever the message: the type is the contract
        agree(X25519PrivateKey.from_private_bytes(ALICE), point)


def test_blake2s_of_rfc_7693():
    """Appendix B."""
    assert hash_(b"a", b"bc") == bytes.fromhex(
        "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"
    )


def test_keyed_blake2s_has_16_bytes():
    """RFC 7693, section 2.5: the output's size is an input, so a mac is no prefix of another."""
    key = bytes(range(32))
    assert len(keyed_mac(key, b"abc")) == 16
    assert keyed_mac(key, b"abc") not in (keyed_mac(bytes(32), b"abc"), hash_(b"abc")[:16])
    assert keyed_mac(key, memoryview(b"abc")) == keyed_mac(key, b"abc")


def test_hmac_is_rfc_2104_over_blake2s():
    """Spelled out: H(K ^ opad, H(K ^ ipad, text)), the key padded to a block of 64 bytes."""
    key, text = bytes(range(32)), b"what is authenticated"
    inner = bytes(byte ^ 0x36 for byte in key.ljust(64, b"\0"))
    outer = bytes(byte ^ 0x5C for byte in key.ljust(64, b"\0"))
    assert hmac_blake2s(key, text) == hash_(outer, hash_(inner, text))


def test_derive_chains_hmacs():
    """The WireGuard paper, section 5.4: tau_n = Hmac(tau_0, tau_{n-1} || n)."""
    secret = hmac_blake2s(b"k" * 32, b"input")
    first = hmac_blake2s(secret, b"\x01")
    second = hmac_blake2s(secret, first + b"\x02")
    third = hmac_blake2s(secret, second + b"\x03")
    assert derive(b"k" * 32, b"input", 3) == (first, second, third)
    assert derive(b"k" * 32, b"input", 1) == (first,)


def test_chacha20_poly1305_of_rfc_8439():
    """Section 2.8.2: what ``seal`` and the data path stand on."""
    key = bytes(range(0x80, 0xA0))
    nonce = bytes.fromhex("070000004041424344454647")
    context = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    sealed = bytes.fromhex(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
    )
    out = bytearray(len(sealed))
    ChaCha20Poly1305(key).encrypt_into(nonce, SUNSCREEN, context, out)
    assert out == sealed


def test_what_was_sealed_opens_only_with_the_same_key_and_context():
    sealed = seal(b"k" * 32, b"plain", b"context")
    assert len(sealed) == len(b"plain") + 16
    assert open_(b"k" * 32, sealed, b"context") == b"plain"
    for key, text, context in (
        (b"j" * 32, sealed, b"context"),
        (b"k" * 32, sealed[:-1] + bytes((sealed[-1] ^ 1,)), b"context"),
        (b"k" * 32, sealed, b"another"),
    ):
        with pytest.raises(InvalidTag):
            open_(key, text, context)
