"""Backups: a restore brings everything back, and no reader confuses later revisions with earlier ones."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import select
from sqlmodel import col

from cli.db import _DIGEST_MARKER, LEAP, RestoreFailed, _connection_arguments, _digest_of, _inspect, _restore, _tools
from model import migrations
from model.audit_log import Actor, AuditEntry, append, hash_of
from model.authority import create_authority
from model.database import Database, parse_url
from model.repositories import authorities, declared, events, logins, operators, worlds
from model.repositories.events import EventsGone
from model.schema_version import check_migration, newest_migration
from model.tables import AuditHeadRow, AuditRow, FleetRow, OperatorRow, PoolRow, SessionRow
from model.unit_of_work import write
from tests.conftest import KEY_SETTING, KEYRING, new_database

pytestmark = [pytest.mark.postgres, pytest.mark.slow]
AT = datetime(2026, 1, 1, tzinfo=UTC)


def call(*arguments: str, url: str | None = None, state: str = "/nonexistent", path: str | None = None):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EXITPLANE_", "PG"))}
    given = {"EXITPLANE_STATE_DIR": state} | ({"EXITPLANE_DATABASE_URL": url} if url else {})
    return subprocess.run(
        [sys.executable, "-m", "cli", "db", *arguments],
        env={**kept, **given, **({"PATH": path} if path is not None else {})},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


async def db(*arguments, **more):
    return await asyncio.to_thread(call, *map(str, arguments), **more)


def assert_refused(done, *words):
    assert done.returncode == 1, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def text_of(url):
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
async def other_url(postgres) -> AsyncIterator[str]:
    """An empty second database."""
    async with new_database(postgres) as url:
        yield url


async def fill(database: Database, declare) -> None:
    """Write a row of everything that a restore must bring back."""
    async with database.session() as session:
        await authorities.ensure(session, lambda: create_authority(AT))
        await logins.ensure_signing_key(session, secrets.token_bytes(32))
        operator = OperatorRow(name="ada", role="admin", created_at=AT)
        await operators.save(session, operator)
        await logins.start_session(
            session, SessionRow(operator_id=operator.id, refresh_digest="x", created_at=AT, expires_at=AT)
        )
        await append(session, Actor(operator.id), [AuditEntry("login", "operator", str(operator.id))])
    for name in ("one", "two"):
        async with write(database, actor=Actor(operator.id)) as unit:
            fleet = await declare.fleet(unit, name)
            await declare.exit(unit, await declare.pool(unit, fleet, "us"), locality="eu/a")


async def change_much(database: Database, declare) -> None:
    """Write after the backup; the restore must undo it."""
    async with write(database, actor=Actor()) as unit:
        await declare.fleet(unit, "later")
        found = await declared.find_fleet(unit.session, "one")
        assert found is not None
        await declared.save_changes(unit, found, {"name": "renamed"})
        (pool,) = (await unit.session.execute(select(PoolRow).where(col(PoolRow.fleet_id) == found.id))).scalars()
        await declared.save_changes(unit, pool, {"name": "renamed"})


async def everything(database: Database) -> dict[str, list[str]]:
    """Return all rows of all tables as text, except for what a restore changes on purpose."""
    connection = await database.connect()
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        names = [row["tablename"] for row in tables if row["tablename"] not in {"revision", "session"}]
        return {
            name: [row[0] for row in await connection.fetch(f'SELECT t::text FROM public."{name}" t ORDER BY 1')]
            for name in names
        }
    finally:
        await connection.close()


async def shape(database: Database) -> list[str]:
    """Return columns, constraints, indexes, triggers and functions."""
    connection = await database.connect()
    try:
        rows = await connection.fetch(
            "SELECT concat_ws(' ', table_name, column_name, data_type, column_default, is_nullable, is_identity)"
            " FROM information_schema.columns WHERE table_schema = 'public'"
            " UNION ALL SELECT concat_ws(' ', conname, pg_get_constraintdef(oid)) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace"
            " UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'"
            " UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal"
            " UNION ALL SELECT prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1"
        )
        return [row[0] for row in rows]
    finally:
        await connection.close()


async def chain(database: Database) -> int:
    """Verify the audit's hash chain, and return its length."""
    async with database.session() as session:
        rows = (await session.execute(select(AuditRow).order_by(col(AuditRow.sequence)))).scalars().all()
        head = (await session.execute(select(AuditHeadRow))).scalar_one()
    previous = ""
    for sequence, row in enumerate(rows, 1):
        assert (row.sequence, row.previous, row.hash) == (sequence, previous, hash_of(row))
        previous = row.hash
    assert (head.sequence, head.hash) == (len(rows), previous)
    return len(rows)


