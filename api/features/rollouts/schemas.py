"""Responses of rollouts, and rejections."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from api.features.rejections.schemas import RejectedOut
from api.http.field_types import ResponseModel


class ResourceOut(ResponseModel):
    type_url: str
    name: str
    version: str | None = Field(description="The content hash of the new version; null: the resource is removed.")


class ChangeSetOut(ResponseModel):
    """Resources that change together, and that not every proxy of the group is given."""

    id: str = Field(description="A hash of the desired versions.")
    released_to: Literal["canaries", "nobody", "everybody"] = Field(
        description="canaries: canaries try it first. nobody: it is held back. everybody: all are given it, though one proxy "
        "rejected it."
    )
    reason: str = Field(
        description="Why nobody is given it, or the rejection by one proxy in spite of which others are; with Envoy's error "
        "message."
    )
    canaries: list[UUID] = Field(description="The proxies that try the change-set first.")
    resources: list[ResourceOut]


class GroupOut(ResponseModel):
    """Proxies that share configuration, and their change-sets in rollout."""

    group: str
    at: datetime = Field(description="When the rollout last changed.")
    change_sets: list[ChangeSetOut]


class RolloutOut(ResponseModel):
    complete: bool = Field(description="Whether every proxy is given all that is declared.")
    shrink_approved: bool = Field(
        description="Whether the next change may remove more than half of the fleet's pools or healthy exits."
    )
    groups: list[GroupOut]
    rejections: list[RejectedOut] = Field(
        description="What proxies of the fleet rejected, of the versions in rollout and of those that others accepted."
    )
