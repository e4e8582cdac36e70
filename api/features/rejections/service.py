"""Rejections (NACKs) that hold a change-set back, for the resources that they concern and for the proxies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.features.rejections.schemas import RejectedOut
from model.repositories import rollout
from model.tables import RejectionRow


@dataclass(frozen=True, slots=True)
class StandingRejections:
    """The rejections that hold something back. A rejection of a version that is no longer wanted is not among them."""

    rows: tuple[RejectionRow, ...]

    def of_groups(self, groups: Iterable[str], *names: str) -> list[RejectedOut]:
        """Show the rejections of some groups; with `names`, only those of these resources."""
        if not self.rows:
            return []
        wanted = set(groups)
        return [show(row) for row in self.rows if row.group in wanted and (not names or row.name in names)]

    def by_proxy(self, proxy_id: UUID) -> list[RejectedOut]:
        """Show the rejections of which a proxy was the first of its group."""
        return [show(row) for row in self.rows if row.proxy_id == proxy_id]


async def read_standing_rejections(session: AsyncSession) -> StandingRejections:
    """Read all rejections that hold something back, newest first. The session's transaction must have begun."""
    if not await rollout.any_held_back(session):
        return StandingRejections(())
    held = {
        (row.group, *resource)
        for row in await rollout.all_rollouts(session)
        for change_set in row.change_sets
        for resource in map(tuple, change_set["resources"])
    }
    rows = await rollout.rejections_by(session)
    return StandingRejections(tuple(row for row in rows if (row.group, row.type_url, row.name, row.version) in held))


def show(row: RejectionRow) -> RejectedOut:
    return RejectedOut(
        type_url=row.type_url,
        resource=row.name,
        version=row.version,
        proxy_id=row.proxy_id,
        detail=row.detail,
        at=row.at,
    )
