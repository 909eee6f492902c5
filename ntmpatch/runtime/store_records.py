"""What the account server's store and its administration write alike: one row at a time."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import delete, insert, select, update

from ntmpatch.base.addresses import Endpoint
from ntmpatch.runtime.schema import accounts, audit, counters, revocations, tokens
from ntmpatch.servers.account.store import REVOCATION_LIFETIME, Account
from ntmpatch.wire.control_messages import RevocationReason

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row


class Actor(NamedTuple):
    """Who changes something, and from where; for the audit log."""

    who: str
    origin: str


def note(
    connection: Connection, now: float, by: Actor, action: str, subject: str, **detail: Any
) -> None:
    """Write the audit log, in the transaction of the change itself. No secret goes in."""
    connection.execute(
        insert(audit).values(
            at=now,
            who=by.who[:253],
            origin=by.origin[:253],
            action=action,
            subject=subject,
            detail=json.dumps(detail, sort_keys=True),
        )
    )


def lock(connection: Connection, name: str) -> None:
    """Let no other process do ``name`` until this transaction ends."""
    connection.execute(select(counters.c.value).where(counters.c.name == name).with_for_update())


def add_revocation(
    connection: Connection,
    public_key: bytes | None,
    fqdn: str,
    reason: RevocationReason,
    now: float,
) -> None:
    """Number a revocation. Numbers are seen in their order: the counter is locked to the end."""
    serial = connection.scalar(
        update(counters)
        .where(counters.c.name == "revocations")
        .values(value=counters.c.value + 1)
        .returning(counters.c.value)
    )
    if public_key:  # only the latest word on a key counts
        connection.execute(delete(revocations).where(revocations.c.public_key == public_key))
    connection.execute(
        delete(revocations).where(revocations.c.revoked_at < now - REVOCATION_LIFETIME)
    )
    connection.execute(
        insert(revocations).values(
            serial=serial,
            public_key=public_key or b"",
            fqdn=fqdn,
            reason=int(reason),
            revoked_at=now,
        )
    )


def reinstate(connection: Connection, public_key: bytes, fqdn: str, now: float) -> None:
    """Say that a key counts again, if it was said that it does not."""
    row = connection.execute(
        select(revocations.c.reason).where(revocations.c.public_key == public_key)
    ).one_or_none()
    if row is not None and row.reason != RevocationReason.REINSTATED:
        add_revocation(connection, public_key, fqdn, RevocationReason.REINSTATED, now)


def locked_account(connection: Connection, fqdn: str) -> Row[Any] | None:
    """The account's row, which nobody else changes until this transaction ends.

    It is locked before its tokens, always: so two never wait for each other.
    """
    return connection.execute(
        select(accounts).where(accounts.c.fqdn == fqdn).with_for_update()
    ).one_or_none()


def add_token(
    connection: Connection,
    fqdn: str,
    token_id: bytes,
    secret: bytes,
    expires_at: float,
    now: float,
    *,
    rotates: bytes | None = None,
) -> None:
    """Keep a token, of its secret only a hash; drop those that are of no use for two reasons."""
    connection.execute(
        delete(tokens)
        .where(tokens.c.fqdn == fqdn)
        .where(tokens.c.withdrawn.is_(True))
        .where(tokens.c.expires_at < now)
    )
    connection.execute(
        insert(tokens).values(
            token_id=token_id,
            fqdn=fqdn,
            secret_hash=hashlib.sha256(secret).digest(),
            expires_at=expires_at,
            rotates=rotates,
        )
    )


def to_account(row: Row[Any]) -> Account:
    """An account as its row has it."""
    return Account(
        fqdn=row.fqdn,
        role=row.role,
        public_key=row.public_key,
        revoked=row.revoked_at is not None,
        certificate=row.certificate,
        endpoints=tuple(Endpoint(host, port) for host, port in json.loads(row.endpoints)),
        expires_at=row.expires_at,
        domains=tuple(json.loads(row.domains)),
    )
