"""What no write does silently: take more than half of what clients of a fleet are offered, or the last of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from uuid import UUID

from api.http.field_errors import FieldError
from api.http.problems import Problem
from api.kernel.writes import WriteContext
from model.repositories import declared, rollout
from model.repositories.declared import PoolOffer


@asynccontextmanager
async def no_silent_shrink(work: WriteContext, fleet_ids: Iterable[UUID]) -> AsyncIterator[None]:
    """Compare what fleets offer before the block and after it. Raises Problem (409) when one shrank without approval.

    What is approved is written down too, so that the replicas of the xDS server let it through. Within a block another one
    only watches: steps of one write may take and give.
    """
    if work.watched:
        yield
        return
    before = {fleet_id: await declared.offer_of(work.session, fleet_id) for fleet_id in fleet_ids}
    work.watched = True
    yield
    work.watched = False
    for fleet_id, offer in before.items():
        await _check(work, fleet_id, offer, await declared.offer_of(work.session, fleet_id))


async def no_silent_loss(work: WriteContext, fleet_id: UUID, exits: int) -> None:
    """The same for healthy exits of a fleet that are to stop later. Raises Problem (409) without approval."""
    before = await declared.offer_of(work.session, fleet_id)
    await _check(work, fleet_id, before, PoolOffer(before.pools, before.exits - exits))


async def _check(work: WriteContext, fleet_id: UUID, before: PoolOffer, after: PoolOffer) -> None:
    for what, were, are in (("pools", before.pools, after.pools), ("healthy exits", before.exits, after.exits)):
        if are * 2 >= were:
            continue
        if work.approve is None:
            message = f"this leaves {are} of {were} {what} of the fleet"
            error = FieldError("?approve", message, "repeat it with ?approve=shrink if it is meant")
            raise Problem(409, "would_shrink", message, errors=[error])
        await rollout.approve(work.unit, fleet_id)
