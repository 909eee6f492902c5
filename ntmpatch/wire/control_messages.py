"""The control messages, named as in the paper; what each is for is told by the step it is.

Each is a msgpack array ``[tag, field, field, ...]``. The law of change: a field is only ever
added at the end, and has a default; a receiver skips fields that it does not know. A tag is never
used again for something else. Those of registration are in `control_registration`; the union of
all is `control.AnyMessage`.
"""

from __future__ import annotations

import enum
import functools
import ipaddress
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from ntmpatch.base.addresses import VIRTUAL_IPV4_SPACE, VIRTUAL_IPV6_SPACE, Endpoint
from ntmpatch.wire.control_parts import AccessRanges, SeenStep, Title

PublicKey: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""An X25519 public key; the identity of a party."""
SymmetricKey: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
OptionalKey: TypeAlias = Annotated[bytes, Meta(max_length=32)]
Name: TypeAlias = Annotated[str, Meta(max_length=253)]
CertificateBytes: TypeAlias = Annotated[bytes, Meta(max_length=480)]
"""A certificate as the AS signed it; crypto/certificate.py reads it."""
TransactionId: TypeAlias = Annotated[bytes, Meta(max_length=8)]
Port: TypeAlias = Annotated[int, Meta(ge=1, le=65535)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=1e9)]
VirtualAddress: TypeAlias = Annotated[bytes, Meta(max_length=16)]
"""A packed IPv4 (4) or IPv6 (16 bytes) address; empty: none of that family."""
Word: TypeAlias = Annotated[str, Meta(max_length=32)]
PushToken: TypeAlias = Annotated[str, Meta(max_length=256, pattern=r"^[A-Za-z0-9_.:~=-]*$")]
"""An address within a push gateway, as the gateway gave it to the device; no URL, no path."""
Host: TypeAlias = Annotated[str, Meta(min_length=2, max_length=64)]


@functools.lru_cache(maxsize=4096)  # a server meets the same hosts in message after message
def _check_host(host: str) -> None:
    """ValueError unless it is a numeric address."""
    ipaddress.ip_address(host)
    if not (host.isascii() and host.isprintable()):
        raise ValueError("the zone of an address has strange characters")


class Address(Struct, frozen=True, array_like=True):
    """An endpoint on the real network as it travels: numeric host and port.

    A host that is a name is refused: the kernel's calls would look it up, and block the hub.
    """

    host: Host
    port: Port

    def __post_init__(self) -> None:
        _check_host(self.host)

    def endpoint(self) -> Endpoint:
        """The same for the rooms that send."""
        return Endpoint(self.host, self.port)


MAX_REVOCATIONS_A_MESSAGE = 24
MAX_DOMAINS_A_MESSAGE = 3
"""Names of the greatest length, and their prefixes, still fit one datagram."""

Addresses: TypeAlias = Annotated[tuple[Address, ...], Meta(max_length=8)]


def addresses_of(endpoints: tuple[Endpoint, ...] | list[Endpoint]) -> tuple[Address, ...]:
    """Endpoints as they travel, at most the eight that a message takes."""
    return tuple(Address(endpoint.host, endpoint.port) for endpoint in endpoints[:8])


class Message(Struct, frozen=True, array_like=True):
    """Root of all control messages."""


class RefusalCode(enum.IntEnum):
    """Why a request was refused. A code that is not listed here reads as ``OTHER``."""

    OTHER = 0
    UNSUPPORTED = 1
    """The receiver knows no such message, or does not play the role that it is for."""
    NOT_AUTHORISED = 2
    """The channel's key is certified for nothing that may ask this."""
    UNKNOWN_NAME = 3
    REVOKED = 4
    TOKEN_WRONG = 5
    TOKEN_USED = 6
    TOKEN_EXPIRED = 7
    CERTIFICATE_INVALID = 8
    """Signature, role, name, key or validity of a certificate are not what they must be."""
    BUSY = 9
    """Too much is under way; ask again later."""
    EXHAUSTED = 10
    """No virtual address or prefix is left."""
    NOT_REGISTERED = 11
    """Register first: the coordinator has forgotten the node, or never knew it."""
    UNREACHABLE = 12
    """The named node is known but does not answer."""
    KEY_UNKNOWN = 13
    """The key between the coordinators has expired or was lost; offer a new one (step 4)."""
    CROSSED = 14
    """The other coordinator is directing the same two nodes; its direction counts."""
    FAILED = 15
    """Something broke inside the server."""
    WRONG_DOMAIN = 16
    """The certificate is no word of the AS about that domain: its holder does not lead it."""
    DENIED = 17
    """The policy lets the one node not reach the other."""
    TOO_FAST = 18
    """More requests of this kind than one peer may make in a time."""
    ACCOUNT_EXPIRED = 25
    """The account's time is over; its administrator may extend it."""
    KEY_REPLACED = 26
    """The account has another key by now."""
    NOT_ENROLLED = 27
    """No account has this key, or its account was removed."""
    TOKEN_WITHDRAWN = 28
    """Another token was issued for the account after this one."""
    KEY_IN_USE = 29
    """The key belongs to another account: a key is for one name."""

    @classmethod
    def _missing_(cls, value: object) -> RefusalCode:  # noqa: ARG003 - signature is enum's
        return cls.OTHER


