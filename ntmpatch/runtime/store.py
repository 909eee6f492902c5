"""The account server's durable state over SQLAlchemy: servers/account/store.py says what it is."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from ntmpatch.base.addresses import VIRTUAL_IPV4_SPACE, VIRTUAL_IPV6_SPACE, domain_of
from ntmpatch.runtime.database import reading, transact
from ntmpatch.runtime.schema import accounts, leases, revocations, tokens
from ntmpatch.runtime.store_accounts import AccountRow, AuditRow, SqlAdministration
from ntmpatch.runtime.store_records import (
    Actor,
    add_revocation,
    add_token,
    lock,
    locked_account,
    note,
    reinstate,
    to_account,
)
from ntmpatch.servers.account.store import Account, PrefixLease, Revocation
from ntmpatch.signalling.errors import Refused
from ntmpatch.wire.control_messages import RefusalCode, RevocationReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from ntmpatch.base.addresses import Endpoint

__all__ = ["AccountRow", "AuditRow", "SqlAccountStore"]

LEASED_PREFIX_LENGTH = 20
"""Of IPv4 leases: 4094 nodes a domain, 32 domains an AS."""
_TIME = Actor("AS", "clock")


class SqlAccountStore(SqlAdministration):
    """An ``AccountStore``; thread-safe, every write is on the disk when it returns."""

    def redeem_token(
        self, token_id: bytes, secret: bytes, public_key: bytes, now: float, origin: str = ""
    ) -> Account:
        """Use up a token for ``public_key``; again with the same key changes nothing."""
        digest = hashlib.sha256(secret).digest()
        key_in_use = Refused(RefusalCode.KEY_IN_USE, "this key is another account's")

        def change(connection: Connection) -> Account:
            fqdn = connection.scalar(select(tokens.c.fqdn).where(tokens.c.token_id == token_id))
            row = None if fqdn is None else locked_account(connection, fqdn)
            token = connection.execute(
                select(tokens).where(tokens.c.token_id == token_id).with_for_update()
            ).one_or_none()
            if row is None or token is None or not hmac.compare_digest(token.secret_hash, digest):
                raise Refused(RefusalCode.TOKEN_WRONG, "the AS knows no such token")
            account = to_account(row)
            _check(account, now)
            if token.used_by == public_key == account.public_key:
                return account
            if token.withdrawn or token.rotates not in (None, account.public_key):
                raise Refused(RefusalCode.TOKEN_WITHDRAWN, "this token was withdrawn")
            if token.used_by is not None:
                raise Refused(RefusalCode.TOKEN_USED, "this token was used already")
            if now > token.expires_at:
                raise Refused(RefusalCode.TOKEN_EXPIRED, "this token has expired")
            other = connection.scalar(
                select(accounts.c.fqdn).where(accounts.c.public_key == public_key)
            )
            if other not in (None, account.fqdn):
                raise key_in_use
            connection.execute(
                update(tokens)
                .where(tokens.c.token_id == token_id)
                .values(used_by=public_key, used_at=now)
            )
            connection.execute(
                update(accounts)
                .where(accounts.c.fqdn == account.fqdn)
                .values(public_key=public_key, certificate=b"")
            )
            reinstate(connection, public_key, account.fqdn, now)
            if account.public_key not in (None, public_key):
                add_revocation(
                    connection, account.public_key, account.fqdn, RevocationReason.REPLACED, now
                )
            by = Actor(account.fqdn, origin)
            note(connection, now, by, "enrol", account.fqdn, key=public_key.hex())
            return to_account(_row(connection, account.fqdn))

        return transact(self._engine, change)

    def offer_key(
        self,
        public_key: bytes,
        token_id: bytes,
        secret: bytes,
        expires_at: float,
        now: float,
        origin: str = "",
    ) -> None:
        """Keep a token that the account's own key has made, for the key that is to follow it."""

        def change(connection: Connection) -> None:
            fqdn = connection.scalar(
                select(accounts.c.fqdn).where(accounts.c.public_key == public_key)
            )
            row = None if fqdn is None else locked_account(connection, fqdn)
            if row is None or row.public_key != public_key:
                raise Refused(RefusalCode.NOT_ENROLLED, "this key is not enrolled")
            _check(to_account(row), now)
            known = connection.execute(
                select(tokens).where(tokens.c.token_id == token_id)
            ).one_or_none()
            if known is not None:
                if public_key in (known.rotates, known.used_by):
                    return  # this was done before
                raise Refused(RefusalCode.TOKEN_WRONG, "there is another token of that id")
            # Of several rotations that were begun, the last one counts.
            connection.execute(
                update(tokens)
                .where(tokens.c.fqdn == row.fqdn)
                .where(tokens.c.used_by.is_(None))
                .where(tokens.c.rotates.is_not(None))
                .values(withdrawn=True)
            )
            add_token(connection, row.fqdn, token_id, secret, expires_at, now, rotates=public_key)
            note(connection, now, Actor(row.fqdn, origin), "rotate-key", row.fqdn)

        transact(self._engine, change)

    def account_of(self, public_key: bytes) -> Account | None:
        """The account that this key enrolled for."""
        with reading(self._engine) as connection:
            row = connection.execute(
                select(accounts).where(accounts.c.public_key == public_key)
            ).one_or_none()
        return None if row is None else to_account(row)

    def account_named(self, fqdn: str) -> Account | None:
        """The account of this name."""
        with reading(self._engine) as connection:
            row = connection.execute(select(accounts).where(accounts.c.fqdn == fqdn)).one_or_none()
        return None if row is None else to_account(row)

    def revocation_of(self, public_key: bytes) -> Revocation | None:
        """Why this key counts no more, if that is not long ago."""
        with reading(self._engine) as connection:
            row = connection.execute(
                select(revocations).where(revocations.c.public_key == public_key)
            ).one_or_none()
        return None if row is None else _to_revocation(row)

    def revocations_since(self, serial: int, now: float, limit: int) -> list[Revocation]:
        """The next ``limit`` revocations after that serial, oldest first."""
        if self._any_unnoted_expiry(now):
            transact(self._engine, lambda connection: _note_expiries(connection, now))
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(revocations)
                .where(revocations.c.serial > serial)
                .order_by(revocations.c.serial)
                .limit(limit)
            ).all()
        return [_to_revocation(row) for row in rows]

    def save_certificate(
        self,
        fqdn: str,
        certificate: bytes,
        endpoints: Sequence[Endpoint] | None,
        now: float,
        origin: str = "",
    ) -> None:
        """Keep what was signed; ``endpoints`` None leaves those as they are."""

        def change(connection: Connection) -> None:
            values: dict[str, Any] = {"certificate": certificate}
            if endpoints is not None:
                values["endpoints"] = json.dumps(endpoints)
                before = connection.scalar(
                    select(accounts.c.endpoints).where(accounts.c.fqdn == fqdn)
                )
                if before not in (None, values["endpoints"]):
                    where = [str(endpoint) for endpoint in endpoints]
                    note(connection, now, Actor(fqdn, origin), "endpoints", fqdn, endpoints=where)
            connection.execute(update(accounts).where(accounts.c.fqdn == fqdn).values(**values))

        transact(self._engine, change)

    def servers_of(self, domain: str, role: str) -> list[Account]:
        """Enrolled accounts of that role that serve ``domain`` and are not revoked."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(accounts)
                .where(accounts.c.role == role)
                .where(accounts.c.public_key.is_not(None))
                .where(accounts.c.revoked_at.is_(None))
                .order_by(accounts.c.fqdn)
            ).all()
        found = [to_account(row) for row in rows]
        return [each for each in found if domain_of(each.fqdn) == domain or each.leads(domain)]

    def lease_prefixes(self, domain: str, now: float, origin: str = "") -> PrefixLease:
        """The domain's prefixes, the same ones every time."""

        def change(connection: Connection) -> PrefixLease:
            held = _lease_of(connection, domain)
            if held is not None:
                return held
            lock(connection, "leases")
            held = _lease_of(connection, domain)  # made by another process while this one waited
            if held is not None:
                return held
            taken = connection.execute(select(leases.c.ipv4_prefix, leases.c.ipv6_prefix)).all()
            lease = PrefixLease(
                domain,
                _free_ipv4([row.ipv4_prefix for row in taken]),
                _free_ula(domain, {row.ipv6_prefix for row in taken}),
            )
            connection.execute(
                insert(leases).values(
                    domain=domain,
                    ipv4_prefix=lease.ipv4_prefix,
                    ipv6_prefix=lease.ipv6_prefix,
                    leased_at=now,
                )
            )
            prefixes = [lease.ipv4_prefix, lease.ipv6_prefix]
            note(connection, now, Actor("DC", origin), "lease", domain, prefixes=prefixes)
            return lease

        return transact(self._engine, change)

    def leases_after(self, domain: str, limit: int) -> list[PrefixLease]:
        """Leases of the domains whose names come after ``domain``, in their order.

        A domain that a coordinator leads beside its own shares that one's lease.
        """
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(leases)
                .where(leases.c.domain > domain)
                .order_by(leases.c.domain)
                .limit(limit)
            ).all()
            found = [PrefixLease(row.domain, row.ipv4_prefix, row.ipv6_prefix) for row in rows]
            leading = connection.execute(
                select(accounts.c.fqdn, accounts.c.domains).where(accounts.c.domains != "[]")
            ).all()
            for row in leading:
                held = _lease_of(connection, domain_of(row.fqdn))
                if held is not None:
                    shared = [each for each in json.loads(row.domains) if each > domain]
                    found += [replace(held, domain=each) for each in shared]
        unique = {lease.domain: lease for lease in reversed(found)}  # a lease of its own counts
        return [unique[name] for name in sorted(unique)][:limit]

    def _any_unnoted_expiry(self, now: float) -> bool:
        with reading(self._engine) as connection:
            query = select(accounts.c.fqdn).where(accounts.c.expires_at <= now).limit(1)
            return connection.scalar(query.where(accounts.c.expiry_noted.is_(False))) is not None


