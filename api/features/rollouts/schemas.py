"""Rollouts as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from api.http.field_types import ResponseModel


class ResourceOut(ResponseModel):
    type_url: str
    name: str
    version: str | None = Field(description="null: it is to go.")


class ChangeSetOut(ResponseModel):
    """Resources that change together, and that not everybody has."""

    id: str = Field(description="A hash of what it wants.")
    given_to: Literal["canaries", "nobody"]
    reason: str = Field(description="Why nobody is given it; Envoy's own words when it was rejected.")
    canaries: list[UUID] = Field(description="The proxies that try it.")
    resources: list[ResourceOut]


class GroupOut(ResponseModel):
    """Proxies that share configuration, and what of it is not with all of them."""

    group: str
    at: datetime = Field(description="Since when it stands like this.")
    change_sets: list[ChangeSetOut]


class RolloutOut(ResponseModel):
    settled: bool = Field(description="Whether all that is declared is with everybody.")
    shrink_approved: bool = Field(description="Whether the next change may take more than half.")
    groups: list[GroupOut]
