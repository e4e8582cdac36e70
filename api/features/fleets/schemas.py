"""Requests and responses of /fleets."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import ConfigDict, Field

from api.features.rejections.schemas import RejectedOut
from api.http.field_types import LoopbackAddress, Name, Port, RequestModel, ResponseModel, absent
from api.kernel.collections.schemas import ListQuery, Pattern

_EXAMPLE: dict[str, Any] = {"name": "demo", "listener": {"address": "127.0.0.1", "port": 8080}}


class FirstListenerIn(RequestModel):
    """The address and port at which the fleet's gateways accept clients."""

    address: LoopbackAddress
    port: Port


class FirstListenerPatch(RequestModel):
    address: LoopbackAddress = Field(default_factory=absent)
    port: Port = Field(default_factory=absent)


class FleetIn(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Name
    listener: FirstListenerIn | None = Field(
        default=None, description="The listener `clients`. null: create none, or leave an existing one unchanged."
    )


class FleetPatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"listener": {"port": 8081}}]})

    name: Name = Field(default_factory=absent)
    listener: FirstListenerPatch = Field(default_factory=absent)


class FleetQuery(ListQuery):
    name: Pattern | None = None


class FirstListenerOut(ResponseModel):
    address: str
    port: int


class FleetOut(ResponseModel):
    id: UUID
    name: str
    listener: FirstListenerOut | None = Field(description="The listener `clients`; `/listeners` lists all listeners.")
    rejections: list[RejectedOut] = Field(
        description="The versions of the fleet's listeners and routes that gateways rejected."
    )
    created_at: datetime
