"""The schema version of the database: its Alembic migration, checks and upgrades."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, pool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from model.database import CONNECT_TIMEOUT_S, UNREACHABLE, Database, is_unreachable, unreachable
from model.errors import ExitplaneError

_BLOCKED: Final = {"55P03": "waited 4 s for a lock that another session holds", "57014": "took longer than 5 s"}


class MigrationBehind(ExitplaneError):
    code = "migration_behind"


class MigrationAhead(ExitplaneError):
    code = "migration_ahead"


class MigrationBlocked(ExitplaneError):
    code = "migration_blocked"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "model:migrations")
    config.set_main_option("path_separator", "os")
    return config


def known_migrations() -> frozenset[str]:
    """Return the ids of all migrations that this version of the code has."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def newest_migration() -> str:
    """Return the id of the migration that this version of the code needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


async def current_migration(database: Database) -> str | None:
    """Return the id of the database's migration; None for an empty database."""

    def read(connection: Connection) -> str | None:
        return MigrationContext.configure(connection).get_current_revision()

    async with _connection(database) as connection:
        return await connection.run_sync(read)


async def check_migration(database: Database) -> None:
    """Raise MigrationBehind or MigrationAhead unless the schema is the one that this code needs."""
    current, newest = await _known_migration(database), newest_migration()
    if current != newest:
        raise MigrationBehind(
            f"the database is at migration {current or 'none'}, this version needs {newest}",
            hint="run `exitplane db upgrade`",
        )


async def _known_migration(database: Database) -> str | None:
    """Return the id of the database's migration. Raises MigrationAhead for one that this code does not have."""
    current = await current_migration(database)
    if current is not None and current not in known_migrations():
        raise MigrationAhead(
            f"the database is at migration {current}, newer than this version, which needs {newest_migration()}",
            hint="run the version of Exitplane that upgraded it, or a newer one",
        )
    return current


async def upgrade(database: Database) -> None:
    """Upgrade the schema to the newest migration. Two replicas may do so at once, and it may be repeated.

    Raises MigrationAhead, MigrationBlocked, DatabaseUnreachable.
    """
    await _known_migration(database)

    def run(connection: Connection) -> None:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    try:
        async with _connection(database) as connection:
            await connection.run_sync(run)
            await connection.commit()
    except DBAPIError as error:
        reason = _BLOCKED.get(getattr(error.orig, "sqlstate", None) or "")
        if reason is None:
            raise
        raise MigrationBlocked(
            f"the migration {reason}, and was rolled back",
            hint="repeat it when there is less load, or find long transactions in pg_stat_activity",
        ) from error


@asynccontextmanager
async def _connection(database: Database) -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine(database.url, poolclass=pool.NullPool, connect_args={"timeout": CONNECT_TIMEOUT_S})
    try:
        async with engine.connect() as connection:
            yield connection
    except (*UNREACHABLE, asyncpg.PostgresError) as error:
        raise unreachable(error) from error
    except DBAPIError as error:
        if is_unreachable(error):
            raise unreachable(error) from error
        raise
    finally:
        await asyncio.shield(engine.dispose())
