"""Rollouts: change-sets of a fleet that are tried or held back, and approvals of shrinking changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.features.fleets.service import FLEETS
from api.features.rejections.service import load_rejections
from api.features.rollouts.schemas import ChangeSetOut, GroupOut, ResourceOut, RolloutOut
from api.http.field_errors import FieldError
from api.http.problems import Problem
from api.kernel.caller import Caller
from api.kernel.writes import WriteContext
from model.repositories import declared, rollout
from model.tables import RolloutRow


async def show(session: AsyncSession, caller: Caller, ref: str) -> RolloutOut:
    """Show the rollout of a fleet. Raises Problem (404)."""
    fleet = await FLEETS.find(session, caller, ref)
    return await _show(session, fleet.id)


async def approve(work: WriteContext, ref: str) -> RolloutOut:
    """Approve the next shrinking change of a fleet. Raises Problem (404)."""
    fleet = await FLEETS.find(work.session, work.caller, ref)
    await rollout.approve(work.unit, fleet.id)
    return await _show(work.session, fleet.id)


async def withdraw(work: WriteContext, ref: str) -> RolloutOut:
    """Withdraw an unused approval. Raises Problem (404)."""
    fleet = await FLEETS.find(work.session, work.caller, ref)
    await rollout.withdraw_approval(work.unit, fleet.id)
    return await _show(work.session, fleet.id)


async def release(work: WriteContext, ref: str, change_set: str) -> RolloutOut:
    """Order the release of a change-set to all proxies of its group.

    Raises Problem: 404 for a fleet or a change-set that does not exist, 409 for one that no rejection holds back.
    """
    fleet = await FLEETS.find(work.session, work.caller, ref)
    for row in await rollout.rollouts_of(work.session, fleet.id):
        for each in row.change_sets:
            if each["change_set"] != change_set:
                continue
            if each["given_to"] == "nobody" and not each.get("rejected"):
                message, hint = each["reason"], "change the objects, or approve the shrink"
                raise Problem(
                    409, "not_rejected", message, errors=[FieldError("{change_set}", message, hint, change_set)]
                )
            await rollout.override(work.unit, fleet.id, row.group, change_set, work.now)
            return await _show(work.session, fleet.id)
    message, hint = "no rollout of the fleet has this change-set", "GET /api/v1/fleets/{fleet}/rollout lists them"
    raise Problem(404, "unknown_change_set", message, errors=[FieldError("{change_set}", message, hint, change_set)])


async def _show(session: AsyncSession, fleet_id: UUID) -> RolloutOut:
    rows = await rollout.rollouts_of(session, fleet_id)
    rejections, groups = await load_rejections(session), {row.group for row in rows}
    members = await declared.proxies_of_fleet(session, fleet_id, rejections.proxy_ids)
    return RolloutOut(
        complete=not rows,
        shrink_approved=await rollout.is_approved(session, fleet_id),
        groups=[_show_group(row) for row in rows],
        rejections=rejections.show(lambda row: row.proxy_id in members or row.group in groups),
    )


def _show_group(row: RolloutRow) -> GroupOut:
    return GroupOut(group=row.group, at=row.at, change_sets=_show_change_sets(row.change_sets))


def _show_change_sets(stored: Sequence[dict[str, Any]]) -> list[ChangeSetOut]:
    return [
        ChangeSetOut(
            id=each["change_set"],
            released_to=each["given_to"],
            reason=each["reason"],
            canaries=each["canaries"],
            resources=[
                ResourceOut(type_url=type_url, name=name, version=version)
                for type_url, name, version in each["resources"]
            ],
        )
        for each in stored
    ]
