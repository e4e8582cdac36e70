"""The commands `exitplane apply`, `diff` and `export`, for the declared state as files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from cli.api_command import DEFAULT_API, Api, AsJson, as_json_text, print_error, print_json, run
from client.errors import ApiRefused
from model.errors import ExitplaneError

if TYPE_CHECKING:
    from uuid import UUID

    from pydantic import BaseModel

    from api.features.declared.schemas import AppliedOut
    from api.features.proxies.schemas import ProxyOut
    from api.kernel.dry_run import DryRunOut
    from cli.declared.documents import Documents
    from client import Client, ConvergenceTally
    from client.collection import WriteOptions

SAME, DIFFERENT, ERROR = 0, 1, 2
"""The exit statuses of diff(1)."""
REJECTED: Final = 3
Files = Annotated[
    list[str],
    typer.Option("-f", "--file", help="A YAML file, a folder of them, or - for standard input. Repeatable."),
]
Only = Annotated[
    str | None, typer.Option(help="Allow only this fleet in the files, and prune nothing of other fleets.")
]
Prune = Annotated[
    bool, typer.Option("--prune", help="Delete what the files do not contain, in their collections and fleets.")
]
Approve = Annotated[
    Literal["shrink"] | None,
    typer.Option(help="shrink: allow a change that leaves less than half of a fleet's pools or healthy exits."),
]


class ApplyNotConfirmed(ExitplaneError):
    code = "not_confirmed"


class ExportNotWritten(ExitplaneError):
    code = "export_not_written"


@dataclass(frozen=True, slots=True)
class _ApplyOptions:
    """The options that `apply` and `diff` send to the API."""

    documents: Documents
    fleet: str | None
    prune: bool
    approve: Literal["shrink"] | None = None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The steps of an application, and the answers of the proxies to it."""

    applied: AppliedOut
    revision: int | None = None
    tally: ConvergenceTally | None = None
    rejections: list[str] = field(default_factory=list)


def apply(
    *,
    file: Files,
    fleet: Only = None,
    prune: Prune = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")] = False,
    wait: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=30,
            metavar="SECONDS",
            help="Wait until the proxies have answered; exits with 3 if one rejects the change.",
        ),
    ] = None,
    approve: Approve = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Make the declared state match files: all changes in one revision, or none.

    Repeating it changes nothing more. Collections that the files do not contain stay as they are, and nothing is deleted
    without --prune. Exits with 0 after success, 1 after a refusal, and 3 when it was applied but proxies reject it.

    For example:

      exitplane apply -f fleets/ --dry-run

      exitplane apply -f fleets/ --prune --yes --wait 30

      exitplane export --fleet demo | sed s/8080/8081/ | exitplane apply -f -
    """
    from cli.declared.documents import load

    options = _ApplyOptions(load(file), fleet, prune, approve)
    if dry_run:
        steps, _ = run(api, lambda client: _try_apply(client, options))
        _print_outcome(_Outcome(steps), as_json=as_json, dry_run=True)
        return
    if prune and not yes:
        steps, _ = run(api, lambda client: _try_apply(client, options))
        _confirm_deletions(steps, interactive=sys.stdin.isatty() and not as_json)
    outcome = run(api, lambda client: _apply(client, options, wait))
    _print_outcome(outcome, as_json=as_json)
    if outcome.tally is not None and outcome.tally.rejected:
        raise typer.Exit(REJECTED)


def diff(
    *,
    file: Files,
    fleet: Only = None,
    prune: Prune = False,
    configuration: Annotated[
        bool, typer.Option("--configuration", help="Print the changes of each proxy's configuration, too.")
    ] = False,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Show what `apply` would change. Exits with 0 for no difference, 1 for a difference, and 2 for an error.

    For example:

      exitplane diff -f fleets/ --prune || test $? = 1
    """
    from cli.declared.change_report import format_configuration, format_steps
    from cli.declared.documents import load

    try:
        # a diff shows a shrinking change too; only `apply` needs the operator's approval
        options = _ApplyOptions(load(file), fleet, prune, "shrink")
        steps, dry_run = run(api, lambda client: _try_apply(client, options))
        proxies = run(api, _proxies) if configuration and not as_json else {}
    except ExitplaneError as error:
        print_error(error)
        raise typer.Exit(ERROR) from error
    if as_json:
        differences = {"configuration": _to_json(dry_run.differences)["configuration"]} if configuration else {}
        print_json(_to_json(steps) | differences)
    else:
        for line in format_steps(steps.steps):
            print(line)
        if configuration:
            for line in format_configuration(dry_run.differences.configuration, proxies):
                print(line)
    raise typer.Exit(DIFFERENT if steps.steps else SAME)


