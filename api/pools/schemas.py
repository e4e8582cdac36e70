"""Pools as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import ConfigDict, Field

from api.collections.listing import FleetListQuery
from api.rollouts.schemas import RejectedOut
from api.values import City, Country, Name, Reference, View, Wish, absent


class PoolIn(Wish):
    """A pool. A fleet has one for each country, and one for each city, besides those that are only asked for by name."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "us", "fleet": "demo", "country": "us"}]})

    name: Name
    fleet: Reference
    country: Country
    city: City | None = Field(default=None, description="null: it serves the country as a whole.")
    only_by_name: bool = Field(
        default=False, description="Whether clients get it only by its name, or by a route, not by the country or city."
    )


class PoolPatch(Wish):
    model_config = ConfigDict(json_schema_extra={"examples": [{"country": "gb"}]})

    name: Name = Field(default_factory=absent)
    country: Country = Field(default_factory=absent)
    city: City | None = Field(default_factory=absent)
    only_by_name: bool = Field(default_factory=absent)


class PoolQuery(FleetListQuery):
    country: Country | None = None
    city: City | None = None


class PoolOut(View):
    id: UUID
    name: str
    fleet: str
    fleet_id: UUID
    country: str
    city: str | None
    only_by_name: bool
    rejections: list[RejectedOut] = Field(description="What Envoys refused of what is made of this pool.")
    created_at: datetime
