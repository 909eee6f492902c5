"""What alembic runs: the revisions, on the connection and in the transaction of `open_database`."""

from __future__ import annotations

from alembic import context

from ntmpatch.runtime.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite's is too, since our transactions begin before the first change
)
with context.begin_transaction():
    context.run_migrations()