def export(
    *,
    fleet: Annotated[str | None, typer.Option(help="Export only this fleet, by name or id.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write to this file instead of standard output.")
    ] = None,
    api: Api = DEFAULT_API,
    as_json: AsJson = False,
) -> None:
    """Print the declared state as YAML that `apply` accepts, in a stable order.

    Certificates are not exported, because their keys are never shown; listeners refer to them by name.

    For example:

      exitplane export -o state.yaml && git diff state.yaml
    """
    from cli.declared.yaml_output import as_yaml

    declared = run(api, lambda client: client.json.get("/declared", fleet=fleet, defaults=as_json))
    text = as_json_text(declared) + "\n" if as_json else as_yaml(declared)
    if output is None:
        sys.stdout.write(text)
    else:
        _write(output, text)


async def _try_apply(client: Client, options: _ApplyOptions) -> tuple[AppliedOut, DryRunOut]:
    with _locating_errors(options.documents):
        return await client.declared.try_apply(
            options.documents.document, prune=options.prune, fleet=options.fleet, approve=options.approve
        )


async def _apply(client: Client, options: _ApplyOptions, wait_s: int | None) -> _Outcome:
    from cli.declared.change_report import format_rejections
    from client import collect

    write: WriteOptions = {"approve": options.approve}
    if wait_s is not None:
        write["wait_s"] = wait_s
    with _locating_errors(options.documents):
        reply = await client.declared.apply(
            options.documents.document, prune=options.prune, fleet=options.fleet, **write
        )
    rejections: list[str] = []
    if reply.proxies is not None and reply.proxies.rejected:
        rejections = list(format_rejections(await collect(client.proxies.list())))
    return _Outcome(reply.value, reply.revision, reply.proxies, rejections)


async def _proxies(client: Client) -> dict[UUID, ProxyOut]:
    return {proxy.id: proxy async for proxy in client.proxies.list()}


@contextmanager
def _locating_errors(documents: Documents) -> Iterator[None]:
    """Add file and line to the field errors of a refusal. Raises BadDocument instead of ApiRefused then."""
    try:
        yield
    except ApiRefused as refused:
        if any(documents.find_position(error.field) for error in refused.errors):
            raise documents.error_of(refused.errors) from refused
        raise


def _confirm_deletions(steps: AppliedOut, *, interactive: bool) -> None:
    """Ask before items are deleted. Raises ApplyNotConfirmed for a no, and without a terminal."""
    from cli.declared.change_report import format_steps

    deleted = [step for step in steps.steps if step.action == "deleted"]
    if not deleted:
        return
    items = f"{len(deleted)} item{'s' if len(deleted) > 1 else ''}"
    if not interactive:
        raise ApplyNotConfirmed(
            f"this would delete {items}, so nothing was changed", hint="check with --dry-run, then add --yes"
        )
    for line in format_steps(deleted):
        print(line, file=sys.stderr)
    if not typer.confirm(f"Delete {items}?", err=True):
        raise ApplyNotConfirmed("nothing was changed")


def _print_outcome(outcome: _Outcome, *, as_json: bool, dry_run: bool = False) -> None:
    from cli.declared.change_report import format_counts, format_steps

    applied, tally = outcome.applied, outcome.tally
    if as_json:
        report = {**_to_json(applied), "revision": outcome.revision, "rejections": outcome.rejections}
        print_json({**report, "proxies": asdict(tally) if tally else None, "dry_run": dry_run})
        return
    for line in format_steps(applied.steps):
        print(line)
    result = "nothing was changed (dry run)" if dry_run else f"revision {outcome.revision}"
    print(f"{format_counts(applied)}; {result}")
    if tally is not None:
        counts = ", ".join(f"{count} {word}" for word, count in asdict(tally).items())
        print(f"proxies: {counts}")
    for line in outcome.rejections:
        print(line, file=sys.stderr)


def _to_json(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json")


def _write(path: Path, text: str) -> None:
    """Write a file atomically. Raises ExportNotWritten."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ExportNotWritten(
            f"{path} cannot be written ({error.strerror})", hint="give another file with -o"
        ) from error
