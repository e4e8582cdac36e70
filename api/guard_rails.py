"""What no write does silently: take more than half of what clients of a fleet are offered, or the last of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal, TypeAlias
from uuid import UUID

from fastapi import Query

from api.problems import FieldError, Problem
from model.changes import Unit
from model.repositories import declared, rollout
from model.repositories.declared import Offer

Approve: TypeAlias = Annotated[
    Literal["shrink"] | None,
    Query(description="`shrink`: yes, although it leaves less than half of the pools or healthy exits of the fleet."),
]


@asynccontextmanager
async def no_silent_shrink(unit: Unit, fleet_id: UUID, approve: str | None) -> AsyncIterator[None]:
    """Compare what a fleet offers before the block and after it. Raises Problem (409) when it shrank without approval.

    What is approved is written down too, so that the replicas of the xDS server let it through.
    """
    before = await declared.offer_of(unit.session, fleet_id)
    yield
    after = await declared.offer_of(unit.session, fleet_id)
    for what, were, are in _pairs(before, after):
        if are * 2 >= were:
            continue
        if approve is None:
            message = f"this leaves {are} of {were} {what} of the fleet"
            error = FieldError("?approve", message, "repeat it with ?approve=shrink if it is meant")
            raise Problem(409, "would_shrink", message, errors=[error])
        await rollout.approve(unit, fleet_id)


def _pairs(before: Offer, after: Offer) -> list[tuple[str, int, int]]:
    return [("pools", before.pools, after.pools), ("healthy exits", before.exits, after.exits)]
