"""Enrolment tokens: the one line that a new node or server is given.

``ntm1.`` and base64url of a msgpack array and a checksum. It says where the AS is, by which keys to
know it, and a secret that is good once. Everything else is verified from there.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import blake2s
from typing import Annotated

import msgspec
from msgspec import Meta

from ntmpatch.base.addresses import Endpoint
from ntmpatch.base.errors import ConfigError
from ntmpatch.base.packing import BROKEN

PREFIX = "ntm1."
_CHECKSUM_SIZE = 4
_EXPECTED = "expected a line that begins with ntm1., as 'ntmpatch account add' prints it"


class Token(msgspec.Struct, frozen=True, array_like=True):
    """What a token says; ``repr`` and ``str`` do not show the secret."""

    account_server: Annotated[bytes, Meta(min_length=32, max_length=32)]
    """X25519 public key of the AS."""
    endpoints: Annotated[tuple[Endpoint, ...], Meta(min_length=1, max_length=8)]
    signing_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    """Ed25519 public key by which the AS certifies."""
    token_id: Annotated[bytes, Meta(min_length=8, max_length=32)]
    secret: Annotated[bytes, Meta(min_length=16, max_length=64)]
    fqdn: Annotated[str, Meta(max_length=253)] = ""
    """For people only: the AS knows which account the token is for."""

    def __repr__(self) -> str:
        return f"Token(fqdn={self.fqdn!r}, endpoints={self.endpoints!r})"

    def encode(self) -> str:
        """The line."""
        body = msgspec.msgpack.encode(self)
        return PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")


_decoder = msgspec.msgpack.Decoder(Token)


def parse_token(text: str) -> Token:
    """Read a token; ConfigError, which never repeats the text, says what is wrong with it."""
    line = text.strip()
    if not line.startswith(PREFIX) or not line.isascii():
        raise ConfigError(f"this is not an enrolment token: {_EXPECTED}")
    encoded = line[len(PREFIX) :]
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(f"the enrolment token has a strange character: {_EXPECTED}") from None
    body, checksum = data[:-_CHECKSUM_SIZE], data[-_CHECKSUM_SIZE:]
    if checksum != _checksum(body):
        raise ConfigError("the enrolment token is damaged or cut short: copy the whole line")
    try:
        return _decoder.decode(body)
    except BROKEN:
        raise ConfigError("the enrolment token is of another version of ntmpatch") from None


def _checksum(body: bytes) -> bytes:
    return blake2s(body, digest_size=_CHECKSUM_SIZE, person=b"ntm1").digest()
