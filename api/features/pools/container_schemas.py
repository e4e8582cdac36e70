"""The containers of a pool's exits, as fields of the pool."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from api.http.field_types import Host, Port, RequestModel, ResponseModel, Text
from api.http.validators import bad_value
from model.stored_containers import DRAIN_S, MAXIMUM

_ITEMS_MAX: Final = 50
_IMAGE: Final = re.compile(r"[a-zA-Z0-9][\w.:/@-]{0,254}", re.ASCII)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII)
_FILE: Final = re.compile(r"[a-zA-Z0-9_][\w.-]{0,99}", re.ASCII)
_NETWORK: Final = re.compile(r"[a-zA-Z0-9][\w.-]{0,99}", re.ASCII)
_SECRET_NAME: Final = re.compile(r"PASS|SECRET|TOKEN|PRIVATE|CREDENTIAL|API_?KEY", re.IGNORECASE)
_HOST_NETWORKS: Final = ("host", "none")


def _check_image(value: str) -> str:
    if not _IMAGE.fullmatch(value):
        raise bad_value(
            "bad_image", "this is not an image name", "send a name that the engine knows: registry/name:tag"
        )
    return value


def _check_variable(value: str) -> str:
    if not _VARIABLE.fullmatch(value):
        raise bad_value(
            "bad_variable", "this is not a variable name", "use letters, digits and _, and begin with no digit"
        )
    if _SECRET_NAME.search(value) and not value.upper().endswith("FILE"):
        hint = "list the file in `secrets`, and set NAME_FILE to its path /run/secrets/<file>"
        raise bad_value("inline_secret", "the environment may hold no secret", hint)
    return value


def _check_file(value: str) -> str:
    if not _FILE.fullmatch(value) or ".." in value:
        raise bad_value("bad_file", "this is not a plain file name", "send a name without folders")
    return value


def _check_network(value: str) -> str:
    if value in _HOST_NETWORKS or not _NETWORK.fullmatch(value):
        hint = "send the name of one of the engine's networks; an exit never uses the host's"
        raise bad_value("bad_network", "an exit cannot use this network", hint)
    return value


Image = Annotated[Text, AfterValidator(_check_image), Field(max_length=255)]
Argument = Annotated[Text, Field(max_length=1_000)]
Variable = Annotated[Text, AfterValidator(_check_variable), Field(max_length=100)]
Network = Annotated[Text, AfterValidator(_check_network), Field(max_length=100)]
FileName = Annotated[Text, AfterValidator(_check_file), Field(max_length=100)]
ContainerCount = Annotated[int, Field(ge=0, le=MAXIMUM)]


class ContainersIn(RequestModel):
    """The number of exits of a pool that run in containers, and the container that each runs in."""

    minimum: ContainerCount
    maximum: ContainerCount = Field(description="At least `minimum`. Draining exits count too.")
    image: Image = Field(
        description="A name that the engine knows, of those that the fleet may use. The keeper does not pull it."
    )
    command: list[Argument] = Field(
        default=[], max_length=_ITEMS_MAX, description="Empty: the image's own command. Others must be allowed."
    )
    environment: dict[Variable, Argument] = Field(
        default={},
        max_length=_ITEMS_MAX,
        description="No secrets: send them as `secrets`. EXITPLANE_AGENT_* variables are allowed.",
    )
    secrets: list[FileName] = Field(
        default=[],
        max_length=_ITEMS_MAX,
        description="Files in the fleet's folder below EXITPLANE_CONTAINER_SECRETS on the engine's host, mounted at /run/secrets/<name>.",
    )
    capabilities: list[Literal["NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"]] = Field(default=["NET_ADMIN"], max_length=3)
    devices: list[Literal["/dev/net/tun"]] = Field(default=["/dev/net/tun"], max_length=1)
    network: Network | None = Field(default=None, description="A network of the engine; null: its default.")
    address: Host | None = Field(
        default=None,
        description="The host at which gateways reach the published ports: the first container has `port`, the next "
        "`port` + 1. null: gateways reach each container by its name in the network, at `port`.",
    )
    port: Port = 8443
    requests_per_exit: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None,
        description="The largest average of open requests per exit, for scaling; null: there are `minimum` containers.",
    )
    drain_s: Annotated[int, Field(ge=0, le=86_400)] = Field(
        default=DRAIN_S, description="Seconds that a draining exit may take to finish its open connections."
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> ContainersIn:
        if self.maximum < self.minimum:
            raise bad_value("bad_bounds", "the maximum is below the minimum", "raise `maximum`, or lower `minimum`")
        if self.address is not None and self.port + self.maximum - 1 > 65_535:
            raise bad_value("bad_ports", "there are fewer than `maximum` ports from `port` on", "lower `port`")
        return self


class ContainersStateOut(ResponseModel):
    """The state of a pool's containers."""

    wanted: int
    running: int
    error: str = Field(description="The current error, with its hint; empty: none.")
    error_since: datetime | None
