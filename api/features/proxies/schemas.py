"""Requests and responses of /proxies."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

from pydantic import ConfigDict, Field

from api.features.heartbeats.schemas import UpOrDown
from api.features.rejections.schemas import RejectedOut
from api.http.field_types import Locality, RequestModel, ResponseModel, absent
from api.kernel.collections.schemas import FleetListQuery
from model.entities import Role


class ProxyPatch(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"locality": "eu-west/a"}]})

    locality: Locality | None = Field(
        default_factory=absent,
        description="Where the gateway runs: `region` or `region/zone`. It prefers near exits. null: unknown.",
    )


class ProxyIn(RequestModel):
    """The declared fields of a gateway. Its agent states the other fields when it enrols."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"locality": "eu-west/a"}]})

    locality: Locality | None = None


class ProxyQuery(FleetListQuery):
    role: Role | None = None
    locality: Locality | None = None


class LastHeartbeatOut(ResponseModel):
    at: datetime
    tunnel: UpOrDown
    envoy: UpOrDown
    stopping: bool = Field(description="Whether the proxy announced that it stops.")
    reason: str
    version: str


SyncStatus: TypeAlias = Literal["accepted", "pending", "rejected"]


class RevisionTimeOut(ResponseModel):
    revision: int
    at: datetime


class SyncOut(ResponseModel):
    """The sync state of a proxy for one resource type. A revision is that of the declared state in a response."""

    type_url: str
    status: SyncStatus
    connected: bool = Field(description="Whether the proxy has a stream for this type now.")
    desired: RevisionTimeOut | None = Field(description="The revision that last changed the desired resources.")
    sent: RevisionTimeOut | None = Field(description="The last revision that was sent.")
    acknowledged: RevisionTimeOut | None = Field(description="The last revision that the proxy accepted (ACK).")
    rejected: RevisionTimeOut | None = Field(description="The last revision that the proxy rejected (NACK).")
    detail: str = Field(description="Envoy's error message of the last rejection.")


class ContentOut(ResponseModel):
    """The content of a resource in the JSON form of Envoy's API; null if it does not exist or is not known."""

    desired: dict[str, Any] | None
    accepted: dict[str, Any] | None


class ResourceSyncOut(ResponseModel):
    """A resource that the proxy subscribes to. A version is a hash of the content; null: the resource does not exist."""

    name: str
    status: Literal["accepted", "sent", "waiting", "rejected", "withheld"] = Field(
        description="accepted: the proxy accepted the desired version. sent: it has not answered yet. waiting: other resources "
        "are sent first. rejected: it rejected the desired version. withheld: it is given another version; see `reason`.",
    )
    desired: str | None = Field(description="The desired version.")
    accepted: str | None = Field(
        description="The accepted version; null also while it is unknown: until the proxy answers, and after a rejection."
    )
    reason: str = Field(description="Why the desired version is not accepted; Envoy's error message if it rejected it.")
    content: ContentOut | None = Field(None, description="The content, if the query names this resource.")


class TypeConfigOut(ResponseModel):
    type_url: str
    resources: list[ResourceSyncOut]


class ConfigOut(ResponseModel):
    """The accepted and desired resources of a proxy's streams, by type in the order of the protocol."""

    proxy_id: UUID
    answered: bool = Field(description="`false`: the proxy has no stream now, or its replica did not answer in time.")
    in_sync: bool | None = Field(description="Whether the proxy accepted all desired versions; null: unknown.")
    types: list[TypeConfigOut]
    sync: list[SyncOut] = Field(description="The stored sync state, which stays known when the proxy has no stream.")


class ProxyOut(ResponseModel):
    id: UUID
    name: str
    role: Role
    fleet: str
    fleet_id: UUID
    locality: str | None = Field(description="Where the proxy runs. An exit's Envoy has the locality of the exit.")
    connected: bool = Field(
        description="Whether a heartbeat came within the silence timeout, and did not announce a stop."
    )
    last_heartbeat: LastHeartbeatOut | None
    sync: list[SyncOut]
    rejections: list[RejectedOut]
    rejects_accepted: bool = Field(description="Whether it rejects a version that other proxies of its group accepted.")
    created_at: datetime
