"""The account server's durable state over SQLAlchemy: servers/account/store.py says what it is."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from ntmpatch.base.addresses import (
    VIRTUAL_IPV4_SPACE,
    VIRTUAL_IPV6_SPACE,
    Endpoint,
    domain_of,
)
from ntmpatch.base.errors import RefusedError
from ntmpatch.runtime.schema import accounts, leases, tokens
from ntmpatch.servers.account.store import Account, PrefixLease
from ntmpatch.signalling.errors import Refused
from ntmpatch.wire.control_messages import RefusalCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Engine, Row

LEASED_PREFIX_LENGTH = 20
"""Of IPv4 leases: 4094 nodes a domain, 32 domains an AS."""


class AccountRow(NamedTuple):
    """An account for people."""

    fqdn: str
    role: str
    status: str
    """``invited``, ``enrolled`` or ``revoked``."""
    created_at: float


class SqlAccountStore:
    """An ``AccountStore``; thread-safe, every write is on the disk when it returns."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- for the command line ------------------------------------------------------------

    def add_account(
        self,
        fqdn: str,
        role: str,
        *,
        token_id: bytes,
        secret: bytes,
        now: float,
        lifetime: float,
    ) -> None:
        """Add an account with its first token; RefusedError if the name is taken."""
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(accounts).values(fqdn=fqdn, role=role, created_at=now))
                _add_token(connection, fqdn, token_id, secret, now + lifetime)
        except IntegrityError:
            raise RefusedError(f"there is an account {fqdn} already") from None

    def reissue(
        self, fqdn: str, *, token_id: bytes, secret: bytes, now: float, lifetime: float
    ) -> None:
        """Another token for an account, whose key it may replace; older tokens are withdrawn."""
        with self._engine.begin() as connection:
            changed = connection.execute(
                update(accounts)
                .where(accounts.c.fqdn == fqdn)
                .values(public_key=None, revoked_at=None, certificate=b"")
            )
            if not changed.rowcount:
                raise RefusedError(f"there is no account {fqdn}")
            connection.execute(update(tokens).where(tokens.c.fqdn == fqdn).values(withdrawn=True))
            _add_token(connection, fqdn, token_id, secret, now + lifetime)

    def revoke(self, fqdn: str, now: float) -> None:
        """From now on the account takes part in nothing; RefusedError if there is none."""
        with self._engine.begin() as connection:
            changed = connection.execute(
                update(accounts).where(accounts.c.fqdn == fqdn).values(revoked_at=now)
            )
            if not changed.rowcount:
                raise RefusedError(f"there is no account {fqdn}")

    def accounts(self) -> list[AccountRow]:
        """All accounts by name."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(accounts).order_by(accounts.c.fqdn)).all()
        return [
            AccountRow(
                row.fqdn,
                row.role,
                "revoked" if row.revoked_at else "enrolled" if row.public_key else "invited",
                row.created_at,
            )
            for row in rows
        ]

    # --- AccountStore --------------------------------------------------------------------

    def redeem_token(
        self, token_id: bytes, secret: bytes, public_key: bytes, now: float
    ) -> Account:
        """Use up a token for ``public_key``; again with the same key changes nothing."""
        digest = hashlib.sha256(secret).digest()
        with self._engine.begin() as connection:
            token = connection.execute(
                select(tokens).where(tokens.c.token_id == token_id).with_for_update()
            ).one_or_none()
            if (
                token is None
                or token.withdrawn
                or not hmac.compare_digest(token.secret_hash, digest)
            ):
                raise Refused(RefusalCode.TOKEN_WRONG, "the AS knows no such token")
            account = _account(connection, token.fqdn)
            if account.revoked:
                raise Refused(RefusalCode.REVOKED, f"{token.fqdn} is revoked")
            if token.used_by == public_key:
                return account
            if token.used_by is not None:
                raise Refused(RefusalCode.TOKEN_USED, "this token was used already")
            if now > token.expires_at:
                raise Refused(RefusalCode.TOKEN_EXPIRED, "this token has expired")
            connection.execute(
                update(tokens)
                .where(tokens.c.token_id == token_id)
                .values(used_by=public_key, used_at=now)
            )
            connection.execute(
                update(accounts).where(accounts.c.fqdn == token.fqdn).values(public_key=public_key)
            )
            return _account(connection, token.fqdn)

    def account_of(self, public_key: bytes) -> Account | None:
        """The account that this key enrolled for."""
        with self._engine.connect() as connection:
            row = connection.execute(
                select(accounts).where(accounts.c.public_key == public_key)
            ).one_or_none()
        return None if row is None else _to_account(row)

    def account_named(self, fqdn: str) -> Account | None:
        """The account of this name."""
        with self._engine.connect() as connection:
            row = connection.execute(select(accounts).where(accounts.c.fqdn == fqdn)).one_or_none()
        return None if row is None else _to_account(row)

    def save_certificate(
        self, fqdn: str, certificate: bytes, endpoints: Sequence[Endpoint] | None, now: float
    ) -> None:
        """Keep what was signed; ``endpoints`` None leaves those as they are."""
        del now
        values: dict[str, Any] = {"certificate": certificate}
        if endpoints is not None:
            values["endpoints"] = json.dumps(endpoints)
        with self._engine.begin() as connection:
            connection.execute(update(accounts).where(accounts.c.fqdn == fqdn).values(**values))

    def servers_of(self, domain: str, role: str) -> list[Account]:
        """Enrolled accounts of that role in ``domain`` that are not revoked."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(accounts)
                .where(accounts.c.role == role)
                .where(accounts.c.public_key.is_not(None))
                .where(accounts.c.revoked_at.is_(None))
                .order_by(accounts.c.fqdn)
            ).all()
        return [_to_account(row) for row in rows if domain_of(row.fqdn) == domain]

    def lease_prefixes(self, domain: str, now: float) -> PrefixLease:
        """The domain's prefixes, the same ones every time."""
        with self._engine.begin() as connection:
            row = connection.execute(select(leases).where(leases.c.domain == domain)).one_or_none()
            if row is not None:
                return PrefixLease(domain, row.ipv4_prefix, row.ipv6_prefix)
            taken = set(connection.scalars(select(leases.c.ipv4_prefix)))
            for prefix in VIRTUAL_IPV4_SPACE.subnets(new_prefix=LEASED_PREFIX_LENGTH):
                if str(prefix) not in taken:
                    break
            else:
                raise Refused(RefusalCode.EXHAUSTED, "no virtual IPv4 prefix is left to lease")
            lease = PrefixLease(domain, str(prefix), _ula(domain))
            connection.execute(
                insert(leases).values(
                    domain=domain,
                    ipv4_prefix=lease.ipv4_prefix,
                    ipv6_prefix=lease.ipv6_prefix,
                    leased_at=now,
                )
            )
            return lease

    def leases_after(self, domain: str, limit: int) -> list[PrefixLease]:
        """Leases of the domains whose names come after ``domain``, in their order."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(leases)
                .where(leases.c.domain > domain)
                .order_by(leases.c.domain)
                .limit(limit)
            ).all()
        return [PrefixLease(row.domain, row.ipv4_prefix, row.ipv6_prefix) for row in rows]


def _ula(domain: str) -> str:
    """The domain's /48: forty bits of a hash, as RFC 4193, section 3.2.2 draws its global ID."""
    global_id = hashlib.sha256(b"ntmpatch ula\x00" + domain.encode()).digest()[:5]
    base = int(VIRTUAL_IPV6_SPACE.network_address) | int.from_bytes(global_id) << 80
    return str(ipaddress.IPv6Network((base, 48)))


def _add_token(
    connection: Connection, fqdn: str, token_id: bytes, secret: bytes, expires_at: float
) -> None:
    connection.execute(
        delete(tokens).where(tokens.c.fqdn == fqdn).where(tokens.c.withdrawn.is_(True))
    )
    connection.execute(
        insert(tokens).values(
            token_id=token_id,
            fqdn=fqdn,
            secret_hash=hashlib.sha256(secret).digest(),
            expires_at=expires_at,
        )
    )


def _account(connection: Connection, fqdn: str) -> Account:
    row = connection.execute(select(accounts).where(accounts.c.fqdn == fqdn)).one()
    return _to_account(row)


def _to_account(row: Row[Any]) -> Account:
    return Account(
        fqdn=row.fqdn,
        role=row.role,
        public_key=row.public_key,
        revoked=row.revoked_at is not None,
        certificate=row.certificate,
        endpoints=tuple(Endpoint(host, port) for host, port in json.loads(row.endpoints)),
    )
