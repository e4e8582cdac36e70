"""Migrations: from an empty database to the tables of the code, repeated, and from two replicas at once."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event, text
from sqlmodel import SQLModel

from model import migrations
from model.database import BadDatabaseUrl, Database, DatabaseUnreachable, parse_url
from model.repositories import worlds
from model.schema_version import (
    MigrationAhead,
    MigrationBehind,
    check_migration,
    current_migration,
    newest_migration,
    upgrade,
)
from model.unit_of_work import write
from model.world import Kind
from tests.conftest import new_database

pytestmark = pytest.mark.postgres

ADVISORY_LOCK = 0x6578_6974
"""The advisory lock that migrations/env.py takes first."""


@pytest.fixture
async def empty(postgres) -> AsyncIterator[Database]:
    """An empty database."""
    async with new_database(postgres) as url:
        database = Database(url)
        yield database
        await database.close()


async def differences(database: Database) -> list:
    def compare(connection):
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return compare_metadata(context, SQLModel.metadata)

    async with database.engine.connect() as connection:
        return await connection.run_sync(compare)


async def test_migrations_create_the_tables_of_the_code(empty):
    assert await differences(empty)
    await upgrade(empty)
    assert await differences(empty) == []
    assert await worlds.current_revision(empty) == 0


async def test_constraints_have_the_names_that_the_code_uses(database):
    """The API distinguishes a taken name from an unknown pool by them, and autogenerate does not compare all of them."""
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


async def test_rows_from_before_localities_have_an_unknown_locality(empty):
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
    migrate_to(revision, connection, command.upgrade)


def migrate_to(revision, connection, direction):
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    direction(config, revision)


UUIDS = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(4)]
BEFORE_LOCALITIES = [
    f"INSERT INTO fleet VALUES ('{UUIDS[0]}', 'demo', now())",
    f"INSERT INTO pool VALUES ('{UUIDS[1]}', '{UUIDS[0]}', 'us', 'us', now())",
    f"INSERT INTO exit VALUES ('{UUIDS[2]}', '{UUIDS[1]}', 'us-1', 'a', NULL, 1, '::', NULL, 'lost', '', now(), now())",
    f"INSERT INTO proxy VALUES ('{UUIDS[3]}', '{UUIDS[0]}', 'gw-1', 'gateway', now())",
]


UPGRADE = """
import asyncio, sys
from model.database import Database
from model.schema_version import MigrationBlocked, upgrade
while True:
    try:
        asyncio.run(upgrade(Database(sys.argv[1])))
        break
    except MigrationBlocked:
        pass  # the other process is slow to start
