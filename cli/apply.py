"""`exitplane apply`, `diff` and `export`: the declared state as files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from cli.api_command import HERE, Api, AsJson, as_json_text, print_json, run, tell
from client.errors import ApiRefused
from model.errors import ExitplaneError

if TYPE_CHECKING:
    from uuid import UUID

    from pydantic import BaseModel

    from api.features.declared.schemas import AppliedOut
    from api.features.proxies.schemas import ProxyOut
    from api.kernel.dry_run import DryRunOut
    from cli.declared.documents import Documents
    from client import Client, Tally
    from client.collection import WriteOptions

SAME, DIFFERENT, TROUBLE = 0, 1, 2
"""As diff(1) ends."""
REJECTED: Final = 3
Files = Annotated[
    list[str],
    typer.Option("-f", "--file", help="A YAML file, a folder of them, or - for standard input. May be repeated."),
]
Only = Annotated[
    str | None, typer.Option(help="The only fleet that the files may be about; nothing of another one is pruned.")
]
Prune = Annotated[
    bool, typer.Option("--prune", help="Delete what the files do not name, in their collections and fleets.")
]
Approve = Annotated[
    Literal["shrink"] | None,
    typer.Option(help="shrink: yes, although it leaves less than half of the pools or healthy exits of a fleet."),
]


class ApplyNotConfirmed(ExitplaneError):
    code = "not_confirmed"


class ExportFileExists(ExitplaneError):
    code = "file_in_the_way"


@dataclass(frozen=True, slots=True)
class _ApplyOptions:
    """What is asked of the API, whichever command does."""

    documents: Documents
    fleet: str | None
    prune: bool
    approve: Literal["shrink"] | None = None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What was done, and what the proxies made of it."""

    applied: AppliedOut
    revision: int | None = None
    tally: Tally | None = None
    rejections: list[str] = field(default_factory=list)


def apply(
    *,
    file: Files,
    fleet: Only = None,
    prune: Prune = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before things are deleted.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    wait: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=30,
            metavar="SECONDS",
            help="Wait until the proxies have answered; ends with 3 if any rejects it.",
        ),
    ] = None,
    approve: Approve = None,
    api: Api = HERE,
    as_json: AsJson = False,
) -> None:
    """Make what is declared what files say: all of it in one revision, or nothing.

    What is so already is left alone, so it may be run as often as you like. Collections that the files do not have stay as
    they are, and nothing is deleted without --prune. Ends with 0 when it is done, 1 when it was refused, and 3 when it was
    done but proxies reject it.

    For example:

      exitplane apply -f fleets/ --dry-run

      exitplane apply -f fleets/ --prune --yes --wait 30

      exitplane export --fleet demo | sed s/8080/8081/ | exitplane apply -f -
    """
    from cli.declared.documents import load

    wish = _ApplyOptions(load(file), fleet, prune, approve)
    if dry_run:
        steps, _ = run(api, lambda client: _try(client, wish))
        _tell(_Outcome(steps), as_json=as_json, dry_run=True)
        return
    if prune and not yes:
        steps, _ = run(api, lambda client: _try(client, wish))
        _confirm(steps, asks=sys.stdin.isatty() and not as_json)
    outcome = run(api, lambda client: _apply(client, wish, wait))
    _tell(outcome, as_json=as_json)
    if outcome.tally is not None and outcome.tally.rejected:
        raise typer.Exit(REJECTED)


def diff(
    *,
    file: Files,
    fleet: Only = None,
    prune: Prune = False,
    configuration: Annotated[
        bool, typer.Option("--configuration", help="Tell what of which proxies' configuration would change, too.")
    ] = False,
    api: Api = HERE,
    as_json: AsJson = False,
) -> None:
    """Tell what `apply` would do. Ends with 0 when there is no difference, 1 when there is one, and 2 in trouble.

    For example:

      exitplane diff -f fleets/ --prune || test $? = 1
    """
    from cli.declared.change_report import told_configuration, told_steps
    from cli.declared.documents import load

    try:
        # a diff is no less of one when it takes away too much; `apply` is where that is approved
        wish = _ApplyOptions(load(file), fleet, prune, "shrink")
        steps, tried = run(api, lambda client: _try(client, wish))
        proxies = run(api, _proxies) if configuration and not as_json else {}
    except ExitplaneError as error:
        tell(error)
        raise typer.Exit(TROUBLE) from error
    if as_json:
        differences = {"configuration": _plain(tried.differences)["configuration"]} if configuration else {}
        print_json(_plain(steps) | differences)
    else:
        for line in told_steps(steps.steps):
            print(line)
        if configuration:
            for line in told_configuration(tried.differences.configuration, proxies):
                print(line)
    raise typer.Exit(DIFFERENT if steps.steps else SAME)


