"""What of a fleet is being rolled out: /fleets/{fleet}/rollout."""

from __future__ import annotations

from fastapi import APIRouter

from api.bodies import JsonRoute
from api.context import Context
from api.openapi import for_operators
from api.rollouts import service
from api.rollouts.schemas import RolloutOut
from api.values import Ref
from api.writes import Writing

router = APIRouter(prefix="/fleets/{fleet}/rollout", tags=["fleets"], route_class=JsonRoute)


@router.get("", responses=for_operators(404))
async def read_rollout(fleet: Ref, context: Context) -> RolloutOut:
    """What of the declared state is not with everybody yet: tried by canaries, or held back, and why."""
    async with context.database.session() as session:
        return await service.show(session, fleet)


@router.put("/approval", responses=for_operators(404))
async def approve_shrink(fleet: Ref, write: Writing) -> RolloutOut:
    """Let the next change through that takes more than half of what the fleet has, or the last of it. Used up by it."""
    async with write.unit() as unit:
        return await service.approve(unit, fleet)


@router.delete("/approval", responses=for_operators(404))
async def withdraw_approval(fleet: Ref, write: Writing) -> RolloutOut:
    """Take an approval back that was not used up yet."""
    async with write.unit() as unit:
        return await service.withdraw(unit, fleet)
