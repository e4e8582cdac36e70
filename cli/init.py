"""The command `exitplane init`, which creates the first admin."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError

from api.features.operators.schemas import OperatorIn
from api.http.problems import Problem, invalid
from api.runtime.passwords import Argon2Hasher, refuse_weak
from api.runtime.tokens import digest_of, new_key
from cli.local_database import open_database, run
from model import key_file
from model.audit_log import Actor, AuditEntry, append
from model.errors import ExitplaneError
from model.repositories import operators, sealed_values
from model.schema_version import check_migration
from model.settings import read_settings
from model.tables import ApiKeyRow, OperatorRow

KEY_NAME = "init"


class AdminExists(ExitplaneError):
    code = "admin_exists"


class BadAdmin(ExitplaneError):
    code = "bad_admin"


class KeyFileNotWritten(ExitplaneError):
    code = "key_file_not_written"


@dataclass(frozen=True, slots=True)
class _InitOptions:
    name: str | None
    generate: bool
    password_file: Path | None
    force: bool


def init(
    *,
    name: Annotated[str | None, typer.Option(help="The admin's name; the command asks for it by default.")] = None,
    generate: Annotated[bool, typer.Option("--generate", help="Generate a password, and print it once.")] = False,
    password_file: Annotated[
        Path | None, typer.Option(help="A file with the password; the command asks for it by default.")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="Create an API key of the admin, too, for scripts, and write it to this file (mode 0600)."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Create another admin although there is one, and replace an existing --api-key-file."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Create the first admin, in the database of this host's control plane or in that of EXITPLANE_DATABASE_URL.

    The command asks for the password twice, unless it is generated or in a file. There is no default password.
    """
    created = run(_init(_InitOptions(name, generate, password_file, force), api_key_file))
    if as_json:
        print(json.dumps(created))
        return
    print(f"{created['name']} is an admin")
    if created.get("password"):
        print(f"password: {created['password']}  (shown only once)")
    if created.get("api_key_file"):
        print(f"an API key is in {created['api_key_file']}; set EXITPLANE_API_KEY_FILE to use it")


async def _init(options: _InitOptions, api_key_file: Path | None) -> dict[str, str]:
    async with open_database() as database:
        await check_migration(database)
        async with database.session() as session:
            _check_no_admin(await operators.count_admins(session), force=options.force)
        admin = _read_admin(options)
        now, key = datetime.now(UTC), new_key()
        hashed = await Argon2Hasher().hash(admin.password or "")
        row = OperatorRow(name=admin.name, role=admin.role, password_hash=hashed, created_at=now)
        with _key_file(api_key_file, key, force=options.force):
            try:
                async with database.session() as session:
                    await operators.lock_admins(session)
                    _check_no_admin(await operators.count_admins(session), force=options.force)
                    await operators.save(session, row)
                    entries = [AuditEntry("created", "operator", str(row.id), detail={"by": "exitplane init"})]
                    if api_key_file is not None:
                        stored = ApiKeyRow(
                            operator_id=row.id, name=KEY_NAME, digest=digest_of(key), role="admin", created_at=now
                        )
                        await operators.save(session, stored)
                        entries.append(
                            AuditEntry("created", "api-key", str(stored.id), detail={"by": "exitplane init"})
                        )
                    await append(session, Actor(), entries)
            except IntegrityError as error:
                raise BadAdmin(f"there is already an operator {admin.name!r}", hint="choose another --name") from error
        if not await sealed_values.are_sealed(database):
            _create_key_file()
    created = {"id": str(row.id), "name": row.name}
    if options.generate:
        created["password"] = admin.password or ""
    if api_key_file is not None:
        created["api_key_file"] = str(api_key_file)
    return created


def _create_key_file() -> None:
    """Create the key file of the control plane unless there is one, or the keys are in the environment."""
    settings = read_settings()
    if settings.encryption_key is None:
        key_file.create(key_file.path_of(settings))


def _check_no_admin(admins: int, *, force: bool) -> None:
    if admins and not force:
        hint = "ask an admin to create others (POST /api/v1/operators), or add --force if no admin can log in"
        raise AdminExists("there is already an admin", hint=hint)


def _read_admin(options: _InitOptions) -> OperatorIn:
    """Read name and password from the options or the terminal, by the rules of the API. Raises BadAdmin."""
    name = options.name or _prompt("Name of the admin", "--name")
    try:
        admin = OperatorIn(name=name, role="admin", password=_password(options))
        refuse_weak(admin.password or "", admin.name)
    except ValidationError as error:
        raise _error_of(invalid([{**each, "loc": ("body", *each["loc"])} for each in error.errors()])) from error
    except Problem as problem:
        raise _error_of(problem) from problem
    return admin


def _error_of(problem: Problem) -> BadAdmin:
    return BadAdmin(problem.message.removeprefix("/"), hint=problem.hint)


def _password(options: _InitOptions) -> str:
    if options.generate:
        return secrets.token_urlsafe(18)
    if options.password_file is None:
        return _prompt("Password", "--generate or --password-file", hidden=True)
    try:
        return options.password_file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadAdmin(
            f"{options.password_file} cannot be read ({error})", hint="give another file with --password-file"
        ) from error


def _prompt(what: str, option: str, *, hidden: bool = False) -> str:
    if not sys.stdin.isatty():
        raise BadAdmin(f"there is no terminal to ask for the {what.lower()}", hint=f"give {option}")
    answer: str = typer.prompt(what, hide_input=hidden, confirmation_prompt=hidden)
    return answer


@contextmanager
def _key_file(path: Path | None, content: str, *, force: bool) -> Iterator[None]:
    """Write a file of mode 0600 after the block succeeds. Raises KeyFileNotWritten before it if that is impossible."""
    if path is None:
        yield
        return
    if path.exists() and not force:
        raise KeyFileNotWritten(f"{path} already exists", hint="name another --api-key-file, or add --force")
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise KeyFileNotWritten(
            f"{path} cannot be written ({error.strerror})", hint="name another --api-key-file"
        ) from error
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(content + "\n")
        yield
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