def export(
    *,
    fleet: Annotated[str | None, typer.Option(help="Only this fleet, by its name or id.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write it to this file.")] = None,
    api: Api = HERE,
    as_json: AsJson = False,
) -> None:
    """Print what is declared, as YAML that `apply` takes, in an order that does not change.

    Certificates are not in it, for their keys are never shown; listeners name them.

    For example:

      exitplane export -o state.yaml && git diff state.yaml
    """
    from cli.declared.yaml_output import as_yaml

    declared = run(api, lambda client: client.plain.get("/declared", fleet=fleet, defaults=as_json))
    text = as_json_text(declared) + "\n" if as_json else as_yaml(declared)
    if output is None:
        sys.stdout.write(text)
    else:
        _write(output, text)


async def _try(client: Client, wish: _ApplyOptions) -> tuple[AppliedOut, DryRunOut]:
    with _placed(wish.documents):
        return await client.declared.try_apply(
            wish.documents.document, prune=wish.prune, fleet=wish.fleet, approve=wish.approve
        )


async def _apply(client: Client, wish: _ApplyOptions, wait_s: int | None) -> _Outcome:
    from cli.declared.change_report import told_rejections
    from client import collect

    given: WriteOptions = {"approve": wish.approve}
    if wait_s is not None:
        given["wait_s"] = wait_s
    with _placed(wish.documents):
        reply = await client.declared.apply(wish.documents.document, prune=wish.prune, fleet=wish.fleet, **given)
    rejections: list[str] = []
    if reply.proxies is not None and reply.proxies.rejected:
        rejections = list(told_rejections(await collect(client.proxies.list())))
    return _Outcome(reply.value, reply.revision, reply.proxies, rejections)


async def _proxies(client: Client) -> dict[UUID, ProxyOut]:
    return {proxy.id: proxy async for proxy in client.proxies.list()}


@contextmanager
def _placed(documents: Documents) -> Iterator[None]:
    """Say of a refusal in which file and line it is."""
    try:
        yield
    except ApiRefused as refused:
        if any(documents.where(error.field) for error in refused.errors):
            raise documents.told(refused.errors) from refused
        raise


def _confirm(steps: AppliedOut, *, asks: bool) -> None:
    """Raises NotConfirmed unless nothing is deleted, or somebody at the terminal says yes."""
    from cli.declared.change_report import told_steps

    deleted = [step for step in steps.steps if step.action == "deleted"]
    if not deleted:
        return
    things = f"{len(deleted)} thing{'s' if len(deleted) > 1 else ''}"
    if not asks:
        raise ApplyNotConfirmed(
            f"this deletes {things}, and nothing was done", hint="look at --dry-run, then add --yes"
        )
    for line in told_steps(deleted):
        print(line, file=sys.stderr)
    if not typer.confirm(f"Delete {things}?", err=True):
        raise ApplyNotConfirmed("nothing was done")


def _tell(outcome: _Outcome, *, as_json: bool, dry_run: bool = False) -> None:
    from cli.declared.change_report import told_steps, told_sum

    applied, tally = outcome.applied, outcome.tally
    if as_json:
        told = {**_plain(applied), "revision": outcome.revision, "rejections": outcome.rejections}
        print_json({**told, "proxies": asdict(tally) if tally else None, "dry_run": dry_run})
        return
    for line in told_steps(applied.steps):
        print(line)
    at = "nothing was done (dry run)" if dry_run else f"revision {outcome.revision}"
    print(f"{told_sum(applied)}; {at}")
    if tally is not None:
        counts = ", ".join(f"{count} {word}" for word, count in asdict(tally).items())
        print(f"proxies: {counts}")
    for line in outcome.rejections:
        print(line, file=sys.stderr)


def _plain(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json")


def _write(path: Path, text: str) -> None:
    """Into a file that is never there in part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ExportFileExists(f"{path} cannot be written ({error.strerror})", hint="correct -o") from error
