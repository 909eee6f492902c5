"""The tables as they were before there were migrations (``schema_version`` 1)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make them."""
    op.create_table("schema_version", sa.Column("version", sa.Integer, primary_key=True))
    op.execute("INSERT INTO schema_version (version) VALUES (1)")
    op.create_table(
        "accounts",
        sa.Column("fqdn", sa.String(253), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("public_key", sa.LargeBinary(32), unique=True),
        sa.Column("revoked_at", sa.Float),
        sa.Column("certificate", sa.LargeBinary(512), nullable=False),
        sa.Column("endpoints", sa.String(2048), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("token_id", sa.LargeBinary(32), primary_key=True),
        sa.Column("fqdn", sa.String(253), sa.ForeignKey("accounts.fqdn"), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.Column("used_by", sa.LargeBinary(32)),
        sa.Column("used_at", sa.Float),
        sa.Column("withdrawn", sa.Boolean, nullable=False),
    )
    op.create_index("ix_tokens_fqdn", "tokens", ["fqdn"])
    op.create_table(
        "leases",
        sa.Column("domain", sa.String(253), primary_key=True),
        sa.Column("ipv4_prefix", sa.String(32), nullable=False, unique=True),
        sa.Column("ipv6_prefix", sa.String(64), nullable=False, unique=True),
        sa.Column("leased_at", sa.Float, nullable=False),
    )
    op.create_table(
        "addresses",
        sa.Column("fqdn", sa.String(253), primary_key=True),
        sa.Column("host", sa.Integer, nullable=False),
        sa.Column("ipv4", sa.LargeBinary(4), nullable=False, unique=True),
        sa.Column("ipv6", sa.LargeBinary(16), nullable=False, unique=True),
        sa.Column("assigned_at", sa.Float, nullable=False),
    )
    op.create_table(
        "nodes",
        sa.Column("fqdn", sa.String(253), primary_key=True),
        sa.Column("record", sa.LargeBinary(4096), nullable=False),
        sa.Column("ipv4", sa.LargeBinary(4), nullable=False),
        sa.Column("ipv6", sa.LargeBinary(16), nullable=False),
        sa.Column("located", sa.Boolean, nullable=False),
    )
    op.create_index("ix_nodes_ipv4", "nodes", ["ipv4"])
    op.create_index("ix_nodes_ipv6", "nodes", ["ipv6"])
