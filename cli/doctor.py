"""The command `exitplane doctor`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from cli.credentials import api_ca
from cli.terminal import printable
from model.doctor import agent_host, control_plane
from model.doctor.findings import CheckFinding, Severity, as_json, error, examine, exit_status
from model.settings import BadSettings, read_settings

_NO_AGENT: Final = "no agent was found with this state folder, or another user's runs"


def doctor(
    *,
    agent: Annotated[
        Path | None,
        typer.Option("--agent", metavar="STATE", help="Examine the agent of this state folder, and its host."),
    ] = None,
    api: Annotated[
        str | None,
        typer.Option(envvar="EXITPLANE_API", help="The URL of the API; by default where this host's settings have it."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Show what is in order, too.")] = False,
    as_json_: Annotated[bool, typer.Option("--json", help="Print JSON, with all findings.")] = False,
) -> None:
    """Find weak settings, on the host of the control plane, or beside an agent, and say what to do.

    The control plane is found by the settings with which it runs: call this with its environment, as its user. It changes nothing.

    Exits with 0 if nothing is worse than a note, 1 for warnings, 2 for errors.
    """
    subject = "control-plane" if agent is None else "agent"
    findings = _examine_control_plane(api) if agent is None else _examine_agent(agent)
    if as_json_:
        print(json.dumps(as_json(subject, findings), indent=2, ensure_ascii=False))
    else:
        _print(findings, all_=all_)
    raise typer.Exit(exit_status(findings))


def _examine_control_plane(api: str | None) -> list[CheckFinding]:
    import asyncio

    from cli import control_plane_facts

    try:
        settings = read_settings()
    except BadSettings as bad:
        refused = error(bad.message, bad.hint)
        return [CheckFinding("settings", refused.severity, refused.summary, refused.hint)]
    schema, database, authority = asyncio.run(control_plane_facts.gather_database(settings))
    url = api or control_plane_facts.default_api(settings)
    answer = control_plane_facts.gather_api(url, authority, api_ca())
    return [
        *examine(control_plane.SETTINGS_CHECKS, control_plane_facts.gather_settings(settings)),
        *examine(control_plane.SCHEMA_CHECKS, schema),
        *examine(control_plane.DATABASE_CHECKS, database, unknown="the database cannot be read"),
        *examine(control_plane.API_CHECKS, answer),
    ]


def _examine_agent(state: Path) -> list[CheckFinding]:
    from cli import agent_facts

    folder, running = agent_facts.gather(state)
    return [
        *examine(agent_host.STATE_CHECKS, folder),
        *examine(agent_host.RUNNING_CHECKS, running, unknown=_NO_AGENT),
    ]


def _print(findings: Sequence[CheckFinding], *, all_: bool) -> None:
    """Print findings, the worst first, and their number."""
    for each in sorted(findings, key=lambda finding: -finding.severity):
        if each.severity > Severity.OK or all_:
            print(printable(f"{each.severity.name.lower():7} {each.check}: {each.summary}"))
            if each.hint:
                print(printable(f"        {each.hint}"))
    counts = {name: sum(each.severity is name for each in findings) for name in reversed(Severity)}
    names = {Severity.ERROR: "errors", Severity.WARNING: "warnings", Severity.NOTE: "notes", Severity.OK: "in order"}
    print(", ".join(f"{count} {names[severity]}" for severity, count in counts.items()))