@pytest.fixture
async def backed_up(database, database_url, declare, tmp_path):
    """A database with rows, its backup, and its content at that time."""
    await fill(database, declare)
    file = tmp_path / "exitplane.backup"
    before = await everything(database)
    done = await db("backup", file, url=database_url)
    assert done.returncode == 0, done
    return file, before


# -- round trip --------------------------------------------------------------------------------------------------------


async def test_restore_over_later_writes_brings_the_backup_back(database, database_url, backed_up, declare):
    file, before = backed_up
    tables = await shape(database)
    entries = await chain(database)
    await change_much(database, declare)
    assert await everything(database) != before
    await database.close()
    done = await db("restore", file, "--force", url=database_url)
    assert done.returncode == 0, done
    assert await everything(database) == before
    assert await shape(database) == tables
    assert await chain(database) == entries
    await check_migration(database)


async def test_restore_into_an_empty_database_brings_the_backup_back(backed_up, other_url):
    file, before = backed_up
    done = await db("restore", file, url=other_url)
    assert done.returncode == 0, done
    assert newest_migration() in done.stdout
    other = Database(other_url, keyring=KEYRING)
    assert await everything(other) == before
    await chain(other)
    await other.close()


async def test_embedded_database_is_backed_up_and_restored_while_stopped(tmp_path, backed_up):
    file, before = backed_up
    state = tmp_path.parent / f"{tmp_path.name}-state"
    for parent in (tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)  # as root, the server runs as another user
    done = await db("restore", file, state=str(state))
    assert done.returncode == 0, done
    again = tmp_path / "again.backup"
    assert (await db("backup", again, state=str(state))).returncode == 0
    assert again.stat().st_size > 0
    assert_refused(await db("restore", again, state=str(state)), "tables", "--force")
    assert before["fleet"]


@pytest.mark.timeout(300)
async def test_replica_that_starts_after_a_restore_serves(database, database_url, backed_up, declare, until):
    file, _ = backed_up
    await change_much(database, declare)
    await database.close()
    assert (await db("restore", file, "--force", url=database_url)).returncode == 0
    port, xds_port = free_ports(2)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXITPLANE_")}
    settings = {
        **KEY_SETTING,
        "EXITPLANE_DATABASE_URL": database_url,
        "EXITPLANE_API_LISTEN": f"127.0.0.1:{port}",
        "EXITPLANE_XDS_LISTEN": f"127.0.0.1:{xds_port}",
    }
    serving = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", "serve", env={**kept, **settings}, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await until(lambda: serving.returncode is not None or asyncio.to_thread(ready, port), timeout_s=150)
        assert serving.returncode is None
    finally:
        with suppress(ProcessLookupError):
            serving.terminate()
        code = await serving.wait()
    assert code == 0


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as reply:
            return reply.status == 200
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


# -- later revisions are not confused with earlier ones ---------------------------------------------------------------


async def test_replica_with_a_later_revision_loads_everything_after_a_restore(
    database, database_url, backed_up, declare
):
    """The replica was cut off from the database meanwhile; it never publishes a lower revision."""
    file, _ = backed_up
    await change_much(database, declare)
    known = await worlds.load(database)
    await database.close()
    assert (await db("restore", file, "--force", url=database_url)).returncode == 0
    assert await worlds.catch_up(database, known) is None
    world = await worlds.load(database)
    assert world.revision == known.revision + LEAP
    assert sorted(fleet.name for fleet in world.fleets.values()) == ["one", "two"]
    async with write(database) as unit:
        await declare.fleet(unit, "afterwards")
    caught_up = await worlds.catch_up(database, world)
    assert caught_up is not None
    assert caught_up[0] == await worlds.load(database)


async def test_restore_skips_revisions_that_a_lost_database_may_have_used(backed_up, other_url):
    file, _ = backed_up
    assert (await db("restore", file, url=other_url)).returncode == 0
    other = Database(other_url, keyring=KEYRING)
    assert await worlds.current_revision(other) == 2 + LEAP
    await other.close()


