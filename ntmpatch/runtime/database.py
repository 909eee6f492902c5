"""How the servers' database is opened: SQLite or PostgreSQL, migrated, durable, and shared.

Any number of processes may open one database at once, also for the first time.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from ntmpatch.base.errors import ConfigError
from ntmpatch.runtime.schema import schema_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL, Connection, Engine

T = TypeVar("T")

log = logging.getLogger("ntmpatch.database")

BUSY_TIMEOUT: Final = 10.0
"""Seconds a writer waits for another."""
CONNECT_TIMEOUT: Final = 10
"""Seconds until a PostgreSQL that does not answer is given up."""
MAX_ATTEMPTS: Final = 10
_READING: Final = "ntmpatch_reading"
_MIGRATION_LOCK: Final = 0x6E746D70
"""Of PostgreSQL's advisory locks, the one for changing our tables ("ntmp")."""
_UNSTAMPED: Final = "before the migrations"
_POSTGRESQL: Final = "postgresql+psycopg"
# Durable and bounded, whatever the cluster's own settings are. A server that vanished is noticed.
_POSTGRESQL_OPTIONS: Final = (
    "-c synchronous_commit=on"
    f" -c lock_timeout={int(BUSY_TIMEOUT * 1000)}"
    f" -c idle_in_transaction_session_timeout={int(BUSY_TIMEOUT * 1000)}"
)
_KEEPALIVES: Final = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_PASSING: Final = frozenset({"40001", "40P01"})
"""SQLSTATE of a serialisation failure and of a deadlock: the same once more may well succeed."""


def open_database(url: str) -> Engine:
    """An engine on which a returned commit is on the disk, and whose tables are today's.

    A fresh database is made, an older one brought up to date. ConfigError if the database cannot
    be opened or is of a newer version.
    """
    with _explained():
        engine = _engine(make_url(url))
        _migrate(engine)
    return engine


def check_database(url: str) -> None:
    """Look whether `open_database` would succeed, and change nothing; ConfigError if not."""
    with _explained():
        engine = create_engine(_with_driver(make_url(url)))
        try:
            with engine.connect() as connection:
                _revision(connection, ScriptDirectory.from_config(_alembic()))
        finally:
            engine.dispose()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what can be wrong with a database into one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise ConfigError(f"the servers' database cannot be opened: {error}") from None
        raise ConfigError(
            "PostgreSQL needs the library psycopg: install 'ntmpatch[postgresql]'"
        ) from None
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the servers' database cannot be opened: {reason}") from None


def transact(engine: Engine, change: Callable[[Connection], T]) -> T:
    """Run ``change`` in a transaction that is on the disk when this returns.

    It is run again when another process came in between: two that insert the same row, or that
    wait for each other. So it must have no effect but on the connection.
    """
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            with engine.begin() as connection:
                return change(connection)
        except (IntegrityError, OperationalError) as error:
            if attempt == MAX_ATTEMPTS or not _is_passing(error):
                raise
    raise AssertionError("unreachable")


def reading(engine: Engine) -> Connection:
    """A connection to read with, to be used in ``with``: it waits for no writer."""
    return engine.connect().execution_options(**{_READING: True})


def _is_passing(error: IntegrityError | OperationalError) -> bool:
    return isinstance(error, IntegrityError) or getattr(error.orig, "sqlstate", "") in _PASSING


# --- engines -------------------------------------------------------------------------------


def _with_driver(url: URL) -> URL:
    """PostgreSQL by psycopg 3, also where the URL does not say so."""
    if url.drivername in ("postgresql", "postgres"):
        return url.set(drivername=_POSTGRESQL)
    return url


def _engine(url: URL) -> Engine:
    url = _with_driver(url)
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediate)
        return engine
    if url.drivername != _POSTGRESQL:
        raise ConfigError(f"no database of the kind {url.drivername}: use sqlite or postgresql")
    theirs = url.query.get("options", "")
    options = " ".join(
        [theirs if isinstance(theirs, str) else " ".join(theirs), _POSTGRESQL_OPTIONS]
    )
    return create_engine(
        url.difference_update_query(["options"]),
        # A connection that broke while it was idle (the server restarted) is replaced unseen.
        pool_pre_ping=True,
        connect_args={"connect_timeout": CONNECT_TIMEOUT, "options": options, **_KEEPALIVES},
    )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver would begin transactions by itself, and late; see _begin_immediate.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}")
    _enter_wal(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _enter_wal(cursor: Any) -> None:
    """Of several that open a new file at once, one may change the mode; SQLite does not wait."""
    import sqlite3  # noqa: PLC0415 (not needed with PostgreSQL)

    give_up_at = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_immediate(connection: Any) -> None:
    """Take the write lock first: a transaction that reads and then writes never finds it taken."""
    reads = connection.get_execution_options().get(_READING)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


# --- migrations ----------------------------------------------------------------------------


def _migrate(engine: Engine) -> None:
    config = _alembic()
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells each of its steps
    with engine.begin() as connection:  # SQLite's write lock is taken here
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        config.attributes["connection"] = connection
        script = ScriptDirectory.from_config(config)
        current = _revision(connection, script)
        if current == _UNSTAMPED:
            command.stamp(config, "0001")
        known_head = script.get_current_head()
        if current != known_head:
            command.upgrade(config, "head")
            log.info(
                "the database was brought from %s to revision %s", current or "nothing", known_head
            )


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", "ntmpatch.runtime:migrations")
    return config


def _revision(connection: Connection, script: ScriptDirectory) -> str | None:
    """Which revision the tables are of; None: there are none. ConfigError: of a newer ntmpatch."""
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None:
        if current not in {revision.revision for revision in script.walk_revisions()}:
            raise _newer(f"revision {current}")
        return current
    if not inspect(connection).has_table(schema_version.name):
        return None
    version = connection.scalar(select(schema_version.c.version))
    if version != 1:
        raise _newer(f"schema {version}")
    return _UNSTAMPED


def _newer(what: str) -> ConfigError:
    return ConfigError(
        f"the servers' database is of a newer ntmpatch ({what}): this one does not know it"
    )
