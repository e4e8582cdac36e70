"""Containers of exits, as the API takes and shows them."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, model_validator

from api.http.field_types import Host, Port, RequestModel, ResponseModel, Text
from api.http.validators import bad_value
from model.exit_states import ExitState
from model.stored_containers import DRAIN_S, MAXIMUM

_LISTED_MAX: Final = 50
_IMAGE: Final = re.compile(r"[a-zA-Z0-9][\w.:/@-]{0,254}", re.ASCII)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII)
_FILE: Final = re.compile(r"[a-zA-Z0-9_][\w.-]{0,99}", re.ASCII)
_NETWORK: Final = re.compile(r"[a-zA-Z0-9][\w.-]{0,99}", re.ASCII)
_SECRET: Final = re.compile(r"PASS|SECRET|TOKEN|PRIVATE|CREDENTIAL|API_?KEY", re.IGNORECASE)
_OF_HOST: Final = ("host", "none")


def _check_image(value: str) -> str:
    if not _IMAGE.fullmatch(value):
        raise bad_value("bad_image", "this is no image", "send a name as the engine knows it: registry/name:tag")
    return value


def _check_variable(value: str) -> str:
    if not _VARIABLE.fullmatch(value):
        raise bad_value("bad_variable", "this is no variable's name", "use letters, digits and _")
    if _SECRET.search(value) and not value.upper().endswith("FILE"):
        hint = "name the file in `secrets`, and its path /run/secrets/… in the variable's _FILE form"
        raise bad_value("inline_secret", "a secret does not belong into the environment", hint)
    return value


def _check_file(value: str) -> str:
    if not _FILE.fullmatch(value) or ".." in value:
        raise bad_value("bad_file", "this is no plain file name", "send a name without folders")
    return value


def _check_network(value: str) -> str:
    if value in _OF_HOST or not _NETWORK.fullmatch(value):
        hint = "name a network of the engine; an exit never has the host's"
        raise bad_value("bad_network", "this is no network for an exit", hint)
    return value


Image = Annotated[Text, AfterValidator(_check_image), Field(max_length=255)]
Argument = Annotated[Text, Field(max_length=1_000)]
Variable = Annotated[Text, AfterValidator(_check_variable), Field(max_length=100)]
Network = Annotated[Text, AfterValidator(_check_network), Field(max_length=100)]
FileName = Annotated[Text, AfterValidator(_check_file), Field(max_length=100)]
Number = Annotated[int, Field(ge=0, le=MAXIMUM)]
Verb = Literal["start", "stop", "restart"]


class ContainersIn(RequestModel):
    """How many exits of a pool run in containers, and what they are made of."""

    minimum: Number
    maximum: Number = Field(description="Not below `minimum`. Those that drain count too.")
    image: Image = Field(description="As the engine knows it; it is not pulled.")
    command: list[Argument] = Field(default=[], max_length=_LISTED_MAX, description="Empty: the image's own.")
    environment: dict[Variable, Argument] = Field(
        default={},
        max_length=_LISTED_MAX,
        description="No secrets: these are files. EXITPLANE_AGENT_* may be among them.",
    )
    secrets: list[FileName] = Field(
        default=[],
        max_length=_LISTED_MAX,
        description="Files of the engine's host, below EXITPLANE_CONTAINER_SECRETS, that are mounted at /run/secrets/<name>.",
    )
    capabilities: list[Literal["NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"]] = Field(default=["NET_ADMIN"], max_length=3)
    devices: list[Literal["/dev/net/tun"]] = Field(default=["/dev/net/tun"], max_length=1)
    network: Network | None = Field(default=None, description="A network of the engine; null: its default.")
    address: Host | None = Field(
        default=None,
        description="Where gateways reach the ports of all, which are published: the first has `port`, the next the one after. "
        "null: each by its own name in the network, with `port`.",
    )
    port: Port = 8443
    requests_per_exit: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None,
        description="How many open requests an exit should have, on average, at most; null: there are `minimum`.",
    )
    drain_s: Annotated[int, Field(ge=0, le=86_400)] = Field(
        default=DRAIN_S, description="How long an exit that goes may take to end what it has."
    )

    @model_validator(mode="after")
    def _is_in_order(self) -> ContainersIn:
        if self.maximum < self.minimum:
            raise bad_value("bad_bounds", "the maximum is below the minimum", "raise `maximum`, or lower `minimum`")
        if self.address is not None and self.port + self.maximum - 1 > 65_535:
            raise bad_value("bad_ports", "there are not so many ports from `port` on", "lower `port`")
        return self


class ContainersStateOut(ResponseModel):
    """How it stands with the containers of a pool."""

    wanted: int
    running: int
    error: str = Field(description="What is wrong, with its hint; empty: nothing.")
    error_since: datetime | None


class ContainerCommandOut(ResponseModel):
    """Something that was asked of a container. It is done by whoever has the engine, within seconds."""

    id: UUID
    container: str
    verb: Verb
    asked_at: datetime


class ContainerCommandsOut(ResponseModel):
    """In the order in which they are done: a restart waits until the one before serves."""

    wishes: list[ContainerCommandOut]


class LastCommandOut(ResponseModel):
    verb: Verb
    asked_at: datetime
    done_at: datetime | None = Field(description="null: not yet.")
    error: str = Field(description="Why it could not be done; empty: nothing was in the way.")


class ContainerOut(ResponseModel):
    """A container, as it was seen last."""

    name: str
    pool: str
    slot: int
    life: Literal["created", "running", "ended", "missing"]
    status: str = Field(description="The engine's words about one that does not run.")
    stopped: bool = Field(description="Whether an operator stopped it.")
    started_at: datetime
    leaving_since: datetime | None = Field(description="Since when it is drained, to be removed; null: it stays.")
    exit_id: UUID | None = Field(description="null: its exit did not enrol yet.")
    exit_state: ExitState | None
    open_requests: int
    last_wish: LastCommandOut | None


class ContainersOut(ResponseModel):
    state: ContainersStateOut | None
    containers: list[ContainerOut]


class LogsOut(ResponseModel):
    container: str
    text: str = Field(description="The last lines, of both streams.")