class RevocationReason(enum.IntEnum):
    """Why a key counts no more. What is not listed here reads as ``REVOKED``."""

    REVOKED = 1
    EXPIRED = 2
    """The account's time is over."""
    REPLACED = 3
    """The account has, or is to have, another key."""
    REMOVED = 4
    """The account is gone, and its name is free."""
    REINSTATED = 5
    """The key counts again, whatever was said of it before."""

    @classmethod
    def _missing_(cls, value: object) -> RevocationReason:  # noqa: ARG003 - signature is enum's
        return cls.REVOKED


class ServerLocation(Struct, frozen=True, array_like=True):
    """A server that a node or server is told of: whom to trust and where to find it."""

    role: Word
    certificate: CertificateBytes
    endpoints: Addresses


ServerLocations: TypeAlias = Annotated[tuple[ServerLocation, ...], Meta(max_length=4)]


# --- answers to anything -------------------------------------------------------------------


class Ack(Message, frozen=True, array_like=True, tag=1):
    """Done (steps 3.5, 3.11, 3.13, 3.14, 3.16, 5.5, 5.8 and many of Fig. 5)."""


class Refusal(Message, frozen=True, array_like=True, tag=2):
    """Not done, and why; ``text`` is one line for a person."""

    code: Annotated[int, Meta(ge=0, le=65535)]
    text: Annotated[str, Meta(max_length=200)] = ""

    @property
    def reason(self) -> RefusalCode:
        """The code as a name; codes of later versions read as ``OTHER``."""
        return RefusalCode(self.code)


# --- account server ------------------------------------------------------------------------


class EnrolmentRequest(Message, frozen=True, array_like=True, tag=10):
    """Anyone → AS: certify this channel's key for the account that the token is for."""

    token_id: Annotated[bytes, Meta(max_length=32)]
    secret: Annotated[bytes, Meta(max_length=64)]
    endpoints: Addresses = ()
    """Where the asker can be reached, if it is a server."""


class EnrolmentResponse(Message, frozen=True, array_like=True, tag=11):
    """AS → anyone: the certificate, and the coordinators of the domain."""

    certificate: CertificateBytes
    coordinators: ServerLocations = ()
    signing_keys: Annotated[tuple[PublicKey, ...], Meta(max_length=4)] = ()
    """Ed25519: all by which certificates are to be judged from now on, and no others."""


class CertificateRenewal(Message, frozen=True, array_like=True, tag=12):
    """An enrolled party → AS: a fresh certificate for the same key (→ EnrolmentResponse)."""

    endpoints: Addresses = ()


class AuthenticationInquiry(Message, frozen=True, array_like=True, tag=13):
    """DC → AS: is this key still the one of this name, and may it take part?"""

    fqdn: Name
    public_key: PublicKey


class AuthenticationVerdict(Message, frozen=True, array_like=True, tag=14):
    """AS → DC: the verdict, good for ``lifetime`` seconds."""

    good: bool
    lifetime: Seconds
    text: Annotated[str, Meta(max_length=200)] = ""
    code: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Why not, as a RefusalCode."""


class PrefixLeaseRequest(Message, frozen=True, array_like=True, tag=15):
    """DC → AS: prefixes for the virtual addresses of its domain (the same ones every time)."""

    domain: Name


class PrefixLeaseResponse(Message, frozen=True, array_like=True, tag=16):
    """AS → DC: the prefixes as text, and the DC's certificate that now names them."""

    ipv4_prefix: Word
    ipv6_prefix: Annotated[str, Meta(max_length=64)]
    certificate: CertificateBytes


