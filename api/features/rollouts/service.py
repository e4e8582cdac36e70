"""Rollouts: change-sets of a fleet that are tried or held back, and approvals of shrinking changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.features.fleets.service import FLEETS
from api.features.rollouts.schemas import ChangeSetOut, GroupOut, ResourceOut, RolloutOut
from api.kernel.caller import Caller
from api.kernel.writes import WriteContext
from model.repositories import rollout
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


async def _show(session: AsyncSession, fleet_id: UUID) -> RolloutOut:
    rows = await rollout.rollouts_of(session, fleet_id)
    return RolloutOut(
        complete=not rows,
        shrink_approved=await rollout.is_approved(session, fleet_id),
        groups=[_show_group(row) for row in rows],
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
        if each["given_to"] != "everybody"
    ]