def _note_expiries(connection: Connection, now: float) -> None:
    """Revoke what has expired, each once."""
    rows = connection.execute(
        select(accounts)
        .where(accounts.c.expires_at <= now)
        .where(accounts.c.expiry_noted.is_(False))
        .order_by(accounts.c.fqdn)
        .with_for_update()
    ).all()
    for row in rows:
        connection.execute(
            update(accounts).where(accounts.c.fqdn == row.fqdn).values(expiry_noted=True)
        )
        if row.revoked_at is None and row.public_key is not None:
            add_revocation(connection, row.public_key, row.fqdn, RevocationReason.EXPIRED, now)
            note(connection, now, _TIME, "expire", row.fqdn)


def _check(account: Account, now: float) -> None:
    """Refused unless the account may take part."""
    if account.revoked:
        raise Refused(RefusalCode.REVOKED, f"{account.fqdn} is revoked")
    if account.has_expired(now):
        raise Refused(RefusalCode.ACCOUNT_EXPIRED, f"the account of {account.fqdn} has expired")


def _lease_of(connection: Connection, domain: str) -> PrefixLease | None:
    row = connection.execute(select(leases).where(leases.c.domain == domain)).one_or_none()
    return None if row is None else PrefixLease(domain, row.ipv4_prefix, row.ipv6_prefix)


