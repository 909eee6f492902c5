"""Accounts as an administrator changes them, in the account server's database."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from ntmpatch.base.errors import RefusedError
from ntmpatch.runtime.database import reading, transact
from ntmpatch.runtime.schema import accounts, audit, tokens
from ntmpatch.runtime.store_records import (
    Actor,
    add_revocation,
    add_token,
    locked_account,
    note,
    reinstate,
)
from ntmpatch.wire.control_messages import RevocationReason

if TYPE_CHECKING:
    from typing import Any

    from sqlalchemy import Connection, Engine, Row

_SOMEBODY = Actor("administrator", "")


class AccountRow(NamedTuple):
    """An account for people."""

    fqdn: str
    role: str
    status: str
    """``invited``, ``enrolled``, ``expired`` or ``revoked``."""
    created_at: float
    expires_at: float | None
    domains: tuple[str, ...]


class AuditRow(NamedTuple):
    """One change, as the log has it."""

    at: float
    who: str
    origin: str
    action: str
    subject: str
    detail: dict[str, Any]


class SqlAdministration:
    """What the command line does. Every change is on the disk, and in the log, when it returns."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add_account(
        self,
        fqdn: str,
        role: str,
        *,
        token_id: bytes,
        secret: bytes,
        now: float,
        lifetime: float,
        expires_at: float | None = None,
        domains: tuple[str, ...] = (),
        by: Actor = _SOMEBODY,
    ) -> None:
        """Add an account with its first token; RefusedError if the name is taken."""
        try:
            with self._engine.begin() as connection:
                connection.execute(
                    insert(accounts).values(
                        fqdn=fqdn,
                        role=role,
                        created_at=now,
                        expires_at=expires_at,
                        domains=json.dumps(domains),
                    )
                )
                add_token(connection, fqdn, token_id, secret, now + lifetime, now)
                detail = {"role": role, "expires_at": expires_at, "domains": domains}
                note(connection, now, by, "add", fqdn, **detail)
        except IntegrityError:
            raise RefusedError(f"there is an account {fqdn} already") from None

    def reissue(
        self,
        fqdn: str,
        *,
        token_id: bytes,
        secret: bytes,
        now: float,
        lifetime: float,
        by: Actor = _SOMEBODY,
    ) -> None:
        """Another token for an account, whose key it may replace; older tokens are withdrawn."""

        def change(connection: Connection) -> None:
            row = _existing(connection, fqdn)
            if row.public_key is not None:
                add_revocation(connection, row.public_key, fqdn, RevocationReason.REPLACED, now)
            connection.execute(
                update(accounts)
                .where(accounts.c.fqdn == fqdn)
                .values(public_key=None, revoked_at=None, certificate=b"")
            )
            connection.execute(update(tokens).where(tokens.c.fqdn == fqdn).values(withdrawn=True))
            add_token(connection, fqdn, token_id, secret, now + lifetime, now)
            note(connection, now, by, "reissue", fqdn)

        transact(self._engine, change)

    def revoke(self, fqdn: str, now: float, by: Actor = _SOMEBODY) -> None:
        """From now on the account takes part in nothing; RefusedError if there is none."""

        def change(connection: Connection) -> None:
            row = _existing(connection, fqdn)
            if row.revoked_at is not None:
                return
            connection.execute(
                update(accounts).where(accounts.c.fqdn == fqdn).values(revoked_at=now)
            )
            add_revocation(connection, row.public_key, fqdn, RevocationReason.REVOKED, now)
            note(connection, now, by, "revoke", fqdn)

        transact(self._engine, change)

    def remove(self, fqdn: str, now: float, by: Actor = _SOMEBODY) -> None:
        """Forget the account; its name may be given to somebody else."""

        def change(connection: Connection) -> None:
            row = _existing(connection, fqdn)
            connection.execute(delete(tokens).where(tokens.c.fqdn == fqdn))
            connection.execute(delete(accounts).where(accounts.c.fqdn == fqdn))
            add_revocation(connection, row.public_key, fqdn, RevocationReason.REMOVED, now)
            note(connection, now, by, "remove", fqdn, role=row.role)

        transact(self._engine, change)

    def set_expiry(
        self, fqdn: str, expires_at: float | None, now: float, by: Actor = _SOMEBODY
    ) -> None:
        """Let the account end then, or never."""

        def change(connection: Connection) -> None:
            row = _existing(connection, fqdn)
            has_expired = expires_at is not None and expires_at <= now
            connection.execute(
                update(accounts)
                .where(accounts.c.fqdn == fqdn)
                .values(expires_at=expires_at, expiry_noted=row.expiry_noted and has_expired)
            )
            if row.public_key is not None and row.revoked_at is None and not has_expired:
                reinstate(connection, row.public_key, fqdn, now)
            note(connection, now, by, "expiry", fqdn, expires_at=expires_at)

        transact(self._engine, change)

    def accounts(self, now: float = 0.0) -> list[AccountRow]:
        """All accounts by name, as they are at ``now``."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(accounts).order_by(accounts.c.fqdn)).all()
        return [
            AccountRow(
                row.fqdn,
                row.role,
                _status(row, now),
                row.created_at,
                row.expires_at,
                tuple(json.loads(row.domains)),
            )
            for row in rows
        ]

    def log(self, *, subject: str | None = None, limit: int | None = None) -> list[AuditRow]:
        """The last ``limit`` changes, the oldest first."""
        query = select(audit).order_by(audit.c.id.desc()).limit(limit)
        if subject is not None:
            query = query.where(audit.c.subject == subject)
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return [
            AuditRow(row.at, row.who, row.origin, row.action, row.subject, json.loads(row.detail))
            for row in reversed(rows)
        ]

    def note(self, action: str, subject: str, now: float, by: Actor, **detail: Any) -> None:
        """Log a change that is kept elsewhere."""
        transact(self._engine, lambda conn: note(conn, now, by, action, subject, **detail))


def _existing(connection: Connection, fqdn: str) -> Row[Any]:
    row = locked_account(connection, fqdn)
    if row is None:
        raise RefusedError(f"there is no account {fqdn}")
    return row


def _status(row: Row[Any], now: float) -> str:
    if row.revoked_at is not None:
        return "revoked"
    if row.expires_at is not None and row.expires_at <= now:
        return "expired"
    return "invited" if row.public_key is None else "enrolled"
