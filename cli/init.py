"""`exitplane init`: the first admin."""

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
from model.audit_log import Actor, AuditEntry, append
from model.errors import ExitplaneError
from model.repositories import operators
from model.schema_version import check_migration
from model.tables import ApiKeyRow, OperatorRow

KEY_NAME = "init"


class AdminExists(ExitplaneError):
    code = "admin_exists"


class BadAdmin(ExitplaneError):
    code = "bad_admin"


class FileInTheWay(ExitplaneError):
    code = "file_in_the_way"


@dataclass(frozen=True, slots=True)
class _InitOptions:
    name: str | None
    generate: bool
    password_file: Path | None
    force: bool


def init(
    *,
    name: Annotated[str | None, typer.Option(help="The admin's name; unset: it is asked for.")] = None,
    generate: Annotated[bool, typer.Option("--generate", help="Make a password, and print it this once.")] = False,
    password_file: Annotated[Path | None, typer.Option(help="A file that holds the password.")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Make an API key of theirs, too, into this file (mode 0600), for scripts.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Add one although there is one, and replace the file of an API key.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make the first admin, in the database of this host's control plane or that of EXITPLANE_DATABASE_URL.

    The password is asked for twice, unless it is generated or in a file. There is no default one.
    """
    made = run(_init(_InitOptions(name, generate, password_file, force), api_key_file))
    if as_json:
        print(json.dumps(made))
        return
    print(f"{made['name']} is an admin")
    if made.get("password"):
        print(f"password: {made['password']}  (shown this once)")
    if made.get("api_key_file"):
        print(f"an API key is in {made['api_key_file']}; programs read it by EXITPLANE_API_KEY_FILE")


async def _init(wish: _InitOptions, api_key_file: Path | None) -> dict[str, str]:
    async with open_database() as database:
        await check_migration(database)
        async with database.session() as session:
            _refuse_another(await operators.count_admins(session), force=wish.force)
        admin = _ask(wish)
        now, key = datetime.now(UTC), new_key()
        hashed = await Argon2Hasher().make(admin.password or "")
        row = OperatorRow(name=admin.name, role=admin.role, password_hash=hashed, created_at=now)
        with _written(api_key_file, key, force=wish.force):
            try:
                async with database.session() as session:
                    await operators.lock_admins(session)
                    _refuse_another(await operators.count_admins(session), force=wish.force)
                    await operators.save(session, row)
                    made = [AuditEntry("created", "operator", str(row.id), detail={"by": "exitplane init"})]
                    if api_key_file is not None:
                        stored = ApiKeyRow(
                            operator_id=row.id, name=KEY_NAME, digest=digest_of(key), role="admin", created_at=now
                        )
                        await operators.save(session, stored)
                        made.append(AuditEntry("created", "api-key", str(stored.id), detail={"by": "exitplane init"}))
                    await append(session, Actor(), made)
            except IntegrityError as error:
                raise BadAdmin(f"there is an operator {admin.name!r}", hint="choose another --name") from error
    told = {"id": str(row.id), "name": row.name}
    if wish.generate:
        told["password"] = admin.password or ""
    if api_key_file is not None:
        told["api_key_file"] = str(api_key_file)
    return told


def _refuse_another(admins: int, *, force: bool) -> None:
    if admins and not force:
        hint = "let them make others (POST /api/v1/operators), or give --force if nobody can log in any more"
        raise AdminExists("there is an admin", hint=hint)


def _ask(wish: _InitOptions) -> OperatorIn:
    """The name and the password, by the rules of the API. Raises BadAdmin."""
    name = wish.name or _prompt("Name of the admin", "--name")
    try:
        admin = OperatorIn(name=name, role="admin", password=_password(wish))
        refuse_weak(admin.password or "", admin.name)
    except ValidationError as error:
        raise _refused(invalid([{**each, "loc": ("body", *each["loc"])} for each in error.errors()])) from error
    except Problem as problem:
        raise _refused(problem) from problem
    return admin


def _refused(problem: Problem) -> BadAdmin:
    return BadAdmin(problem.message.removeprefix("/"), hint=problem.hint)


def _password(wish: _InitOptions) -> str:
    if wish.generate:
        return secrets.token_urlsafe(18)
    if wish.password_file is None:
        return _prompt("Password", "--generate or --password-file", hidden=True)
    try:
        return wish.password_file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadAdmin(f"{wish.password_file} cannot be read ({error})", hint="correct --password-file") from error


def _prompt(what: str, option: str, *, hidden: bool = False) -> str:
    if not sys.stdin.isatty():
        raise BadAdmin(f"there is no terminal to ask for the {what.lower()}", hint=f"give {option}")
    asked: str = typer.prompt(what, hide_input=hidden, confirmation_prompt=hidden)
    return asked


@contextmanager
def _written(path: Path | None, content: str, *, force: bool) -> Iterator[None]:
    """Have a file of mode 0600, if the block ends well; that it can be made is known before."""
    if path is None:
        yield
        return
    if path.exists() and not force:
        raise FileInTheWay(f"{path} is there already", hint="name another --api-key-file, or give --force")
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise FileInTheWay(f"{path} cannot be written ({error.strerror})", hint="correct --api-key-file") from error
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(content + "\n")
        yield
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
