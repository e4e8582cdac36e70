"""Runs the migrations on a connection that `model.schema_version` opened."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from model import tables

_ADVISORY_LOCK = 0x6578_6974  # "exit": two replicas that start at once migrate one after the other


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=tables.SQLModel.metadata, compare_type=True)
    with context.begin_transaction():
        connection.execute(text("SET LOCAL lock_timeout = '4s'"))
        connection.execute(text("SET LOCAL statement_timeout = '5s'"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        context.run_migrations()


run(context.config.attributes["connection"])
