"""The command `exitplane bootstrap`, for an Envoy that no agent runs."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
import yaml

from agent.config.identity import Enrolment
from agent.config.option_parsing import BadSetting, read_endpoint, read_listen_address
from agent.config.state_dir import StateDir
from agent.control.enrolment import load
from agent.envoy.bootstrap import CONNECTIONS_MAX, UNUSED_COLLECTOR, Bootstrap, render
from model.endpoint import Endpoint
from model.entities import Role


class Format(StrEnum):
    YAML = "yaml"
    JSON = "json"


def bootstrap(
    *,
    role: Annotated[Role, typer.Argument(help="The role of the Envoy.")],
    xds: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT of the control plane's xDS server. Repeatable: Envoy tries them in order."),
    ] = None,
    node_id: Annotated[UUID | None, typer.Option(help="The id of the proxy, from its enrolment.")] = None,
    fleet_id: Annotated[UUID | None, typer.Option(help="The id of the proxy's fleet.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="An agent's state folder; ids and xDS server are taken from its enrolment.")
    ] = None,
    otlp: Annotated[str | None, typer.Option(help="HOST:PORT of the collector of traces (OTLP over gRPC).")] = None,
    metrics_listen: Annotated[
        str | None, typer.Option(help="ADDRESS:PORT at which Envoy offers GET /stats/prometheus, and nothing else.")
    ] = None,
    max_downstream_connections: Annotated[
        int, typer.Option(min=1, help="Connections that Envoy accepts at most.")
    ] = CONNECTIONS_MAX,
    output: Annotated[Format, typer.Option("--format", help="The format of the output.")] = Format.YAML,
) -> None:
    """Print the bootstrap configuration of an Envoy that no agent runs.

    Start Envoy in the state folder, because the bootstrap and the configuration from the control plane use relative paths.
    The files secrets/identity.yaml (certificate and key) and secrets/authority.yaml have the format that
    `exitplane agent` writes; Envoy reloads them when they are replaced by a rename.

    For example: cd STATE && exitplane bootstrap gateway --state . > bootstrap.yaml && envoy -c bootstrap.yaml
    """
    enrolment = None if state is None else _enrolment(state, role)
    settings = Bootstrap(
        role=role,
        node_id=_require("--node-id", node_id, enrolment.id if enrolment else None),
        fleet_id=_require("--fleet-id", fleet_id, enrolment.fleet_id if enrolment else None),
        xds=_control_planes(xds or [], enrolment),
        otlp=UNUSED_COLLECTOR if otlp is None else read_endpoint("--otlp", otlp),
        max_downstream_connections=max_downstream_connections,
        relayed=False,
        metrics=None if metrics_listen is None else read_listen_address("--metrics-listen", metrics_listen),
    )
    rendered = render(settings)
    text = yaml.safe_dump(rendered, sort_keys=False) if output is Format.YAML else json.dumps(rendered, indent=2)
    sys.stdout.write(text.rstrip("\n") + "\n")


def _enrolment(state: Path, role: Role) -> Enrolment:
    enrolment = load(StateDir(state))
    if enrolment is None:
        raise BadSetting(
            f"--state {state}: no proxy has enrolled there", hint="run `exitplane agent` with this folder first"
        )
    if enrolment.role is not role:
        raise BadSetting(
            f"--state {state} belongs to a proxy of role {enrolment.role}", hint=f"give the role {enrolment.role}"
        )
    return enrolment


def _require(option: str, value: UUID | None, enrolled: UUID | None) -> UUID:
    """Return the option's value, else that of the enrolment. Raises BadSetting without either."""
    found = value or enrolled
    if found is None:
        raise BadSetting(f"{option} is missing", hint=f"add {option}, or --state of an agent that has enrolled")
    return found


def _control_planes(xds: list[str], enrolment: Enrolment | None) -> tuple[Endpoint, ...]:
    if xds:
        return tuple(read_endpoint("--xds", text) for text in xds)
    if enrolment is None:
        raise BadSetting("--xds is missing", hint="add --xds HOST:PORT, or --state of an agent that has enrolled")
    return (enrolment.xds,)
