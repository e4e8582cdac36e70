"""Proxies as the API shows them, and what of them may be changed."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias
from uuid import UUID

from pydantic import ConfigDict, Field

from api.heartbeats.schemas import UpOrDown
from api.rollouts.schemas import RejectedOut
from api.values import Locality, View, Wish, absent
from model.world import Role


class ProxyPatch(Wish):
    model_config = ConfigDict(json_schema_extra={"examples": [{"locality": "eu-west/a"}]})

    locality: Locality | None = Field(
        default_factory=absent, description="Where the gateway stands: it prefers the exits near it. null: unknown."
    )


class LastHeartbeatOut(View):
    at: datetime
    tunnel: UpOrDown
    envoy: UpOrDown
    leaving: bool
    reason: str
    version: str


SyncStatus: TypeAlias = Literal["accepted", "pending", "rejected"]


class AtOut(View):
    revision: int
    at: datetime


class SyncOut(View):
    """Where the proxy stands for a type of resource; revisions are those that responses were made of."""

    type_url: str
    status: SyncStatus
    connected: bool = Field(description="Whether it has a stream for this now.")
    desired: AtOut | None = Field(description="When something else was meant for it last.")
    sent: AtOut | None
    acknowledged: AtOut | None
    rejected: AtOut | None
    detail: str = Field(description="Envoy's own words, when it rejected last.")


class ProxyOut(View):
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


class ProxyList(View):
    items: list[ProxyOut]
