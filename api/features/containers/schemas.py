"""Containers of exits, as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from api.features.pools.container_schemas import ContainersStateOut
from api.http.field_types import ResponseModel
from model.exit_states import ExitState

Verb = Literal["start", "stop", "restart"]


class ContainerCommandOut(ResponseModel):
    """A command for a container. The keeper with the container engine executes it within seconds."""

    id: UUID
    container: str
    verb: Verb
    asked_at: datetime


class ContainerCommandsOut(ResponseModel):
    """Commands in the order of their execution. A restart of a pool waits until the previous container serves again."""

    commands: list[ContainerCommandOut]


class LastCommandOut(ResponseModel):
    verb: Verb
    asked_at: datetime
    done_at: datetime | None = Field(description="null: it is not executed yet.")
    error: str = Field(description="The reason why it failed; empty: it did not.")


class ContainerOut(ResponseModel):
    """A container, as the keeper last saw it."""

    name: str
    pool: str
    slot: int
    state: Literal["created", "running", "ended", "missing"]
    status: str = Field(description="The engine's description of a container that does not run.")
    stopped: bool = Field(description="true: an operator stopped it.")
    started_at: datetime
    leaving_since: datetime | None = Field(description="The time since which it drains before removal; null: it stays.")
    exit_id: UUID | None = Field(description="null: its exit has not enrolled yet.")
    exit_state: ExitState | None
    open_requests: int
    last_command: LastCommandOut | None


class ContainersOut(ResponseModel):
    state: ContainersStateOut | None
    containers: list[ContainerOut]


class LogsOut(ResponseModel):
    container: str
    text: str = Field(description="The last lines of stdout and stderr.")