"""


@pytest.mark.slow
async def test_replicas_that_start_at_once_migrate_one_after_the_other(empty, until):
    url = empty.url.set(drivername="postgresql").render_as_string(hide_password=False)
    holder = await empty.connect()
    await holder.execute("SELECT pg_advisory_lock($1)", ADVISORY_LOCK)
    replicas = [await asyncio.create_subprocess_exec(sys.executable, "-c", UPGRADE, url) for _ in range(2)]
    waiting = (
        "SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    await until(lambda: holder.fetchval(waiting))
    await holder.close()
    assert [await replica.wait() for replica in replicas] == [0, 0]
    assert await current_migration(empty) == newest_migration()
    assert await differences(empty) == []


# -- beside the previous version ---------------------------------------------------------------------------------------

IDS = {name: f"00000000-0000-4000-8000-0000000000{number:02}" for number, name in enumerate(("f", "l", "p", "x", "g"))}
INSERTS_OF_0003 = [
    # as the code of migration 0003 inserted, column by column, without later columns
    f"INSERT INTO fleet (id, name, created_at) VALUES ('{IDS['f']}', 'demo', now())",
    f"INSERT INTO listener (id, fleet_id, address, port) VALUES ('{IDS['l']}', '{IDS['f']}', '127.0.0.1', 8080)",
    f"INSERT INTO pool (id, fleet_id, name, country, created_at) VALUES ('{IDS['p']}', '{IDS['f']}', 'us', 'us', now())",
    (
        "INSERT INTO proxy (id, fleet_id, name, role, locality, created_at)"
        f" VALUES ('{IDS['x']}', '{IDS['f']}', 'us-1', 'exit', NULL, now()),"
        f" ('{IDS['g']}', '{IDS['f']}', 'gw-1', 'gateway', NULL, now())"
    ),
    (
        "INSERT INTO exit (id, pool_id, name, address, endpoint, port, bind_address, egress_address, locality, state,"
        f" state_reason, state_since, created_at) VALUES ('{IDS['x']}', '{IDS['p']}', 'us-1', '192.0.2.1', '192.0.2.1', 8443,"
        " '0.0.0.0', NULL, NULL, 'registering', '', now(), now())"
    ),
    "UPDATE revision SET value = value + 1 RETURNING value",
    f"INSERT INTO change (revision, kind, key, at, traceparent) VALUES (1, 'fleet', '{IDS['f']}', now(), NULL) RETURNING id",
]
STATEMENTS_OF_0003 = [
    *INSERTS_OF_0003,
    "SELECT id, fleet_id, address, port FROM listener",
    "SELECT id, fleet_id, name, country, created_at FROM pool",
    "SELECT revision, kind, key FROM change WHERE revision > 0 ORDER BY id",
    "UPDATE listener SET port = 8081",
    "UPDATE pool SET country = 'gb'",
    "UPDATE exit SET state = 'healthy', state_since = now() RETURNING name",
    "INSERT INTO rejection (\"group\", type_url, name, version, proxy_id, detail, at) VALUES ('g', 't', 'n', 'v', NULL, '', now())",
    (
        "INSERT INTO question (id, proxy_id, resource, asked_at, answer)"
        f" VALUES ('{IDS['f']}', '{IDS['g']}', NULL, now(), NULL)"
    ),
    "DELETE FROM exit",
    "DELETE FROM proxy",
    "DELETE FROM pool",
    "DELETE FROM fleet",
]


async def test_statements_of_the_previous_version_work_after_the_migration(empty):
    connection = await empty.connect()
    try:
        for schema in ("0003", "head"):
            async with empty.engine.begin() as migrating:
                await migrating.run_sync(lambda given, schema=schema: upgrade_to(schema, given))
            transaction = connection.transaction()
            await transaction.start()
            for statement in STATEMENTS_OF_0003:
                await connection.execute(statement)
            await transaction.rollback()
    finally:
        await connection.close()


async def test_rows_of_the_previous_version_are_complete_for_this_one(empty):
    await upgrade(empty)
    connection = await empty.connect()
    for statement in INSERTS_OF_0003:
        await connection.execute(statement)
    # an upgrade takes no exit out of a pool
    assert await connection.fetchval("SELECT allow_unverified FROM pool")
    await connection.close()
    world = await worlds.load(empty)
    (listener,) = world.listeners.values()
    (pool,) = world.pools.values()
    assert (listener.name, listener.countries_by_server_name, listener.certificate_id) == ("clients", (), None)
    assert (pool.city, pool.only_by_name) == ("", False)


async def test_fields_of_flap_detection_are_renamed_and_back(empty):
    connection = await empty.connect()

    async def migrate(direction, revision):
        async with empty.engine.begin() as migrating:
            await migrating.run_sync(lambda given: migrate_to(revision, given, direction))
        rows = await connection.fetch("SELECT resilience FROM pool ORDER BY name")
        return [json.loads(row["resilience"]) for row in rows]

    await migrate(command.upgrade, "0008")
    await connection.execute(f"INSERT INTO fleet VALUES ('{UUIDS[0]}', 'demo', now())")
    former = [{}, {"falls_borne": 0, "falls_window_s": 60, "hold_down_s": 9}, {"falls_window_s": 1}]
    for name, country, stored in zip("abc", ("us", "gb", "de"), former, strict=True):
        await connection.execute(
            "INSERT INTO pool (id, fleet_id, name, country, resilience, created_at) VALUES ($1, $2, $3, $4, $5, now())",
            *(uuid4(), UUID(UUIDS[0]), name, country, json.dumps(stored)),
        )
    renamed = [{}, {"flap_threshold": 0, "flap_window_s": 60, "hold_down_s": 9}, {"flap_window_s": 1}]
    assert await migrate(command.upgrade, "0009") == renamed
    assert await migrate(command.downgrade, "0008") == former
    await connection.close()


COLUMNS = """
SELECT table_name, column_name, data_type, is_nullable, column_default IS NOT NULL OR is_identity = 'YES' AS filled
FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
"""
MIGRATIONS = [
    script.revision for script in reversed([*ScriptDirectory(str(Path(migrations.__file__).parent)).walk_revisions()])
]
REMADE = {("0003", "sync")}
"""Tables that were dropped with their rows before the first release."""


async def test_each_migration_keeps_the_columns_of_the_previous_version(empty):
    connection = await empty.connect()
    before: dict = {}
    for revision in MIGRATIONS:
        async with empty.engine.begin() as migrating:
            await migrating.run_sync(lambda given, revision=revision: upgrade_to(revision, given))
        rows = await connection.fetch(COLUMNS)
        after = {(row["table_name"], row["column_name"]): row for row in rows}
        tables = {table for table, _ in before if (revision, table) not in REMADE}
        for (table, column), row in before.items():
            if table in tables:
                assert (table, column) in after, f"{revision} removes {table}.{column}"
                assert after[table, column]["data_type"] == row["data_type"], f"{revision} changes {table}.{column}"
                assert after[table, column]["is_nullable"] >= row["is_nullable"], (
                    f"{revision} tightens {table}.{column}"
                )
        for (table, column), row in after.items():
            if table in tables and (table, column) not in before:
                assert row["filled"] or row["is_nullable"] == "YES", f"{revision}: nobody fills {table}.{column}"
        before = after
    await connection.close()


# -- locks of migrations ----------------------------------------------------------------------------------------------

DECLARED_BY_HAND = {
    "fleet",
    "listener",
    "pool",
    "plan",
    "route",
    "route_pool",
    "server_certificate",
    "operator",
    "api_key",
}
"""Tables of at most thousands of rows: building an index or checking the rows takes milliseconds."""
OF_KNOWN_SIZE = {"exit", "proxy"}
"""Tables of tens of thousands of rows. Their writers (keeper, enrolment) may wait the 0.1 s of building an index."""
ADDS = re.compile(r'ALTER TABLE "?(?P<table>\w+)"? ADD COLUMN (?P<column>.*)')
CHECKS = re.compile(
    r'(?:CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY)\S+ ON "?(?P<indexed>\w+)"?'
    r'|ALTER TABLE "?(?P<checked>\w+)"? ADD CONSTRAINT (?!.*NOT VALID)'
    r'|ALTER TABLE "?(?P<altered>\w+)"? ALTER COLUMN \S+ (?:SET NOT NULL|TYPE))'
)
TAKES = re.compile(r'(?:ALTER TABLE "?(?P<table>\w+)"? (?:DROP COLUMN|RENAME)|DROP TABLE "?(?P<dropped>\w+)"?)')
CONSTANT = re.compile(r"DEFAULT ('[^']*'(::\w+)?|-?\d+|true|false)( |$)")


def statements_of(revision: str) -> list[str]:
    """Return the statements of a migration without executing them."""
    buffer = io.StringIO()
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": buffer})
    script = ScriptDirectory(str(Path(migrations.__file__).parent)).get_revision(revision)
    assert script is not None
    with Operations.context(context):
        script.module.upgrade()
    return [" ".join(statement.split()) for statement in buffer.getvalue().split(";") if statement.strip()]


def faults(revision: str, statements: list[str]) -> list[str]:
    """Return the statements that would block or break the previous version beside a migration."""
    created = {found[1] for each in statements if (found := re.match(r'CREATE TABLE "?(\w+)', each))}
    found = []
    for each in statements:
        added, checked, taken = ADDS.match(each), CHECKS.match(each), TAKES.match(each)
        if (
            added
            and added["table"] not in created
            and "DEFAULT" in added["column"]
            and not CONSTANT.search(added["column"])
        ):
            found.append(f"rewrites {added['table']}, for each row has a default of its own: {each}")
        if added and added["table"] not in created and "NOT NULL" in added["column"] and "DEFAULT" not in each:
            found.append(f"who does not know the column cannot insert: {each}")
        if checked:
            table = checked["indexed"] or checked["checked"] or checked["altered"]
            small = DECLARED_BY_HAND | OF_KNOWN_SIZE if checked["indexed"] else DECLARED_BY_HAND
            if table not in created | small:
                found.append(f"looks at all rows of {table} while nobody may write: {each}")
        if taken and (revision, taken["table"] or taken["dropped"]) not in REMADE:
            found.append(f"takes away what the previous version uses: {each}")
    return found


@pytest.mark.parametrize("revision", MIGRATIONS)
def test_migration_rewrites_no_table_and_blocks_no_writer(revision):
    statements = statements_of(revision)
    assert statements
    assert faults(revision, statements) == []


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE exit ADD COLUMN x INTEGER NOT NULL",
        "ALTER TABLE exit ADD COLUMN x UUID DEFAULT gen_random_uuid()",
        "ALTER TABLE exit ADD COLUMN x TIMESTAMP DEFAULT clock_timestamp() NOT NULL",
        "CREATE INDEX ix ON audit_event (at)",
        'CREATE UNIQUE INDEX ix ON "user_account" (name)',
        "ALTER TABLE exit ADD CONSTRAINT c UNIQUE (name)",
        "ALTER TABLE heartbeat ADD CONSTRAINT c FOREIGN KEY(proxy_id) REFERENCES proxy (id)",
        "ALTER TABLE exit ALTER COLUMN name SET NOT NULL",
        "ALTER TABLE exit ALTER COLUMN name TYPE TEXT",
        "ALTER TABLE pool DROP COLUMN country",
        "ALTER TABLE pool RENAME TO pools",
        "DROP TABLE sync",
    ],
)
def test_linter_finds_blocking_or_breaking_statements(statement):
    assert faults("9999", [statement])


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE exit ADD COLUMN x INTEGER",
        "ALTER TABLE exit ADD COLUMN x VARCHAR DEFAULT '' NOT NULL",
        "ALTER TABLE exit ADD COLUMN x BOOLEAN DEFAULT false NOT NULL",
        "CREATE INDEX CONCURRENTLY ix ON audit_event (at)",
        "CREATE INDEX ix ON pool (name)",
        "ALTER TABLE exit ADD CONSTRAINT c CHECK (port > 0) NOT VALID",
        "ALTER TABLE exit ALTER COLUMN name DROP NOT NULL",
    ],
)
def test_linter_accepts_harmless_statements(statement):
    assert faults("9999", [statement]) == []


async def test_every_migration_statement_has_timeouts(empty):
    seen = set()

    def watch(connection, cursor, statement, *_):
        if statement.lstrip().startswith(("CREATE", "ALTER", "DROP", "INSERT", "UPDATE")):
            for setting in ("lock_timeout", "statement_timeout"):
                cursor.execute(f"SHOW {setting}")
                seen.add((setting, cursor.fetchone()[0]))

    def migrate(connection):
        event.listen(connection, "before_cursor_execute", watch)
        upgrade_to("head", connection)

    async with empty.engine.begin() as connection:
        await connection.run_sync(migrate)
    # before the first migration: Alembic's own version table
    assert seen == {("lock_timeout", "4s"), ("statement_timeout", "5s")}


def db_upgrade(url: str) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-m", "cli", "db", "upgrade"]
    environment = {**os.environ, "EXITPLANE_DATABASE_URL": url}
    return subprocess.run(command_line, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow
async def test_migration_that_waits_for_a_lock_gives_up_and_rolls_back(empty):
    async with empty.engine.begin() as connection:
        await connection.run_sync(lambda given: upgrade_to("0003", given))
    url = empty.url.set(drivername="postgresql").render_as_string(hide_password=False)
    holder = await empty.connect()
    before = await holder.fetch(COLUMNS)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute(
        "LOCK TABLE pool IN ACCESS SHARE MODE"
    )  # any SELECT takes this lock until its transaction ends
    watcher = await empty.connect()
    done = await asyncio.to_thread(db_upgrade, url)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done
    assert "waited 4 s for a lock" in done.stderr
    assert "repeat it" in done.stderr
    assert await watcher.fetch(COLUMNS) == before
    assert await current_migration(empty) == "0003"
    await transaction.rollback()
    await holder.close()
    await watcher.close()
    again = await asyncio.to_thread(db_upgrade, url)
    assert (again.returncode, again.stdout.strip()) == (0, f"migrated from 0003 to {newest_migration()}"), again
    assert await differences(empty) == []


async def test_database_at_an_older_migration_is_refused_with_a_hint(empty):
    with pytest.raises(MigrationBehind, match=r"the database is at migration none.*exitplane db upgrade"):
        await check_migration(empty)
    await upgrade(empty)
    await check_migration(empty)


async def test_database_at_a_newer_migration_is_refused_with_a_hint(database):
    async with database.session() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (check_migration, upgrade):
        with pytest.raises(MigrationAhead, match=r"at migration 9999, newer than this version.*newer one"):
            await attempt(database)


async def test_refused_login_names_user_and_password(database):
    stranger = Database(database.url.set(username="nobody").render_as_string(hide_password=False))
    for attempt in (check_migration, upgrade, worlds.load, Database.connect):
        with pytest.raises(DatabaseUnreachable, match=r"PostgreSQL refuses the login \(.*nobody.*correct the user"):
            await attempt(stranger)
    await stranger.close()


async def test_unreachable_database_raises_database_unreachable(tmp_path):
    database = Database(f"postgresql://nobody@/nothing?host={tmp_path}")
    for attempt in (check_migration, upgrade, worlds.load, Database.connect):
        with pytest.raises(DatabaseUnreachable, match="PostgreSQL cannot be reached"):
            await attempt(database)


@pytest.mark.parametrize("url", ["mysql://host/name", "not a url", "", "sqlite:///file"])
def test_url_of_another_database_is_refused(url):
    with pytest.raises(BadDatabaseUrl, match="EXITPLANE_DATABASE_URL"):
        parse_url(url)


def test_a_refused_url_does_not_show_its_password():
    with pytest.raises(BadDatabaseUrl) as caught:
        parse_url("mysql://me:hunter2@host/name")
    assert "hunter2" not in str(caught.value)


async def test_outage_within_a_session_raises_database_unreachable(linked_database):
    database, link = linked_database
    await worlds.load(database)
    await link.cut()
    with pytest.raises(DatabaseUnreachable):
        await worlds.load(database)
    await link.restore()
    assert (await worlds.load(database)).revision == 0


async def test_outage_during_a_write_leaves_nothing(linked_database, declare):
    database, link = linked_database

    async def interrupted():
        async with write(database) as unit:
            await declare.fleet(unit)
            await link.cut()

    with pytest.raises(DatabaseUnreachable):
        await interrupted()
    await link.restore()
    world = await worlds.load(database)
    assert (world.revision, world.fleets) == (0, {})


async def test_session_that_the_server_ended_raises_database_unreachable(database, query):
    async def interrupted():
        async with database.session() as session:
            connection = await session.connection()
            pid = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
            await query("SELECT pg_terminate_backend(:pid)", pid=pid)
            await connection.exec_driver_sql("SELECT 1")

    with pytest.raises(DatabaseUnreachable):
        await interrupted()
