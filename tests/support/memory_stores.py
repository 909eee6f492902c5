"""The durable stores of AS and DC as dictionaries: for simulations, where speed counts.

They are also the model that the real stores are compared with: what one answers and holds, the
other must.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ntmpatch.base.addresses import VIRTUAL_IPV4_SPACE, domain_of
from ntmpatch.base.errors import RefusedError
from ntmpatch.runtime.store import LEASED_PREFIX_LENGTH
from ntmpatch.servers.account.store import REVOCATION_LIFETIME, Account, PrefixLease, Revocation
from ntmpatch.servers.direction.store import ABSENCE, ADDRESS_QUARANTINE
from ntmpatch.signalling.errors import Refused
from ntmpatch.wire.control_messages import RefusalCode, RevocationReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntmpatch.base.addresses import Endpoint
    from ntmpatch.servers.direction.store import NodeRecord


@dataclass
class Token:
    fqdn: str
    digest: bytes
    expires_at: float
    used_by: bytes | None = None
    withdrawn: bool = False
    rotates: bytes | None = None


@dataclass
class MemoryAccountStore:
    """An AccountStore, and what the command line does with one."""

    accounts: dict[str, Account] = field(default_factory=dict)
    tokens: dict[bytes, Token] = field(default_factory=dict)
    leases: dict[str, PrefixLease] = field(default_factory=dict)
    revocations: list[tuple[Revocation, float]] = field(default_factory=list)
    noted: set[str] = field(default_factory=set)
    """Accounts whose expiry has been told."""
    log: list[tuple[str, str]] = field(default_factory=list)
    serial: int = 0
    max_leases: int = 32

    # --- administration ------------------------------------------------------------------

    def add(self, fqdn: str, role: str, token_id: bytes, secret: bytes, expires_at: float) -> None:
        """A token for the account of that name, whether it is new or not."""
        if fqdn in self.accounts:
            self.reissue(fqdn, token_id, secret, expires_at, expires_at)
        else:
            self.add_account(fqdn, role, token_id, secret, expires_at)

    def add_account(
        self, fqdn: str, role: str, token_id: bytes, secret: bytes, until: float, **more: Any
    ) -> None:
        """What `account add` does; the token is good ``until`` then."""
        if fqdn in self.accounts:
            raise RefusedError("there is such an account already")
        self.accounts[fqdn] = Account(fqdn, role, **more)
        self.tokens[token_id] = Token(fqdn, sha256(secret).digest(), until)
        self.log.append(("add", fqdn))

    def reissue(
        self, fqdn: str, token_id: bytes, secret: bytes, expires_at: float, now: float
    ) -> None:
        """What `account reissue` does."""
        account = self._existing(fqdn)
        if account.public_key is not None:
            self._revoke(account.public_key, fqdn, RevocationReason.REPLACED, now)
        self.accounts[fqdn] = replace(account, public_key=None, revoked=False, certificate=b"")
        for token in self.tokens.values():
            token.withdrawn |= token.fqdn == fqdn
        self._add_token(fqdn, token_id, secret, expires_at, now)
        self.log.append(("reissue", fqdn))

    def revoke(self, fqdn: str, now: float = 0.0) -> None:
        """What `account revoke` does."""
        account = self._existing(fqdn)
        if not account.revoked:
            self.accounts[fqdn] = replace(account, revoked=True)
            self._revoke(account.public_key, fqdn, RevocationReason.REVOKED, now)
            self.log.append(("revoke", fqdn))

    def remove(self, fqdn: str, now: float) -> None:
        """What `account remove` does."""
        account = self._existing(fqdn)
        del self.accounts[fqdn]
        self.noted.discard(fqdn)
        self.tokens = {i: token for i, token in self.tokens.items() if token.fqdn != fqdn}
        self._revoke(account.public_key, fqdn, RevocationReason.REMOVED, now)
        self.log.append(("remove", fqdn))

    def set_expiry(self, fqdn: str, expires_at: float | None, now: float) -> None:
        """What `account expiry` does."""
        account = self._existing(fqdn)
        self.accounts[fqdn] = account = replace(account, expires_at=expires_at)
        if not account.has_expired(now):
            self.noted.discard(fqdn)
            if account.public_key is not None and not account.revoked:
                self._reinstate(account.public_key, fqdn, now)
        self.log.append(("expiry", fqdn))

    # --- AccountStore --------------------------------------------------------------------

    def redeem_token(
        self, token_id: bytes, secret: bytes, public_key: bytes, now: float, _origin: str = ""
    ) -> Account:
        token = self.tokens.get(token_id)
        if token is None or token.digest != sha256(secret).digest():
            raise Refused(RefusalCode.TOKEN_WRONG)
        account = self.accounts[token.fqdn]
        _check(account, now)
        if token.used_by == public_key == account.public_key:
            return account
        if token.withdrawn or token.rotates not in (None, account.public_key):
            raise Refused(RefusalCode.TOKEN_WITHDRAWN)
        if token.used_by is not None:
            raise Refused(RefusalCode.TOKEN_USED)
        if now > token.expires_at:
            raise Refused(RefusalCode.TOKEN_EXPIRED)
        holder = self.account_of(public_key)
        if holder not in (None, account):
            raise Refused(RefusalCode.KEY_IN_USE)
        token.used_by = public_key
        self.accounts[token.fqdn] = replace(account, public_key=public_key, certificate=b"")
        self._reinstate(public_key, token.fqdn, now)
        if account.public_key not in (None, public_key):
            self._revoke(account.public_key, token.fqdn, RevocationReason.REPLACED, now)
        self.log.append(("enrol", token.fqdn))
        return self.accounts[token.fqdn]

    def offer_key(
        self,
        public_key: bytes,
        token_id: bytes,
        secret: bytes,
        expires_at: float,
        now: float,
        _origin: str = "",
    ) -> None:
        account = self.account_of(public_key)
        if account is None:
            raise Refused(RefusalCode.NOT_ENROLLED)
        _check(account, now)
        known = self.tokens.get(token_id)
        if known is not None:
            if public_key in (known.rotates, known.used_by):
                return
            raise Refused(RefusalCode.TOKEN_WRONG)
        for token in self.tokens.values():
            if token.fqdn == account.fqdn and token.used_by is None and token.rotates is not None:
                token.withdrawn = True
        self._add_token(account.fqdn, token_id, secret, expires_at, now)
        self.tokens[token_id].rotates = public_key
        self.log.append(("rotate-key", account.fqdn))

    def account_of(self, public_key: bytes) -> Account | None:
        return next((a for a in self.accounts.values() if a.public_key == public_key), None)

    def account_named(self, fqdn: str) -> Account | None:
        return self.accounts.get(fqdn)

    def revocation_of(self, public_key: bytes) -> Revocation | None:
        return next((r for r, _ in self.revocations if r.public_key == public_key), None)

    def revocations_since(self, serial: int, now: float, limit: int) -> list[Revocation]:
        for account in sorted(self.accounts.values(), key=lambda account: account.fqdn):
            if account.has_expired(now) and account.fqdn not in self.noted:
                self.noted.add(account.fqdn)
                if account.public_key is not None and not account.revoked:
                    self._revoke(account.public_key, account.fqdn, RevocationReason.EXPIRED, now)
                    self.log.append(("expire", account.fqdn))
        return [r for r, _ in self.revocations if r.serial > serial][:limit]

    def save_certificate(
        self,
        fqdn: str,
        certificate: bytes,
        endpoints: Sequence[Endpoint] | None,
        _now: float,
        _origin: str = "",
    ) -> None:
        if fqdn not in self.accounts:
            return
        account = replace(self.accounts[fqdn], certificate=certificate)
        if endpoints is not None:
            if account.endpoints != tuple(endpoints):
                self.log.append(("endpoints", fqdn))
            account = replace(account, endpoints=tuple(endpoints))
        self.accounts[fqdn] = account

    def servers_of(self, domain: str, role: str) -> list[Account]:
        return [
            account
            for _, account in sorted(self.accounts.items())
            if account.role == role
            and (domain_of(account.fqdn) == domain or account.leads(domain))
            and account.public_key is not None
            and not account.revoked
        ]

    def lease_prefixes(self, domain: str, _now: float, _origin: str = "") -> PrefixLease:
        if domain not in self.leases:
            number = len(self.leases)
            if number >= self.max_leases:
                raise Refused(RefusalCode.EXHAUSTED)
            prefixes = list(VIRTUAL_IPV4_SPACE.subnets(new_prefix=LEASED_PREFIX_LENGTH))
            global_id = sha256(b"ntmpatch ula\x00" + domain.encode()).digest()[:5]
            ula = ipaddress.IPv6Network((bytes([0xFD]) + global_id + bytes(10), 48))
            self.leases[domain] = PrefixLease(domain, str(prefixes[number]), str(ula))
            self.log.append(("lease", domain))
        return self.leases[domain]

    def leases_after(self, domain: str, limit: int) -> list[PrefixLease]:
        found = dict(self.leases)
        for account in self.accounts.values():
            lease = self.leases.get(domain_of(account.fqdn))
            if lease is not None:
                for led in account.domains:
                    found.setdefault(led, replace(lease, domain=led))
        return [found[name] for name in sorted(found) if name > domain][:limit]

    # --- inside --------------------------------------------------------------------------

    def _existing(self, fqdn: str) -> Account:
        if fqdn not in self.accounts:
            raise RefusedError("there is no such account")
        return self.accounts[fqdn]

    def _add_token(
        self, fqdn: str, token_id: bytes, secret: bytes, expires_at: float, now: float
    ) -> None:
        for old, token in list(self.tokens.items()):
            if token.fqdn == fqdn and token.withdrawn and token.expires_at < now:
                del self.tokens[old]
        self.tokens[token_id] = Token(fqdn, sha256(secret).digest(), expires_at)

    def _revoke(
        self, public_key: bytes | None, fqdn: str, reason: RevocationReason, now: float
    ) -> None:
        self.serial += 1
        self.revocations = [
            (other, at)
            for other, at in self.revocations
            if at >= now - REVOCATION_LIFETIME
            and (not public_key or other.public_key != public_key)
        ]
        self.revocations.append((Revocation(self.serial, public_key or b"", fqdn, reason), now))

    def _reinstate(self, public_key: bytes, fqdn: str, now: float) -> None:
        known = self.revocation_of(public_key)
        if known is not None and known.reason is not RevocationReason.REINSTATED:
            self._revoke(public_key, fqdn, RevocationReason.REINSTATED, now)


def _check(account: Account, now: float) -> None:
    if account.revoked:
        raise Refused(RefusalCode.REVOKED)
    if account.has_expired(now):
        raise Refused(RefusalCode.ACCOUNT_EXPIRED)


@dataclass
class Assignment:
    number: int
    addresses: tuple[bytes, bytes]
    registered_at: float
    released_at: float | None = None

    def gone_at(self) -> float:
        return self.registered_at if self.released_at is None else self.released_at


@dataclass
class MemoryDirectionStore:
    """A DirectionStore, of one pair of prefixes."""

    records: dict[str, NodeRecord] = field(default_factory=dict)
    assignments: dict[str, Assignment] = field(default_factory=dict)
    pool_size: int = 1000
    quarantine: float = ADDRESS_QUARANTINE
    absence: float = ABSENCE
    precision: float = 86400.0
    """Seconds within which further registrations are not noted."""

    def assign_addresses(
        self, fqdn: str, ipv4_prefix: str, ipv6_prefix: str, now: float
    ) -> tuple[bytes, bytes]:
        held = self.assignments.get(fqdn)
        if held is not None:
            if held.released_at is not None or held.registered_at < now - self.precision:
                held.registered_at, held.released_at = now, None
            return held.addresses
        ipv4_network = ipaddress.ip_network(ipv4_prefix)
        number = len(self.assignments) + 2
        if len(self.assignments) >= self.pool_size or number >= ipv4_network.num_addresses - 1:
            number = self._reused(now)
        addresses = ipv4_network[number].packed, ipaddress.ip_network(ipv6_prefix)[number].packed
        self.assignments[fqdn] = Assignment(number, addresses, now)
        return addresses

    def _reused(self, now: float) -> int:
        free = [
            (held.gone_at(), held.number, name)
            for name, held in self.assignments.items()
            if (held.released_at is not None and held.released_at <= now - self.quarantine)
            or held.registered_at <= now - self.absence - self.quarantine
        ]
        if not free:
            raise Refused(RefusalCode.EXHAUSTED)
        _, number, name = min(free)
        del self.assignments[name]
        self.records.pop(name, None)
        return number

    def release_addresses(self, fqdn: str, now: float) -> None:
        held = self.assignments.get(fqdn)
        if held is not None and held.released_at is None:
            held.released_at = now
        self.records.pop(fqdn, None)

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
        record = self.records.get(fqdn)
        if record is not None:
            self.records[fqdn] = replace(record, seen_endpoint=None, local_endpoints=())
