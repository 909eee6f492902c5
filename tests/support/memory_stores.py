"""The durable stores of AS and DC as dictionaries: for simulations, where speed counts."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from ntmpatch.base.addresses import domain_of
from ntmpatch.servers.account.store import Account, PrefixLease
from ntmpatch.signalling.errors import Refused
from ntmpatch.wire.control_messages import RefusalCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.servers.direction.store import NodeRecord


@dataclass
class _Token:
    fqdn: str
    digest: bytes
    expires_at: float
    used_by: bytes | None = None


@dataclass
class MemoryAccountStore:
    """An AccountStore."""

    accounts: dict[str, Account] = field(default_factory=dict)
    tokens: dict[bytes, _Token] = field(default_factory=dict)
    leases: dict[str, PrefixLease] = field(default_factory=dict)
    max_leases: int = 16

    def add(self, fqdn: str, role: str, token_id: bytes, secret: bytes, expires_at: float) -> None:
        """What `account add` does."""
        self.accounts[fqdn] = Account(fqdn, role)
        self.tokens[token_id] = _Token(fqdn, sha256(secret).digest(), expires_at)

    def revoke(self, fqdn: str) -> None:
        """What `account revoke` does."""
        self.accounts[fqdn] = replace(self.accounts[fqdn], revoked=True)

    def redeem_token(
        self, token_id: bytes, secret: bytes, public_key: bytes, now: float
    ) -> Account:
        token = self.tokens.get(token_id)
        if token is None or token.digest != sha256(secret).digest():
            raise Refused(RefusalCode.TOKEN_WRONG)
        if token.used_by not in (None, public_key):
            raise Refused(RefusalCode.TOKEN_USED)
        if now > token.expires_at:
            raise Refused(RefusalCode.TOKEN_EXPIRED)
        account = self.accounts[token.fqdn]
        if account.revoked:
            raise Refused(RefusalCode.REVOKED)
        token.used_by = public_key
        self.accounts[token.fqdn] = account = replace(account, public_key=public_key)
        return account

    def account_of(self, public_key: bytes) -> Account | None:
        return next((a for a in self.accounts.values() if a.public_key == public_key), None)

    def account_named(self, fqdn: str) -> Account | None:
        return self.accounts.get(fqdn)

    def save_certificate(
        self, fqdn: str, certificate: bytes, endpoints: Sequence[Endpoint] | None, _now: float
    ) -> None:
        account = replace(self.accounts[fqdn], certificate=certificate)
        if endpoints is not None:
            account = replace(account, endpoints=tuple(endpoints))
        self.accounts[fqdn] = account

    def servers_of(self, domain: str, role: str) -> list[Account]:
        return [
            account
            for account in self.accounts.values()
            if account.role == role
            and domain_of(account.fqdn) == domain
            and account.public_key is not None
            and not account.revoked
        ]

    def lease_prefixes(self, domain: str, _now: float) -> PrefixLease:
        if domain not in self.leases:
            number = len(self.leases)
            if number >= self.max_leases:
                raise Refused(RefusalCode.EXHAUSTED)
            self.leases[domain] = PrefixLease(
                domain, f"198.18.{4 * number}.0/22", f"fd00:0:{number + 1:x}::/48"
            )
        return self.leases[domain]

    def leases_after(self, domain: str, limit: int) -> list[PrefixLease]:
        return [self.leases[name] for name in sorted(self.leases) if name > domain][:limit]


@dataclass
class MemoryDirectionStore:
    """A DirectionStore."""

    records: dict[str, NodeRecord] = field(default_factory=dict)
    addresses: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    pool_size: int = 1000

    def assign_addresses(
        self, fqdn: str, ipv4_prefix: str, ipv6_prefix: str, _now: float
    ) -> tuple[bytes, bytes]:
        if fqdn not in self.addresses:
            number = len(self.addresses) + 2
            if len(self.addresses) >= self.pool_size:
                raise Refused(RefusalCode.EXHAUSTED)
            self.addresses[fqdn] = (
                ipaddress.ip_network(ipv4_prefix)[number].packed,
                ipaddress.ip_network(ipv6_prefix)[number].packed,
            )
        return self.addresses[fqdn]

    def save_node(self, record: NodeRecord) -> None:
        self.records[record.fqdn] = record

    def node_named(self, fqdn: str) -> NodeRecord | None:
        return self.records.get(fqdn)

    def node_with_address(self, address: bytes) -> NodeRecord | None:
        found = (r for r in self.records.values() if address in (r.ipv4, r.ipv6))
        return next(found, None)

    def nodes(self) -> list[NodeRecord]:
        return [record for record in self.records.values() if record.local_endpoints]

    def remove_location(self, fqdn: str) -> None:
        record = self.records[fqdn]
        self.records[fqdn] = replace(record, seen_endpoint=None, local_endpoints=())
