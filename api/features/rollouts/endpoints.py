"""The endpoints of a fleet's rollout: /fleets/{fleet}/rollout."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response

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
ChangeSetId = Annotated[
    str, Path(max_length=64, description="The id of a change-set, from `GET /fleets/{fleet}/rollout`.")
]
Writing = Annotated[OperatorWrite, require_write("fleets")]


@router.get("", responses=document_operator_errors(404))
async def read_rollout(
    fleet: Ref, context: Context, caller: Annotated[Caller, Depends(Permission("fleets"))]
) -> RolloutOut:
    """Show the change-sets that canaries are trying or that are held back, and why."""
    async with context.database.snapshot() as session:
        return await service.show(session, caller, fleet)


@router.put("/approval", response_model=RolloutOut | DryRunOut, responses=document_operator_errors(404, 422))
async def approve_shrink(fleet: Ref, write: Writing) -> Response:
    """Approve the next change that removes more than half of the fleet's pools or healthy exits. That change uses it up."""

    async def do(work: WriteContext) -> WriteReply:
        return WriteReply(200, await service.approve(work, fleet))

    return await write.run(do)


@router.put(
    "/change-sets/{change_set}/release",
    response_model=RolloutOut | DryRunOut,
    responses=document_operator_errors(404, 409, 422),
)
async def release_change_set(fleet: Ref, change_set: ChangeSetId, write: Writing) -> Response:
    """Release a change-set to all proxies of its group, whoever rejected it or has not answered.

    The release does not wait for canaries. It overrules neither missing references nor a shrink that needs an approval.
    """

    async def do(work: WriteContext) -> WriteReply:
        return WriteReply(200, await service.release(work, fleet, change_set))

    return await write.run(do)


@router.delete("/approval", response_model=RolloutOut | DryRunOut, responses=document_operator_errors(404, 422))
async def withdraw_approval(fleet: Ref, write: Writing) -> Response:
    """Withdraw an approval that is not used up yet."""

    async def do(work: WriteContext) -> WriteReply:
        return WriteReply(200, await service.withdraw(work, fleet))

    return await write.run(do)
