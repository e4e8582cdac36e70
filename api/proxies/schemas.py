"""Proxies as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from api.heartbeats.schemas import UpOrDown
from api.values import View
from model.world import Role


class LastHeartbeatOut(View):
    at: datetime
    tunnel: UpOrDown
    envoy: UpOrDown
    leaving: bool
    reason: str
    version: str


class SyncOut(View):
    """What the proxy answered last for a type of resource."""

    type_url: str
    status: Literal["accepted", "rejected"]
    revision: int = Field(description="The revision that the answered response was made of.")
    detail: str = Field(description="Envoy's own words, when it rejected.")
    at: datetime


class RejectionOut(View):
    """A version that the proxy was the first of its group to refuse. It is sent to nobody else."""

    type_url: str
    resource: str
    version: str
    detail: str
    at: datetime


class ProxyOut(View):
    id: UUID
    name: str
    role: Role
    fleet: str
    fleet_id: UUID
    connected: bool = Field(description="Whether it was heard of within the silence timeout, and does not leave.")
    last_heartbeat: LastHeartbeatOut | None
    sync: list[SyncOut]
    rejections: list[RejectionOut]
    created_at: datetime


class ProxyList(View):
    items: list[ProxyOut]
