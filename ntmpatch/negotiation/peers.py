"""The nodes that this node was directed to, and what vouches for each."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ntmpatch.base.policy import PortRange, intersection
from ntmpatch.signalling.effects import Contact, RelayRoute
from ntmpatch.signalling.errors import Refused
from ntmpatch.signalling.process import Event
from ntmpatch.wire.control_messages import RefusalCode, RouteDirection

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ntmpatch.base.policy import Policy
    from ntmpatch.crypto.certificate import Certificate
    from ntmpatch.signalling.enrolled import EnrolledParty

NAT_KEEPALIVE_INTERVAL = 20.0
"""Seconds, Fig. 3 (20): below the 30 s after which the shortest-lived NAT mappings go."""


@dataclass(slots=True)
class Peer:
    """A node with which a tunnel was directed."""

    public_key: bytes
    fqdn: str
    ipv4: bytes
    ipv6: bytes
    serial: int
    relay: bytes = b""
    """Key of the relay server between us, in use or in reserve; empty: none."""
    in_reserve: bool = False
    """It was asked for beside a direct way."""
    asked: bool = False
    """We had the tunnel directed, or did once; not the peer."""
    established: Event = field(default_factory=Event)

    @property
    def is_up(self) -> bool:
        """Whether the tunnel has been established and has not expired since."""
        return self.established.is_set


class Peers:
    """All peers, by key, name and virtual address."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, Peer] = {}
        self._by_name: dict[str, Peer] = {}
        self._by_address: dict[bytes, Peer] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def all(self) -> list[Peer]:
        """All peers, as they are now."""
        return list(self._by_key.values())

    def of_key(self, public_key: bytes) -> Peer | None:
        """The peer of this key."""
        return self._by_key.get(public_key)

    def named(self, fqdn: str) -> Peer | None:
        """The peer of this name."""
        return self._by_name.get(fqdn)

    def with_address(self, address: bytes) -> Peer | None:
        """The peer that holds this virtual address, packed."""
        return self._by_address.get(address)

    def put(self, peer: Peer) -> list[bytes]:
        """Keep a peer; keys of others that had its name or an address of it, which now go."""
        addresses = [address for address in (peer.ipv4, peer.ipv6) if address]
        others = [self._by_name.get(peer.fqdn), *map(self._by_address.get, addresses)]
        replaced = {
            other.public_key
            for other in others
            if other is not None and other.public_key != peer.public_key
        }
        for public_key in replaced:
            self.remove(public_key)
        self.remove(peer.public_key)
        self._by_key[peer.public_key] = peer
        self._by_name[peer.fqdn] = peer
        self._by_address.update((address, peer) for address in addresses)
        return sorted(replaced)

    def remove(self, public_key: bytes) -> Peer | None:
        """Forget a peer."""
        peer = self._by_key.pop(public_key, None)
        if peer is not None:
            del self._by_name[peer.fqdn]
            for address in (peer.ipv4, peer.ipv6):
                self._by_address.pop(address, None)
        return peer


def peer_of_untrusted(direction: RouteDirection, party: EnrolledParty) -> Peer:
    """Who a direction is about, as far as the AS vouches for it.

    Its certificate and its coordinator's are the AS's, the name lies in the coordinator's domain,
    and the virtual addresses in the prefixes leased to that. Refused otherwise.
    """
    certificate = party.verify(direction.certificate, role="node")
    coordinator = party.verify(direction.coordinator, role="dc")
    if certificate.public_key == party.public_key:
        raise Refused(RefusalCode.CERTIFICATE_INVALID, "directed to ourselves")
    if not coordinator.leads(certificate.fqdn):
        raise Refused(
            RefusalCode.WRONG_DOMAIN, f"{coordinator.fqdn} does not lead {certificate.fqdn}"
        )
    if not direction.ipv4 and not direction.ipv6:
        raise Refused(RefusalCode.CERTIFICATE_INVALID, "without virtual address")
    check_addresses(direction.ipv4, direction.ipv6, coordinator)
    return Peer(
        certificate.public_key,
        certificate.fqdn,
        direction.ipv4,
        direction.ipv6,
        direction.serial,
    )


def check_addresses(ipv4: bytes, ipv6: bytes, coordinator: Certificate) -> None:
    """Refused unless both (packed; empty: none) lie in prefixes leased to the coordinator."""
    prefixes = [ipaddress.ip_network(prefix) for prefix in coordinator.prefixes]
    for packed, size in ((ipv4, 4), (ipv6, 16)):
        if packed and (len(packed) != size or not _within(packed, prefixes)):
            raise Refused(
                RefusalCode.CERTIFICATE_INVALID, "virtual address outside the leased prefixes"
            )


def contact_of(
    peer: Peer,
    direction: RouteDirection,
    party: EnrolledParty,
    policy: Policy,
    *,
    behind_nat: bool,
    step: str,
) -> Contact:
    """What the runtime is to do about a direction, which came as ``step``; ``behind_nat``: we are.

    The peer may reach what both the coordinators and our own ``policy`` allow.
    """
    directed = tuple(PortRange(r.protocol, r.first, r.last) for r in direction.access)
    own = policy.access(peer.fqdn, party.name)
    relay = None
    if direction.relay is not None:
        leg = direction.relay
        relay = RelayRoute(
            relay_key=party.verify(leg.certificate, role="rs").public_key,
            endpoints=tuple(address.endpoint() for address in leg.endpoints),
            session_id=leg.session_id,
            side=leg.side,
            capability=leg.capability,
        )
    return Contact(
        peer.public_key,
        tuple(address.endpoint() for address in direction.endpoints),
        preshared_key=direction.preshared_key,
        initiate=direction.initiate,
        persistent_keepalive_interval=NAT_KEEPALIVE_INTERVAL if behind_nat else None,
        relay=relay,
        ipv4=peer.ipv4,
        ipv6=peer.ipv6,
        access=intersection(directed if direction.restricted else None, own),
        cipher=direction.cipher,
        role="node",
        name=peer.fqdn,
        step=step,
    )


def _within(
    packed: bytes, prefixes: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> bool:
    address = ipaddress.ip_address(packed)
    return any(address in prefix for prefix in prefixes)