class KeyRotationRequest(Message, frozen=True, array_like=True, tag=17):
    """An enrolled party → AS: let the key that shows this secret take the place of mine.

    That key's own channel shows it, in an EnrolmentRequest: so it is known to be held.
    """

    token_id: Annotated[bytes, Meta(min_length=8, max_length=32)]
    secret: Annotated[bytes, Meta(min_length=16, max_length=64)]


class RevocationsRequest(Message, frozen=True, array_like=True, tag=25):
    """DC → AS, node → DC: which keys were revoked after this one?"""

    since: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


class RevokedKey(Struct, frozen=True, array_like=True):
    """One revocation, as the AS numbered it."""

    serial: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    public_key: OptionalKey
    """Empty: the account had none."""
    fqdn: Name
    reason: Annotated[int, Meta(ge=0, le=255)]
    """A RevocationReason."""


class Revocations(Message, frozen=True, array_like=True, tag=26):
    """The next revocations, in the order of their numbers; an empty list is the end."""

    revoked: Annotated[tuple[RevokedKey, ...], Meta(max_length=MAX_REVOCATIONS_A_MESSAGE)]


class RevocationNotice(Message, frozen=True, array_like=True, tag=27):
    """DC → node: the key of a peer that it was directed to counts no more (→ Ack)."""

    public_key: PublicKey
    reason: Annotated[int, Meta(ge=0, le=255)]


# --- Fig. 3: tunnel creation ---------------------------------------------------------------


class DirectionRequest(Message, frozen=True, array_like=True, tag=30):
    """MN → DC_MN (3.2, 5.9): direct a tunnel to this name. RouteDirection (3.15) answers it."""

    fqdn: Name
    local_endpoints: Addresses = ()
    avoid: OptionalKey = b""
    """A relay server that does not answer MN. ``relayed``: no direct way works."""
    relayed: bool = False
    reserve: bool = False
    """Direct ways work, and a relay is wanted beside them; refused if there is none to spare."""


class SharedKeyOffer(Message, frozen=True, array_like=True, tag=31):
    """DC_MN → DC_CN (3.4, 5.11): a key from which both derive the keys of tunnels."""

    key_id: Annotated[bytes, Meta(min_length=8, max_length=8)]
    key: SymmetricKey
    lifetime: Seconds
    certificate: CertificateBytes = b""
    """Of the offering DC: what it may ask from now on rests on it."""


class InformationRequest(Message, frozen=True, array_like=True, tag=32):
    """DC_MN → DC_CN (3.6, 5.12): what is known of this node? And who asks."""

    fqdn: Name
    asking_certificate: CertificateBytes


class InformationResponse(Message, frozen=True, array_like=True, tag=33):
    """DC_CN → DC_MN (3.7, 5.13): the NTM information of the node."""

    certificate: CertificateBytes
    ipv4: VirtualAddress
    ipv6: VirtualAddress
    seen_endpoint: Address | None
    local_endpoints: Addresses
    behind_nat: bool
    coordinator: CertificateBytes
    """Certificate of the node's DC, which names the prefixes of its virtual addresses."""


class RelayLeg(Struct, frozen=True, array_like=True):
    """One end's way through a relay server."""

    certificate: CertificateBytes
    endpoints: Addresses
    session_id: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
    side: Annotated[int, Meta(ge=0, le=1)]
    capability: Annotated[bytes, Meta(max_length=32)]
    lifetime: Seconds


class RouteDirection(Message, frozen=True, array_like=True, tag=34):
    """Which peer to tunnel with, and how (3.8 DC → DC; 3.12 and 3.15 DC → node).

    Between the DCs it describes MN, is for the CN named ``target``, and gives ``key_id`` and
    ``salt`` to derive the pre-shared key from; to a node it describes the node's peer and
    carries that key.
    """

    serial: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    """Grows from direction to direction of a pair; a node ignores what is older."""
    certificate: CertificateBytes
    coordinator: CertificateBytes
    ipv4: VirtualAddress
    ipv6: VirtualAddress
    endpoints: Addresses
    initiate: bool
    """The receiver (between DCs: the target) sends the tunnel request (3.17)."""
    preshared_key: OptionalKey = b""
    relay: RelayLeg | None = None
    cipher: Annotated[int, Meta(ge=0, le=255)] = 0
    """0: ChaCha20-Poly1305. 1: AES-256-GCM."""
    answers: TransactionId = b""
    """3.15: the transaction of the DirectionRequest that this answers."""
    target: Name = ""
    key_id: TransactionId = b""
    salt: OptionalKey = b""
    restricted: bool = False
    """To a node: the peer described may reach only the ports in ``access``."""
    access: AccessRanges = ()


