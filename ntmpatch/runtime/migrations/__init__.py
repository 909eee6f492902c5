"""How the servers' database came to be: alembic's revisions, run when a database is opened."""
