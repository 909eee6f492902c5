"""Certificates: the AS's word that a key is that of a name, in a role.

``0x01 | Ed25519 signature (64) | msgpack array``, which is ``[role, fqdn, key, prefixes,
not_before, not_after, domains]``. The signature covers a context string and the array. Fields are
only added at the end.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Annotated

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ntmpatch.base.addresses import domain_of, in_domain
from ntmpatch.base.drops import Drop
from ntmpatch.base.errors import UntrustedError
from ntmpatch.base.packing import BROKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_CERTIFICATE_SIZE = 480
"""Bytes; three of them and a route direction fit one datagram with names of usual length."""
_FORMAT = b"\x01"
_CONTEXT = b"ntmpatch certificate\x00\x01"
_SIGNATURE_SIZE = 64


class Certificate(msgspec.Struct, frozen=True, array_like=True):
    """What the AS signs."""

    role: Annotated[str, msgspec.Meta(max_length=16)]
    """``node``, ``dc``, ``ns`` or ``rs``."""
    fqdn: Annotated[str, msgspec.Meta(max_length=253)]
    public_key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    """X25519."""
    prefixes: tuple[Annotated[str, msgspec.Meta(max_length=49)], ...]
    """Of a DC: the IPv4 and the IPv6 prefix that its virtual addresses are of; else empty."""
    not_before: float
    """Seconds since 1970."""
    not_after: float
    domains: tuple[Annotated[str, msgspec.Meta(max_length=253)], ...] = ()
    """Of a DC: domains that it leads beside the one that its own name lies in."""

    def leads(self, fqdn: str) -> bool:
        """Whether this is the certificate of a DC of that name's domain."""
        return self.role == "dc" and any(in_domain(fqdn, domain) for domain in self.led_domains)

    @property
    def led_domains(self) -> tuple[str, ...]:
        """The domains that a DC with this certificate leads, the one of its own name first."""
        return (domain_of(self.fqdn), *self.domains) if self.role == "dc" else ()

    def __post_init__(self) -> None:
        for prefix in self.prefixes:
            ipaddress.ip_network(prefix)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Certificate)


def issue(certificate: Certificate, signing_key: bytes) -> bytes:
    """Sign a certificate with the AS's Ed25519 private key (32 bytes); ValueError if too long."""
    body = _encoder.encode(certificate)
    signature = Ed25519PrivateKey.from_private_bytes(signing_key).sign(_CONTEXT + body)
    signed = _FORMAT + signature + body
    if len(signed) > MAX_CERTIFICATE_SIZE:
        raise ValueError(f"certificate of {certificate.fqdn} takes {len(signed)} bytes")
    return signed


def signing_public_key(signing_key: bytes) -> bytes:
    """The public half of an AS's signing key: what everybody verifies with."""
    return Ed25519PrivateKey.from_private_bytes(signing_key).public_key().public_bytes_raw()


def verify_untrusted(data: bytes, signing_key: bytes, wall_now: float) -> Certificate:
    """The certificate, if the AS with that public signing key made it and it is valid now.

    UntrustedError otherwise; its drop names what is wrong.
    """
    body = data[1 + _SIGNATURE_SIZE :]
    if len(data) > MAX_CERTIFICATE_SIZE or data[:1] != _FORMAT or not body:
        raise UntrustedError(Drop.CERTIFICATE_MALFORMED)
    try:
        key = Ed25519PublicKey.from_public_bytes(signing_key)
        key.verify(data[1 : 1 + _SIGNATURE_SIZE], _CONTEXT + body)
    except (InvalidSignature, ValueError):
        raise UntrustedError(Drop.CERTIFICATE_NOT_SIGNED) from None
    try:
        certificate = _decoder.decode(body)
    except BROKEN:
        raise UntrustedError(Drop.CERTIFICATE_MALFORMED) from None
    if not certificate.not_before <= wall_now <= certificate.not_after:
        raise UntrustedError(Drop.CERTIFICATE_EXPIRED)
    return certificate


def verify_by_any_untrusted(
    data: bytes,
    signing_keys: Iterable[bytes],
    wall_now: float,
    verify: Callable[[bytes, bytes, float], Certificate] = verify_untrusted,
) -> Certificate:
    """The same where the AS may have signed with one of several keys: it rotates them."""
    for signing_key in signing_keys:
        try:
            return verify(data, signing_key, wall_now)
        except UntrustedError as error:
            if error.drop is not Drop.CERTIFICATE_NOT_SIGNED:
                raise
    raise UntrustedError(Drop.CERTIFICATE_NOT_SIGNED)
