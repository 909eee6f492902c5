"""Accounts expire and lead domains, keys are revoked, addresses come back, changes are logged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add what is new; what there was stays as it is."""
    op.execute("UPDATE schema_version SET version = 2")
    counters = op.create_table(
        "counters",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    names = ("revocations", "leases", "addresses")
    op.bulk_insert(counters, [{"name": name, "value": 0} for name in names])
    op.add_column("accounts", sa.Column("expires_at", sa.Float))
    op.add_column(
        "accounts",
        sa.Column("expiry_noted", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.add_column(
        "accounts", sa.Column("domains", sa.String(2048), nullable=False, server_default="[]")
    )
    op.create_index("ix_accounts_expires_at", "accounts", ["expires_at"])
    op.add_column("tokens", sa.Column("rotates", sa.LargeBinary(32)))
    op.create_table(
        "revocations",
        sa.Column("serial", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("public_key", sa.LargeBinary(32), nullable=False),
        sa.Column("fqdn", sa.String(253), nullable=False),
        sa.Column("reason", sa.Integer, nullable=False),
        sa.Column("revoked_at", sa.Float, nullable=False),
    )
    op.create_index("ix_revocations_public_key", "revocations", ["public_key"])
    op.create_index("ix_revocations_revoked_at", "revocations", ["revoked_at"])
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("who", sa.String(253), nullable=False),
        sa.Column("origin", sa.String(253), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(253), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("ix_audit_subject", "audit", ["subject"])
    op.add_column("addresses", sa.Column("registered_at", sa.Float))
    op.add_column("addresses", sa.Column("released_at", sa.Float))
    op.execute("UPDATE addresses SET registered_at = assigned_at")
