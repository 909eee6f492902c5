"""Tables of the servers' durable state, and how a database is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    insert,
    select,
)
from sqlalchemy.exc import SQLAlchemyError

from ntmpatch.base.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import Engine

SCHEMA_VERSION = 1
BUSY_TIMEOUT = 10.0
"""Seconds a writer waits for another (SQLite)."""

metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

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
)

leases = Table(
    "leases",
    metadata,
    Column("domain", String(253), primary_key=True),
    Column("ipv4_prefix", String(32), nullable=False, unique=True),
    Column("ipv6_prefix", String(64), nullable=False, unique=True),
    Column("leased_at", Float, nullable=False),
)

addresses = Table(
    "addresses",
    metadata,
    Column("fqdn", String(253), primary_key=True),
    Column("host", Integer, nullable=False),
    Column("ipv4", LargeBinary(4), nullable=False, unique=True),
    Column("ipv6", LargeBinary(16), nullable=False, unique=True),
    Column("assigned_at", Float, nullable=False),
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


def open_database(url: str) -> Engine:
    """An engine on which a returned commit is on the disk; makes the tables where there are none.

    ConfigError if the database cannot be opened or is of another version.
    """
    try:
        engine = create_engine(url)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_immediate)
        metadata.create_all(engine)
        with engine.begin() as connection:
            version = connection.scalar(select(schema_version.c.version))
            if version is None:
                connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
                version = SCHEMA_VERSION
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the servers' database cannot be opened: {reason}") from None
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"the servers' database has schema {version}; this ntmpatch expects {SCHEMA_VERSION}"
        )
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver would begin transactions by itself, and late; see _begin_immediate.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    """Take the write lock first: a transaction that reads and then writes never finds it taken."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
