"""Proxies as the API shows them, and what of them may be changed."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

from pydantic import ConfigDict, Field

from api.features.heartbeats.schemas import UpOrDown
from api.features.rollouts.schemas import RejectedOut
from api.http.field_types import Locality, RequestModel, ResponseModel, absent
from api.kernel.collections.schemas import FleetListQuery
from model.entities import Role


class ProxyPatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"locality": "eu-west/a"}]})

    locality: Locality | None = Field(
        default_factory=absent, description="Where the gateway stands: it prefers the exits near it. null: unknown."
    )


class ProxyIn(RequestModel):
    """All of a gateway that is declared: the rest it says itself when it enrols."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"locality": "eu-west/a"}]})

    locality: Locality | None = None


class ProxyQuery(FleetListQuery):
    role: Role | None = None
    locality: Locality | None = None


class LastHeartbeatOut(ResponseModel):
    at: datetime
    tunnel: UpOrDown
    envoy: UpOrDown
    leaving: bool
    reason: str
    version: str


SyncStatus: TypeAlias = Literal["accepted", "pending", "rejected"]


class AtOut(ResponseModel):
    revision: int
    at: datetime


class SyncOut(ResponseModel):
    """Where the proxy stands for a type of resource; revisions are those that responses were made of."""

    type_url: str
    status: SyncStatus
    connected: bool = Field(description="Whether it has a stream for this now.")
    desired: AtOut | None = Field(description="When something else was meant for it last.")
    sent: AtOut | None
    acknowledged: AtOut | None
    rejected: AtOut | None
    detail: str = Field(description="Envoy's own words, when it rejected last.")


class ContentOut(ResponseModel):
    """A resource as Envoy reads it (the JSON form of its API); null for what does not exist or is not known."""

    wanted: dict[str, Any] | None
    held: dict[str, Any] | None


class HoldingOut(ResponseModel):
    """One resource that the proxy asks for. A version is a hash of the content; null for what does not exist."""

    name: str
    progress: Literal["held", "sent", "waiting", "rejected", "withheld"] = Field(
        description="held: it accepted what is wanted. sent: it has not answered yet. waiting: something else comes first. "
        "rejected: it refused this version. withheld: it is given another one, as `reason` says.",
    )
    wanted: str | None
    held: str | None = Field(description="null also while that is not known: until it answers, and after a rejection.")
    reason: str = Field(description="Why it does not hold what is wanted; Envoy's own words when it rejected that.")
    content: ContentOut | None = Field(None, description="Of the resource that the query names.")


class TypeOut(ResponseModel):
    type_url: str
    resources: list[HoldingOut]


class ConfigOut(ResponseModel):
    """What a proxy holds and what it should hold, on each of its streams, by type in the order of the protocol."""

    proxy_id: UUID
    answered: bool = Field(description="false: it has no stream now, or its replica did not say what is on it.")
    in_sync: bool | None = Field(description="Whether it holds all that it should; null: not known.")
    types: list[TypeOut]
    sync: list[SyncOut] = Field(description="Since when, and what was last known of a proxy without a stream.")


class ProxyOut(ResponseModel):
    id: UUID
    name: str
    role: Role
    fleet: str
    fleet_id: UUID
    locality: str | None = Field(description="Where it stands; that of an exit's Envoy is the exit's.")
    connected: bool = Field(description="Whether it was heard of within the silence timeout, and does not leave.")
    last_heartbeat: LastHeartbeatOut | None
    sync: list[SyncOut]
    rejections: list[RejectedOut]
    created_at: datetime
