"""What a tunnel tells the runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias


@dataclass(slots=True, frozen=True, eq=False)
class Established:
    """A session with the peer is confirmed; ``initiator``: by our initiation."""

    peer: Any
    initiator: bool


@dataclass(slots=True, frozen=True, eq=False)
class Expired:
    """The peer did not answer for as long as a handshake is tried."""

    peer: Any


@dataclass(slots=True, frozen=True, eq=False)
class EndpointChanged:
    """Authenticated packets came from elsewhere: the peer has moved."""

    peer: Any
    old: Any
    new: Any


@dataclass(slots=True, frozen=True, eq=False)
class HeardElsewhere:
    """A keep-alive of a peer that does not roam came from elsewhere than its endpoint."""

    peer: Any
    source: Any


@dataclass(slots=True, frozen=True, eq=False)
class Waiting:
    """Something was sent to a peer that does not roam, and nothing has been heard since."""

    peer: Any


@dataclass(slots=True, frozen=True, eq=False)
class Admitted:
    """A key that was no known peer has been let in, provisionally."""

    peer: Any


class HandshakeKeys(NamedTuple):
    """What one end brings to a handshake beside its static key; for a key log only."""

    remote_static: bytes
    """The far end's X25519 public key."""
    ephemeral: bytes
    """Our ephemeral X25519 private key."""
    preshared: bytes


TunnelEvent: TypeAlias = (
    Established | Expired | EndpointChanged | HeardElsewhere | Waiting | Admitted
)
