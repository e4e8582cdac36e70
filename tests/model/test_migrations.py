"""Migrations: from nothing to the tables that the code has, again and again, and from two replicas at once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlmodel import SQLModel

from model import migrations
from model.changes import write
from model.database import (
    BadDatabaseUrl,
    Database,
    DatabaseUnreachable,
    MigrationBehind,
    check_migration,
    current_migration,
    newest_migration,
    parse_url,
    upgrade,
)
from model.repositories import worlds
from model.world import Kind

pytestmark = pytest.mark.postgres

ADVISORY_LOCK = 0x6578_6974
"""What migrations/env.py takes before it looks at the schema."""


@pytest.fixture
async def empty(postgres) -> AsyncIterator[Database]:
    """A database without any table."""
    connection = await asyncpg.connect(postgres.set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        await connection.execute("CREATE DATABASE empty")
        database = Database(postgres.set(database="empty").render_as_string(hide_password=False))
        yield database
        await database.close()
        await connection.execute("DROP DATABASE empty WITH (FORCE)")
    finally:
        await connection.close()


async def differences(database: Database) -> list:
    def compare(connection):
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return compare_metadata(context, SQLModel.metadata)

    async with database.engine.connect() as connection:
        return await connection.run_sync(compare)


async def test_the_migrations_make_the_tables_that_the_code_has(empty):
    assert await differences(empty)
    await upgrade(empty)
    assert await differences(empty) == []
    assert await worlds.current_revision(empty) == 0


async def test_constraints_have_the_names_that_the_code_asks_for(database):
    """The API tells a taken name from an unknown pool by them, and autogenerate does not compare them all."""
    wanted = {
        str(constraint.name)
        for table in SQLModel.metadata.tables.values()
        for constraint in table.constraints
        if constraint.name
    }
    async with database.engine.connect() as connection:
        rows = await connection.exec_driver_sql(
            "SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'"
        )
        made = {name for (name,) in rows}
    assert made - {"alembic_version_pkc"} == wanted


async def test_upgrading_again_changes_nothing(empty):
    await upgrade(empty)
    async with write(empty) as unit:
        unit.touch(Kind.FLEET, uuid4())
    await upgrade(empty)
    assert await worlds.current_revision(empty) == 1
    assert await differences(empty) == []


async def test_what_was_declared_before_there_were_localities_stands_nowhere_known(empty):
    async with empty.engine.begin() as connection:
        await connection.run_sync(lambda given: upgrade_to("0001", given))
        for statement in BEFORE_LOCALITIES:
            await connection.exec_driver_sql(statement)
    await upgrade(empty)
    world = await worlds.load(empty)
    assert [(each.name, each.locality) for each in (*world.exits.values(), *world.proxies.values())] == [
        ("us-1", None),
        ("gw-1", None),
    ]


def upgrade_to(revision, connection):
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


UUIDS = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(4)]
BEFORE_LOCALITIES = [
    f"INSERT INTO fleet VALUES ('{UUIDS[0]}', 'demo', now())",
    f"INSERT INTO pool VALUES ('{UUIDS[1]}', '{UUIDS[0]}', 'us', 'us', now())",
    f"INSERT INTO exit VALUES ('{UUIDS[2]}', '{UUIDS[1]}', 'us-1', 'a', NULL, 1, '::', NULL, 'lost', '', now(), now())",
    f"INSERT INTO proxy VALUES ('{UUIDS[3]}', '{UUIDS[0]}', 'gw-1', 'gateway', now())",
]


UPGRADE = """
import asyncio, sys
from model.database import Database, upgrade
asyncio.run(upgrade(Database(sys.argv[1])))
"""


async def test_replicas_that_start_at_once_migrate_one_after_the_other(empty, until):
    url = empty.url.set(drivername="postgresql").render_as_string(hide_password=False)
    holder = await empty.connect()
    await holder.execute("SELECT pg_advisory_lock($1)", ADVISORY_LOCK)
    replicas = [await asyncio.create_subprocess_exec(sys.executable, "-c", UPGRADE, url) for _ in range(2)]
    waiting = "SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    await until(lambda: holder.fetchval(waiting), timeout_s=30)
    await holder.close()
    assert [await replica.wait() for replica in replicas] == [0, 0]
    assert await current_migration(empty) == newest_migration()
    assert await differences(empty) == []


async def test_a_database_that_is_behind_is_refused_with_the_mend(empty):
    with pytest.raises(MigrationBehind, match=r"the database is at migration none.*exitplane db upgrade"):
        await check_migration(empty)
    await upgrade(empty)
    await check_migration(empty)


async def test_a_database_that_cannot_be_reached_is_named_as_such(tmp_path):
    database = Database(f"postgresql://nobody@/nothing?host={tmp_path}")
    for attempt in (check_migration, upgrade, worlds.load, Database.connect):
        with pytest.raises(DatabaseUnreachable, match="PostgreSQL cannot be reached"):
            await attempt(database)


@pytest.mark.parametrize("url", ["mysql://host/name", "not a url", "", "sqlite:///file"])
def test_a_url_that_is_not_postgresqls_is_refused(url):
    with pytest.raises(BadDatabaseUrl, match="EXITPLANE_DATABASE_URL"):
        parse_url(url)


def test_a_refused_url_does_not_show_its_password():
    with pytest.raises(BadDatabaseUrl) as caught:
        parse_url("mysql://me:hunter2@host/name")
    assert "hunter2" not in str(caught.value)


async def test_an_outage_within_a_session_is_named_as_such(wired):
    database, wire = wired
    await worlds.load(database)
    await wire.cut()
    with pytest.raises(DatabaseUnreachable):
        await worlds.load(database)
    await wire.mend()
    assert (await worlds.load(database)).revision == 0


async def test_an_outage_in_the_middle_of_a_write_leaves_nothing(wired, declare):
    database, wire = wired

    async def interrupted():
        async with write(database) as unit:
            await declare.fleet(unit)
            await wire.cut()

    with pytest.raises(DatabaseUnreachable):
        await interrupted()
    await wire.mend()
    world = await worlds.load(database)
    assert (world.revision, world.fleets) == (0, {})


async def test_a_session_whose_connection_the_server_ended_is_named_as_such(database, query):
    async def interrupted():
        async with database.session() as session:
            connection = await session.connection()
            pid = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
            await query("SELECT pg_terminate_backend(:pid)", pid=pid)
            await connection.exec_driver_sql("SELECT 1")

    with pytest.raises(DatabaseUnreachable):
        await interrupted()
