"""The guard against writes that silently take more than half of what a fleet offers its clients, or the last of it."""

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
async def require_shrink_approval(work: WriteContext, fleet_ids: Iterable[UUID]) -> AsyncIterator[None]:
    """Compare what fleets offer before and after the block. Raises Problem (409) when one shrank without approval.

    An approval is stored too, so that the replicas of the xDS server publish the change. Within a block, an inner block
    compares nothing: single steps of a write may take and give.
    """
    if work.is_guarded:
        yield
        return
    before = {fleet_id: await declared.offer_of(work.session, fleet_id) for fleet_id in fleet_ids}
    work.is_guarded = True
    yield
    work.is_guarded = False
    for fleet_id, offer in before.items():
        await _check(work, fleet_id, offer, await declared.offer_of(work.session, fleet_id))


async def require_loss_approval(work: WriteContext, fleet_id: UUID, exits: int) -> None:
    """Check healthy exits of a fleet that will stop later in the same way. Raises Problem (409) without approval."""
    before = await declared.offer_of(work.session, fleet_id)
    await _check(work, fleet_id, before, PoolOffer(before.pools, before.exits - exits))


async def _check(work: WriteContext, fleet_id: UUID, before: PoolOffer, after: PoolOffer) -> None:
    for what, old, new in (("pools", before.pools, after.pools), ("healthy exits", before.exits, after.exits)):
        if new * 2 >= old:
            continue
        if work.approve is None:
            message = f"this leaves {new} of {old} {what} of the fleet"
            error = FieldError("?approve", message, "repeat it with ?approve=shrink if it is meant")
            raise Problem(409, "would_shrink", message, errors=[error])
        await rollout.approve(work.unit, fleet_id)
