"""Pools as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import ConfigDict, Field

from api.rollouts.schemas import RejectedOut
from api.values import Country, Name, Reference, View, Wish, absent


class PoolIn(Wish):
    """A pool; a fleet has one for each country."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "us", "fleet": "demo", "country": "us"}]})

    name: Name
    fleet: Reference
    country: Country


class PoolPatch(Wish):
    model_config = ConfigDict(json_schema_extra={"examples": [{"country": "gb"}]})

    name: Name = Field(default_factory=absent)
    country: Country = Field(default_factory=absent)


class PoolOut(View):
    id: UUID
    name: str
    fleet: str
    fleet_id: UUID
    country: str
    rejections: list[RejectedOut] = Field(description="What Envoys refused of what is made of this pool.")
    created_at: datetime


class PoolList(View):
    items: list[PoolOut]