async def test_event_reader_from_after_the_backup_gets_events_gone(database, database_url, backed_up, declare):
    file, _ = backed_up
    async with database.session() as session:
        at_backup = await events.newest_id(session)
    await change_much(database, declare)
    async with database.session() as session:
        later = await events.newest_id(session)
    await database.close()
    assert (await db("restore", file, "--force", url=database_url)).returncode == 0
    async with write(database) as unit:
        await declare.fleet(unit, "afterwards")
    async with database.session() as session:
        reading = await events.read(session, at_backup, 10)
    assert {event.detail["name"] for event in reading.events} == {"afterwards", "clients"}
    assert all(event.id > later + LEAP // 2 for event in reading.events)
    with pytest.raises(EventsGone):
        async with database.session() as session:
            await events.read(session, later, 10)


async def test_restore_ends_all_logins(database, database_url, backed_up):
    file, _ = backed_up
    await database.close()
    assert (await db("restore", file, "--force", url=database_url)).returncode == 0
    async with database.session() as session:
        assert (await session.execute(select(SessionRow))).first() is None
        assert (await session.execute(select(OperatorRow))).scalar_one().name == "ada"


# -- the file ----------------------------------------------------------------------------------------------------------


async def test_backup_file_is_readable_by_its_owner_only(backed_up):
    file, _ = backed_up
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_backup_overwrites_nothing(backed_up, database_url):
    file, _ = backed_up
    before = file.read_bytes()
    assert_refused(await db("backup", file, url=database_url), str(file), "exists")
    assert file.read_bytes() == before


async def test_a_backup_that_fails_leaves_no_file(database_url, tmp_path, other_url):
    file = tmp_path / "none.backup"
    assert_refused(await db("backup", file, url=other_url), "empty")
    assert_refused(await db("backup", tmp_path / "no" / "folder", url=database_url), "cannot be created")
    assert_refused(await db("backup", file, state=str(tmp_path / "nothing")), "there is no database", "EXITPLANE_")
    unreachable = f"postgresql://nobody@/nothing?host={tmp_path}"
    assert_refused(await db("backup", file, url=unreachable), "cannot be reached")
    assert list(tmp_path.iterdir()) == []


async def test_interrupted_dump_leaves_no_file(database, database_url, tmp_path, declare):
    await fill(database, declare)
    file = tmp_path / "none.backup"
    connection = await database.connect()
    await connection.execute("CREATE FUNCTION fail() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1 / 0'")
    await connection.execute("CREATE MATERIALIZED VIEW broken AS SELECT 1 AS one WITH NO DATA")
    await connection.execute("CREATE ROLE helpless LOGIN")
    await connection.close()
    mine = parse_url(database_url).set(username="helpless")
    assert_refused(await db("backup", file, url=text_of(mine)), "permission denied")
    assert not file.exists()


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_restore_over_existing_data_needs_confirmation(database, database_url, backed_up, declare):
    file, _ = backed_up
    await change_much(database, declare)
    later = await everything(database)
    await database.close()
    assert_refused(await db("restore", file, url=database_url), "tables", "--force")
    assert await everything(database) == later


async def test_restore_under_a_running_control_plane_is_refused(database, database_url, backed_up, declare):
    file, _ = backed_up
    await worlds.load(database)
    for force in ((), ("--force",)):
        assert_refused(await db("restore", file, *force, url=database_url), "connected", "stop every control plane")


async def test_file_that_is_no_backup_is_refused_without_any_change(database, database_url, backed_up, tmp_path):
    _, before = backed_up
    await database.close()
    foreign = tmp_path / "foreign.backup"
    foreign.write_text("SELECT 1")
    assert_refused(await db("restore", foreign, "--force", url=database_url), "not a complete backup")
    foreign.write_bytes(foreign.read_bytes() + _DIGEST_MARKER + _digest_of(foreign).encode())
    assert_refused(await db("restore", foreign, "--force", url=database_url), "not a backup of Exitplane")
    assert_refused(await db("restore", tmp_path / "missing", "--force", url=database_url), "there is no file")
    assert_refused(await db("restore", tmp_path, "--force", url=database_url), "there is no file")
    assert await everything(database) == before


async def test_truncated_backup_changes_nothing(database, database_url, backed_up, declare, tmp_path):
    file, _ = backed_up
    whole = file.read_bytes()
    await change_much(database, declare)
    later = await everything(database)
    await database.close()
    torn = tmp_path / "torn.backup"
    half = len(whole) // 2
    for part in (b"", whole[:-1], whole[: half * 2 // 100 * 99], whole[:half], whole[:half] + b"x" + whole[half + 1 :]):
        torn.write_bytes(part)
        assert_refused(await db("restore", torn, "--force", url=database_url), "not a complete backup")
    assert await everything(database) == later


async def test_interrupted_restore_changes_nothing(database, database_url, backed_up, declare, tmp_path):
    file, _ = backed_up
    await change_much(database, declare)
    later = await everything(database)
    await database.close()
    # a checksum that matches the truncated dump, so that pg_restore fails in the middle of a table
    archive = file.read_bytes().partition(_DIGEST_MARKER)[0]
    torn = tmp_path / "torn.backup"
    torn.write_bytes(archive[: len(archive) // 2])
    torn.write_bytes(torn.read_bytes() + _DIGEST_MARKER + _digest_of(torn).encode())
    done = await db("restore", torn, "--force", url=database_url)
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    # and one that fails between two statements that are all valid
    real = _tools(0)
    (tmp_path / "psql").symlink_to(real / "psql")
    program = tmp_path / "pg_restore"
    program.write_text(f'#!/bin/sh\n{real}/pg_restore --schema-only "$@"\nexit 1\n')
    program.chmod(0o755)
    with pytest.raises(RestoreFailed, match="nothing was changed"):
        await asyncio.to_thread(
            _restore, parse_url(database_url), tmp_path, file, await _inspect(parse_url(database_url))
        )
    assert await everything(database) == later


async def test_a_backup_of_a_newer_version_is_refused(database, database_url, backed_up, tmp_path):
    connection = await database.connect()
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    await connection.close()
    await database.close()
    newer = tmp_path / "newer.backup"
    assert (await db("backup", newer, url=database_url)).returncode == 0
    assert_refused(
        await db("restore", newer, "--force", url=database_url), "9999", "the version of Exitplane that created it"
    )


async def test_older_backup_is_restored_and_hints_at_the_upgrade(postgres, database, database_url, tmp_path):
    file = tmp_path / "older.backup"
    async with new_database(postgres) as url:
        older = Database(url, keyring=KEYRING)
        await upgrade_to(older, "0003")
        connection = await older.connect()
        await connection.execute("INSERT INTO fleet VALUES ($1, 'old', now())", uuid4())
        await connection.close()
        await older.close()
        assert (await db("backup", file, url=url)).returncode == 0
    await database.close()
    done = await db("restore", file, "--force", url=database_url)
    assert (done.returncode, "exitplane db upgrade" in done.stdout) == (0, True), done
    assert_refused(await db("check", url=database_url), "0003", "exitplane db upgrade")
    assert (await db("upgrade", url=database_url)).returncode == 0
    async with database.session() as session:
        assert (await session.execute(select(FleetRow))).scalar_one().name == "old"
    await check_migration(database)


async def upgrade_to(database: Database, revision: str) -> None:
    def run(connection):
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    async with database.engine.begin() as connection:
        await connection.run_sync(run)


# -- PostgreSQL's own programs -----------------------------------------------------------------------------------------


def test_server_newer_than_all_client_programs_is_an_error_with_a_hint():
    with pytest.raises(Exception, match="postgresql-client-99") as caught:
        _tools(99)
    assert caught.value.code == "tool_missing"


def test_programs_on_the_path_are_used_when_bundled_ones_are_too_old(tmp_path, monkeypatch):
    program = tmp_path / "pg_dump"
    program.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 98.1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _tools(98) == tmp_path
    assert _tools(16) != tmp_path


def test_password_is_not_passed_as_an_argument():
    arguments, environment = _connection_arguments(parse_url("postgresql://me:hunter2@host:5433/name?sslmode=require"))
    assert arguments == ["--dbname=postgresql://me@host:5433/name?sslmode=require"]
    assert environment["PGPASSWORD"] == "hunter2"
