"""What of a fleet is being rolled out: /fleets/{fleet}/rollout."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from api.features.rollouts import service
from api.features.rollouts.schemas import RolloutOut
from api.http.openapi import document_operator_errors
from api.http.parameters import Ref
from api.http.request_body import JsonRoute
from api.kernel.caller import Caller, Permission
from api.kernel.context import Context
from api.kernel.dry_run import DryRunOut
from api.kernel.writes import OperatorWrite, WriteContext, WriteReply, require_write

router = APIRouter(prefix="/fleets/{fleet}/rollout", tags=["fleets"], route_class=JsonRoute)
Writing = Annotated[OperatorWrite, require_write("fleets")]


@router.get("", responses=document_operator_errors(404))
async def read_rollout(
    fleet: Ref, context: Context, caller: Annotated[Caller, Depends(Permission("fleets"))]
) -> RolloutOut:
    """What of the declared state is not with everybody yet: tried by canaries, or held back, and why."""
    async with context.database.snapshot() as session:
        return await service.show(session, caller, fleet)


@router.put("/approval", response_model=RolloutOut | DryRunOut, responses=document_operator_errors(404, 422))
async def approve_shrink(fleet: Ref, write: Writing) -> Response:
    """Let the next change through that takes more than half of what the fleet has, or the last of it. Used up by it."""

    async def do(work: WriteContext) -> WriteReply:
        return WriteReply(200, await service.approve(work, fleet))

    return await write.run(do)


@router.delete("/approval", response_model=RolloutOut | DryRunOut, responses=document_operator_errors(404, 422))
async def withdraw_approval(fleet: Ref, write: Writing) -> Response:
    """Take an approval back that was not used up yet."""

    async def do(work: WriteContext) -> WriteReply:
        return WriteReply(200, await service.withdraw(work, fleet))

    return await write.run(do)
