"""The models of the declared state as one document."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from pydantic import ConfigDict, Field

from api.features.certificates.schemas import CertificateIn
from api.features.exits.schemas import ExitIn
from api.features.fleets.schemas import FleetIn
from api.features.listeners.schemas import ListenerIn
from api.features.plans.schemas import PlanIn
from api.features.pools.schemas import PoolIn
from api.features.routes.schemas import RouteIn
from api.features.users.schemas import UserIn
from api.http.field_types import RequestModel, ResponseModel

Item = TypeVar("Item")
Items = Annotated[list[Item], Field(max_length=50_000)]
_EXAMPLE: dict[str, Any] = {
    "fleets": [{"name": "demo", "listener": {"address": "127.0.0.1", "port": 8080}}],
    "pools": [{"name": "us", "fleet": "demo", "country": "us"}],
}


class Declared(RequestModel):
    """The wanted state, whole or in part. A missing collection stays as it is. Items are identified by fleet and name."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    fleets: Items[FleetIn] | None = None
    plans: Items[PlanIn] | None = None
    pools: Items[PoolIn] | None = None
    certificates: Items[CertificateIn] | None = None
    listeners: Items[ListenerIn] | None = None
    exits: Items[ExitIn] | None = None
    routes: Items[RouteIn] | None = None
    users: Items[UserIn] | None = None


class StepOut(ResponseModel):
    """A change of one item."""

    action: Literal["created", "changed", "deleted"]
    kind: str
    id: UUID
    fleet: str | None = Field(description="null: the item is a fleet.")
    name: str
    changes: dict[str, tuple[Any, Any]] = Field(description="The old and new value of each changed field.")


class AppliedOut(ResponseModel):
    steps: list[StepOut] = Field(description="The changes in the order of execution; empty: nothing had to change.")
    unchanged: int