class FederationRequest(Message, frozen=True, array_like=True, tag=50):
    """Node → DC, DC → AS: which domains are there? The next ones behind the name ``after``."""

    after: Name = ""


class FederatedDomain(Struct, frozen=True, array_like=True):
    """A domain whose names are NTM names, and the prefixes of its virtual addresses as text.

    Prefixes outside the virtual spaces are refused: a program's ordinary traffic would be taken
    for virtual.
    """

    domain: Name
    ipv4_prefix: Word
    ipv6_prefix: Annotated[str, Meta(max_length=64)]

    def __post_init__(self) -> None:
        if not (
            ipaddress.IPv4Network(self.ipv4_prefix).subnet_of(VIRTUAL_IPV4_SPACE)
            and ipaddress.IPv6Network(self.ipv6_prefix).subnet_of(VIRTUAL_IPV6_SPACE)
        ):
            raise ValueError("a prefix of no virtual address space")


class FederationResponse(Message, frozen=True, array_like=True, tag=51):
    """Some of the domains, in the order of their names; an empty list is the end."""

    domains: Annotated[tuple[FederatedDomain, ...], Meta(max_length=MAX_DOMAINS_A_MESSAGE)]
    version: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    """Changes with the list; 0: not known."""


class NotificationRequest(Message, frozen=True, array_like=True, tag=35):
    """DC_CN → NS_CN (3.9, 5.17): wake this node. The node's own Ack (3.11) answers it."""

    public_key: PublicKey


class Notification(Message, frozen=True, array_like=True, tag=36):
    """NS_CN → CN (3.10, 5.18): your coordinator wants you; acknowledge to it."""

    coordinator: PublicKey


# --- Fig. 5: notification service and relay ------------------------------------------------


class ServiceRequest(Message, frozen=True, array_like=True, tag=40):
    """DC_MN → NS_MN (5.4): serve this node."""

    public_key: PublicKey
    fqdn: Name
    device_type: Word = "tcp"
    lifetime: Seconds = 3600.0
    push_token: PushToken = ""


class ServiceRegistration(Message, frozen=True, array_like=True, tag=41):
    """MN → NS_MN (5.7), over the connection on which notifications shall come."""

    certificate: CertificateBytes
    coordinator: OptionalKey = b""
    """The node's DC, for whose notifications it waits."""
    heartbeat_interval: Seconds = 45.0
    """Seconds of silence after which the NS is to probe the connection."""


class RelayRequest(Message, frozen=True, array_like=True, tag=42):
    """DC_MN → RS (5.14): let these two ends meet at you."""

    ends: Annotated[tuple[PublicKey, ...], Meta(min_length=2, max_length=2)]
    lifetime: Seconds
    byte_quota: Annotated[int, Meta(ge=0)] = 0
    """Bytes that may pass in all; 0: as the RS grants."""
    rate: Annotated[float, Meta(ge=0.0, le=1e15)] = 0.0
    """Bytes a second that may pass; 0: as the RS grants."""
    reserve: bool = False
    """The ends meet directly, and come here only when that fails: whoever needs a session has
    precedence, and an RS that ends does not wait for this one."""


class RelayGrant(Message, frozen=True, array_like=True, tag=43):
    """RS → DC_MN (5.15): the session and one capability for each end."""

    session_id: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
    capabilities: Annotated[
        tuple[Annotated[bytes, Meta(max_length=32)], ...], Meta(min_length=2, max_length=2)
    ]
    endpoints: Addresses
    lifetime: Seconds


class Recall(Message, frozen=True, array_like=True, tag=44):
    """NS → node: this coordinator wants you to register again, if it is yours."""

    coordinator: PublicKey


class TraceRequest(Message, frozen=True, array_like=True, tag=60):
    """Node → DC, DC → DC, NS or RS: what did you see of this transaction of mine?

    Answered only to who began the transaction, with the envelope's flag of a recording set.
    """

    transaction_id: Annotated[bytes, Meta(min_length=8, max_length=8)]


class TraceResponse(Message, frozen=True, array_like=True, tag=61):
    """DC, NS, RS → who asked: its steps, and those of the parties that it asked in its turn."""

    parties: Annotated[tuple[Title, ...], Meta(max_length=8)]
    steps: Annotated[tuple[SeenStep, ...], Meta(max_length=40)]
    silent: Annotated[tuple[Title, ...], Meta(max_length=8)] = ()
    """Parties that told nothing: they are older, or did not answer."""
