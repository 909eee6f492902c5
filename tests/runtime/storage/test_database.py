"""Opening the servers' database: made, adopted, upgraded, refused, and by several at once."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, inspect, select, text

from ntmpatch.base.errors import ConfigError
from ntmpatch.runtime.database import open_database
from ntmpatch.runtime.migrations.versions import v0001_first
from ntmpatch.runtime.schema import accounts, addresses, metadata
from ntmpatch.runtime.store import SqlAccountStore

if TYPE_CHECKING:
    from pathlib import Path

    from databases import Database

pytestmark = pytest.mark.once

OPENERS = 4
_OPEN = """
import sys
from ntmpatch.runtime.database import open_database
from ntmpatch.runtime.store import SqlAccountStore
store = SqlAccountStore(open_database(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(store.lease_prefixes("home.example", 1.0).ipv4_prefix)
"""


def raw(database: Database) -> str:
    """The URL for SQLAlchemy itself."""
    return database.url.replace("postgresql:", "postgresql+psycopg:")


def test_a_fresh_database_has_the_tables_that_the_stores_use(database: Database) -> None:
    open_database(database.url)
    engine = open_database(database.url)  # again: nothing to do
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_database_from_before_the_migrations_is_adopted_with_what_it_holds(
    database: Database,
) -> None:
    engine = create_engine(raw(database))
    with engine.begin() as connection:
        from alembic.operations import Operations  # noqa: PLC0415 (its proxy is installed here)

        with Operations.context(MigrationContext.configure(connection)):
            v0001_first.upgrade()
        connection.execute(
            text(
                "INSERT INTO accounts (fqdn, role, public_key, certificate, endpoints, created_at)"
                " VALUES ('a.home.example', 'node', :key, :key, '[]', 5.0)"
            ),
            {"key": b"k" * 32},
        )
        connection.execute(
            text("INSERT INTO addresses VALUES ('a.home.example', 2, :four, :six, 7.0)"),
            {"four": bytes(4), "six": bytes(16)},
        )
    upgraded = open_database(database.url)
    with upgraded.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert connection.scalar(select(accounts.c.public_key)) == b"k" * 32
        assert connection.scalar(select(addresses.c.registered_at)) == 7.0
        # What an ntmpatch without migrations looks at: it refuses the database from now on.
        assert connection.scalar(text("SELECT version FROM schema_version")) == 2
    assert SqlAccountStore(upgraded).account_named("a.home.example") is not None


@pytest.mark.parametrize("by", ["alembic", "table"])
def test_a_newer_database_is_refused_with_one_line(database: Database, by: str) -> None:
    engine = create_engine(raw(database))
    with engine.begin() as connection:
        if by == "alembic":
            connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
            connection.execute(text("INSERT INTO alembic_version VALUES ('9999')"))
        else:
            version = Table("schema_version", MetaData(), Column("version", Integer))
            version.create(connection)
            connection.execute(version.insert().values(version=3))
    with pytest.raises(ConfigError, match="newer ntmpatch") as raised:
        open_database(database.url)
    assert "\n" not in str(raised.value)
    assert not inspect(engine).has_table("accounts")


def test_servers_that_start_at_once_do_not_collide(database: Database) -> None:
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", _OPEN, database.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(OPENERS)
    ]
    ends = [opener.communicate("\n", timeout=60) for opener in openers]
    assert ends == [("ready\n198.18.0.0/20\n", "")] * OPENERS


def test_a_connection_that_the_server_dropped_is_replaced_unseen(database: Database) -> None:
    store = SqlAccountStore(open_database(database.url))
    lease = store.lease_prefixes("home.example", 1.0)
    database.crash()
    assert store.lease_prefixes("home.example", 2.0) == lease


def test_a_missing_driver_and_a_strange_url_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "psycopg.py").write_text("raise ModuleNotFoundError('no', name='psycopg')\n")
    code = "import sys; from ntmpatch.runtime.database import open_database as o; o(sys.argv[1])"
    for url, words in (
        ("postgresql://host/name", "ntmpatch[postgresql]"),
        ("mysql://host/name", "use sqlite or postgresql"),
        ("nonsense", "cannot be opened"),
        (f"sqlite:///{tmp_path}/none/there.db", "cannot be opened"),
    ):
        ended = subprocess.run(
            [sys.executable, "-c", code, url],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        last = ended.stderr.strip().splitlines()[-1]
        assert last.startswith("ntmpatch.base.errors.ConfigError: "), ended.stderr
        assert words in last
