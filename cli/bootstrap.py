"""`exitplane bootstrap`: what an Envoy that no agent runs starts from."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
import yaml

from agent.config.option_parsing import BadSetting, read_endpoint
from agent.config.state_dir import StateDir
from agent.control.enrolment import Enrolment, load
from agent.envoy.bootstrap import CONNECTIONS_MAX, UNUSED_COLLECTOR, Bootstrap, render
from model.endpoint import Endpoint
from model.entities import Role


class Format(StrEnum):
    YAML = "yaml"
    JSON = "json"


def bootstrap(
    *,
    role: Annotated[Role, typer.Argument(help="What the Envoy does.")],
    xds: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT of the control plane's xDS server; several are dialled in turn."),
    ] = None,
    node_id: Annotated[UUID | None, typer.Option(help="The id that enrolment gave.")] = None,
    fleet_id: Annotated[UUID | None, typer.Option(help="The id of its fleet.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="An agent's state folder: ids and xDS server come from its enrolment.")
    ] = None,
    otlp: Annotated[str | None, typer.Option(help="HOST:PORT that traces go to (OTLP over gRPC).")] = None,
    max_downstream_connections: Annotated[
        int, typer.Option(min=1, help="Connections that Envoy takes before it refuses more.")
    ] = CONNECTIONS_MAX,
    output: Annotated[Format, typer.Option("--format", help="What to print.")] = Format.YAML,
) -> None:
    """Print the bootstrap that an Envoy of this role starts from.

    Start Envoy from the state folder: the bootstrap, and whatever the control plane sends later, name files relative to
    the folder that Envoy is started in. Its certificate and key are in secrets/identity.yaml, the authority in
    secrets/authority.yaml, as `exitplane agent` writes them; Envoy reloads them when they are replaced by a rename.

    For example: cd STATE && exitplane bootstrap gateway --state . > bootstrap.yaml && envoy -c bootstrap.yaml
    """
    enrolment = None if state is None else _enrolment(state, role)
    wanted = Bootstrap(
        role=role,
        node_id=_given("--node-id", node_id, enrolment.id if enrolment else None),
        fleet_id=_given("--fleet-id", fleet_id, enrolment.fleet_id if enrolment else None),
        xds=_control_planes(xds or [], enrolment),
        otlp=UNUSED_COLLECTOR if otlp is None else read_endpoint("--otlp", otlp),
        max_downstream_connections=max_downstream_connections,
        relayed=False,
    )
    rendered = render(wanted)
    text = yaml.safe_dump(rendered, sort_keys=False) if output is Format.YAML else json.dumps(rendered, indent=2)
    sys.stdout.write(text.rstrip("\n") + "\n")


def _enrolment(state: Path, role: Role) -> Enrolment:
    enrolment = load(StateDir(state))
    if enrolment is None:
        raise BadSetting(f"--state {state}: nothing enrolled there yet", hint="start `exitplane agent` there first")
    if enrolment.role is not role:
        raise BadSetting(f"--state {state} belongs to a proxy of role {enrolment.role}", hint="name its own role")
    return enrolment


def _given(option: str, value: UUID | None, known: UUID | None) -> UUID:
    if value is None and known is None:
        raise BadSetting(f"{option} is missing", hint=f"add {option}, or --state of an agent that has enrolled")
    found = value or known
    assert found is not None
    return found


def _control_planes(xds: list[str], enrolment: Enrolment | None) -> tuple[Endpoint, ...]:
    if xds:
        return tuple(read_endpoint("--xds", text) for text in xds)
    if enrolment is None:
        raise BadSetting("--xds is missing", hint="add --xds HOST:PORT, or --state of an agent that has enrolled")
    return (enrolment.xds,)
