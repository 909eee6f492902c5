"""The control messages of registration: nodes, NSs and RSs tell a coordinator where they are.

The law of change of `control_messages` holds for them as well.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ntmpatch.wire.control_messages import (
    Address,
    Addresses,
    CertificateBytes,
    Message,
    Name,
    OptionalKey,
    PushToken,
    Seconds,
    ServerLocations,
    VirtualAddress,
    Word,
)

MAX_VANTAGE = 4
"""Two of each family: with the DC, three places that a NAT can be told by."""


class RegistrationRequest(Message, frozen=True, array_like=True, tag=20):
    """Node → DC (5.3): here I am. Sent at every start, at the interval, and at every move."""

    certificate: CertificateBytes
    local_endpoints: Addresses = ()
    device_type: Word = "tcp"
    """How an NS wakes the node: ``tcp`` by its connection, ``none`` not at all, others by a way
    that the NS knows by this name."""
    serial: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Microseconds since 1970, growing: of two that overtook each other the later one counts."""
    served_by: OptionalKey = b""
    """The NS that can wake the node now; empty: none can."""
    failed_server: OptionalKey = b""
    """An NS that the node could not connect to: another one, please."""
    push_token: PushToken = ""
    """For other ways than ``tcp``."""


class RegistrationResponse(Message, frozen=True, array_like=True, tag=21):
    """DC → node (5.6): its virtual addresses, and how it is seen from here."""

    domain: Name
    ipv4: VirtualAddress
    ipv6: VirtualAddress
    seen_endpoint: Address | None
    interval: Seconds
    """Seconds after which the node registers again."""
    servers: ServerLocations = ()
    """The NS that serves the node now, first; then others and RSs."""
    federation: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    """Version of the list of domains (FederationResponse); 0: not known."""
    revocations: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Number of the last revocation that the DC knows (RevocationsRequest)."""
    vantage: Annotated[tuple[Address, ...], Meta(max_length=MAX_VANTAGE)] = ()
    """Where RSs answer STUN, at most two of a family: how does the node look from there?"""


class Deregistration(Message, frozen=True, array_like=True, tag=22):
    """Node → DC, server → DC: leaving on purpose."""


class ServerAnnouncement(Message, frozen=True, array_like=True, tag=23):
    """NS, RS → DC: available; repeated at the DC's interval."""

    certificate: CertificateBytes
    endpoints: Addresses
    load: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    """0 is idle; 1 takes nothing new."""
    draining: bool = False
    """It is about to end: it takes nothing new, and what it serves is better moved elsewhere."""


class AnnouncementResponse(Message, frozen=True, array_like=True, tag=24):
    """DC → NS, RS: announce again after ``interval`` seconds."""

    interval: Seconds
    instance: Annotated[bytes, Meta(max_length=8)] = b""
    """When it changes, the nodes have to register again: the DC has started, and knows no node's
    location any more, or has news for them."""