def _free_ipv4(taken: list[str]) -> str:
    """The first prefix that overlaps none that is leased, whatever length that has."""
    held = [ipaddress.IPv4Network(prefix) for prefix in taken]
    for prefix in VIRTUAL_IPV4_SPACE.subnets(new_prefix=LEASED_PREFIX_LENGTH):
        if not any(prefix.overlaps(other) for other in held):
            return str(prefix)
    raise Refused(RefusalCode.EXHAUSTED, "no virtual IPv4 prefix is left to lease")


def _free_ula(domain: str, taken: set[str]) -> str:
    """The domain's /48: forty bits of a hash, as RFC 4193, section 3.2.2 draws its global ID."""
    seed = b"ntmpatch ula\x00" + domain.encode()
    while True:
        global_id = hashlib.sha256(seed).digest()[:5]
        base = int(VIRTUAL_IPV6_SPACE.network_address) | int.from_bytes(global_id) << 80
        prefix = str(ipaddress.IPv6Network((base, 48)))
        if prefix not in taken:
            return prefix
        seed += b"\x00"  # one chance in 2**40 a pair of domains


def _row(connection: Connection, fqdn: str) -> Any:
    return connection.execute(select(accounts).where(accounts.c.fqdn == fqdn)).one()


def _to_revocation(row: Any) -> Revocation:
    return Revocation(row.serial, row.public_key, row.fqdn, RevocationReason(row.reason))
