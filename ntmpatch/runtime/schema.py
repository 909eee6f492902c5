"""Tables of the servers' durable state as they are now; `migrations` makes them, step by step."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
)

metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))
"""What versions of ntmpatch before the migrations look at: they refuse what is not 1."""

counters = Table(
    "counters",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)
"""Rows that are locked to do one thing at a time, and numbers that are seen in their order."""

accounts = Table(
    "accounts",
    metadata,
    Column("fqdn", String(253), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("public_key", LargeBinary(32), unique=True),
    Column("revoked_at", Float),
    Column("certificate", LargeBinary(512), nullable=False, default=b""),
    Column("endpoints", String(2048), nullable=False, default="[]"),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, index=True),
    Column("expiry_noted", Boolean, nullable=False, default=False, server_default=false()),
    Column("domains", String(2048), nullable=False, default="[]", server_default="[]"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("token_id", LargeBinary(32), primary_key=True),
    Column("fqdn", String(253), ForeignKey("accounts.fqdn"), nullable=False, index=True),
    Column("secret_hash", LargeBinary(32), nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_by", LargeBinary(32)),
    Column("used_at", Float),
    Column("withdrawn", Boolean, nullable=False, default=False),
    Column("rotates", LargeBinary(32)),
)

leases = Table(
    "leases",
    metadata,
    Column("domain", String(253), primary_key=True),
    Column("ipv4_prefix", String(32), nullable=False, unique=True),
    Column("ipv6_prefix", String(64), nullable=False, unique=True),
    Column("leased_at", Float, nullable=False),
)

revocations = Table(
    "revocations",
    metadata,
    Column("serial", BigInteger, primary_key=True, autoincrement=False),
    Column("public_key", LargeBinary(32), nullable=False, index=True),
    Column("fqdn", String(253), nullable=False),
    Column("reason", Integer, nullable=False),
    Column("revoked_at", Float, nullable=False, index=True),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("who", String(253), nullable=False),
    Column("origin", String(253), nullable=False),
    Column("action", String(32), nullable=False),
    Column("subject", String(253), nullable=False, index=True),
    Column("detail", Text, nullable=False),
)

addresses = Table(
    "addresses",
    metadata,
    Column("fqdn", String(253), primary_key=True),
    Column("host", Integer, nullable=False),
    Column("ipv4", LargeBinary(4), nullable=False, unique=True),
    Column("ipv6", LargeBinary(16), nullable=False, unique=True),
    Column("assigned_at", Float, nullable=False),
    Column("registered_at", Float),
    Column("released_at", Float),
)

nodes = Table(
    "nodes",
    metadata,
    Column("fqdn", String(253), primary_key=True),
    Column("record", LargeBinary(4096), nullable=False),
    Column("ipv4", LargeBinary(4), nullable=False, index=True),
    Column("ipv6", LargeBinary(16), nullable=False, index=True),
    Column("located", Boolean, nullable=False, default=True),
)
