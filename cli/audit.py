"""`exitplane audit`: who did what, and whether anybody changed that afterwards."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import ColumnElement
from sqlmodel import col

from cli.local_database import open_database, run
from model.errors import ExitplaneError
from model.repositories.audit import MAX_FINDINGS, ChainVerdict, Checkpoint, read
from model.repositories.audit import verify as check
from model.schema_version import check_migration
from model.tables import AuditRow

audit = typer.Typer(help="Check the audit, or export it.", no_args_is_help=True)


class BadCheckpoint(ExitplaneError):
    code = "bad_checkpoint"


@audit.command("verify")
def audit_verify(
    *,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="A file that is compared with the chain if it is there, and then holds its end. "
            "Keep it where who changes the database cannot: a chain that was rewritten whole is found by it alone."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that no entry was changed, removed or moved; ends with 1 and says which, if one was."""
    known = _read_checkpoint(checkpoint) if checkpoint and checkpoint.exists() else None
    verdict = run(_verify(known))
    if verdict.ok and checkpoint is not None:
        _write_checkpoint(checkpoint, verdict.end)
    if as_json:
        print(json.dumps({"ok": verdict.ok, **asdict(verdict)}, indent=2))
    else:
        _show(verdict)
    raise typer.Exit(0 if verdict.ok else 1)


@audit.command("export")
def audit_export(
    *,
    since: Annotated[datetime | None, typer.Option(help="From this time on (UTC).")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before this time (UTC).")] = None,
    kind: Annotated[str | None, typer.Option(help="Of one kind of thing: pool, operator, …")] = None,
    action: Annotated[str | None, typer.Option(help="Of one action: created, login_failed, …")] = None,
) -> None:
    """Print the entries, the oldest first, a line of JSON each."""
    which: list[ColumnElement[bool]] = []
    if since is not None:
        which.append(col(AuditRow.at) >= _as_utc(since))
    if until is not None:
        which.append(col(AuditRow.at) < _as_utc(until))
    if kind is not None:
        which.append(col(AuditRow.kind) == kind)
    if action is not None:
        which.append(col(AuditRow.action) == action)
    run(_export(which))


async def _verify(checkpoint: Checkpoint | None) -> ChainVerdict:
    async with open_database() as database:
        await check_migration(database)
        async with database.session() as session:
            return await check(session, checkpoint)


async def _export(which: list[ColumnElement[bool]]) -> None:
    async with open_database() as database:
        await check_migration(database)
        async with database.session() as session:
            async for row in read(session, *which):
                print(row.model_dump_json())


def _show(verdict: ChainVerdict) -> None:
    if verdict.ok:
        print(f"ok: {verdict.count} entries, the last is {verdict.end.sequence} with hash {verdict.end.hash or 'none'}")
        return
    for finding in verdict.findings:
        print(f"{finding.fault}: {finding.message}")
    if len(verdict.findings) == MAX_FINDINGS:
        print("and maybe more")
    print(f"the audit was changed: {verdict.count} entries were read", file=sys.stderr)


def _read_checkpoint(path: Path) -> Checkpoint:
    try:
        said = json.loads(path.read_text())
        if not isinstance(said["sequence"], int) or said["sequence"] < 0:
            raise TypeError(said["sequence"])  # noqa: TRY301 - one refusal for all that is wrong with it
        return Checkpoint(said["sequence"], str(said["hash"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadCheckpoint(f"{path} is no checkpoint ({error})", hint="correct --checkpoint, or remove it") from error


def _write_checkpoint(path: Path, end: Checkpoint) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(asdict(end)) + "\n")
        partial.replace(path)
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be written ({error.strerror})", hint="correct --checkpoint") from error


def _as_utc(given: datetime) -> datetime:
    return given.replace(tzinfo=UTC) if given.tzinfo is None else given
