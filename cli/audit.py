"""The command `exitplane audit`, which verifies and exports the audit log."""

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

audit = typer.Typer(help="Verify the audit log, or export it.", no_args_is_help=True)


class BadCheckpoint(ExitplaneError):
    code = "bad_checkpoint"


@audit.command("verify")
def audit_verify(
    *,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="A file to compare with the chain of hashes; after success it holds the chain's end. "
            "Keep it where those who can change the database cannot write: only it reveals a chain rewritten from its start."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Verify that no entry was changed, removed or moved. Exits with 1 and names the entries if one was."""
    known = _read_checkpoint(checkpoint) if checkpoint and checkpoint.exists() else None
    verdict = run(_verify(known))
    if verdict.ok and checkpoint is not None:
        _write_checkpoint(checkpoint, verdict.end)
    if as_json:
        print(json.dumps({"ok": verdict.ok, **asdict(verdict)}, indent=2))
    else:
        _print_verdict(verdict)
    raise typer.Exit(0 if verdict.ok else 1)


@audit.command("export")
def audit_export(
    *,
    since: Annotated[datetime | None, typer.Option(help="Export entries from this time on (UTC).")] = None,
    until: Annotated[datetime | None, typer.Option(help="Export entries before this time (UTC).")] = None,
    kind: Annotated[str | None, typer.Option(help="Export entries about one kind of object: pool, operator, …")] = None,
    action: Annotated[str | None, typer.Option(help="Export entries of one action: created, login_failed, …")] = None,
) -> None:
    """Print the entries as lines of JSON, the oldest first."""
    filters: list[ColumnElement[bool]] = []
    if since is not None:
        filters.append(col(AuditRow.at) >= _as_utc(since))
    if until is not None:
        filters.append(col(AuditRow.at) < _as_utc(until))
    if kind is not None:
        filters.append(col(AuditRow.kind) == kind)
    if action is not None:
        filters.append(col(AuditRow.action) == action)
    run(_export(filters))


async def _verify(checkpoint: Checkpoint | None) -> ChainVerdict:
    async with open_database() as database:
        await check_migration(database)
        async with database.session() as session:
            return await check(session, checkpoint)


async def _export(filters: list[ColumnElement[bool]]) -> None:
    async with open_database() as database:
        await check_migration(database)
        async with database.session() as session:
            async for row in read(session, *filters):
                print(row.model_dump_json())


def _print_verdict(verdict: ChainVerdict) -> None:
    if verdict.ok:
        print(f"ok: {verdict.count} entries, the last is {verdict.end.sequence} with hash {verdict.end.hash or 'none'}")
        return
    for finding in verdict.findings:
        print(f"{finding.fault}: {finding.message}")
    if len(verdict.findings) == MAX_FINDINGS:
        print("there may be more")
    print(f"the audit log was tampered with; {verdict.count} entries were read", file=sys.stderr)


def _read_checkpoint(path: Path) -> Checkpoint:
    try:
        stored = json.loads(path.read_text())
        if not isinstance(stored["sequence"], int) or stored["sequence"] < 0:
            raise TypeError(stored["sequence"])  # noqa: TRY301 - one error for everything that is wrong with the file
        return Checkpoint(stored["sequence"], str(stored["hash"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadCheckpoint(
            f"{path} is not a checkpoint ({error})", hint="give another file with --checkpoint, or remove this one"
        ) from error


def _write_checkpoint(path: Path, end: Checkpoint) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(asdict(end)) + "\n")
        partial.replace(path)
    except OSError as error:
        raise BadCheckpoint(
            f"{path} cannot be written ({error.strerror})", hint="give another file with --checkpoint"
        ) from error


def _as_utc(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at
