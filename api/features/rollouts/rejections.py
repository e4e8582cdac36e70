"""What proxies refused of what is wanted now: shown on the resource that it is made of, and on the proxy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.features.rollouts.schemas import RejectedOut
from model.repositories import rollout
from model.tables import RejectionRow


@dataclass(frozen=True, slots=True)
class StandingRejections:
    """The refusals that hold something back. One of a version that is not wanted any more is history, and not here."""

    rows: tuple[RejectionRow, ...]

    def of_groups(self, groups: Iterable[str], *names: str) -> list[RejectedOut]:
        """Those of these groups, and of the resources with these names only if there are any."""
        if not self.rows:
            return []
        wanted = set(groups)
        return [show(row) for row in self.rows if row.group in wanted and (not names or row.name in names)]

    def by_proxy(self, proxy_id: UUID) -> list[RejectedOut]:
        """Those of which a proxy was the first of its group."""
        return [show(row) for row in self.rows if row.proxy_id == proxy_id]


async def standing(session: AsyncSession) -> StandingRejections:
    """All refusals that hold something back, newest first. For a session whose transaction has begun."""
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
    """One refusal."""
    return RejectedOut(
        type_url=row.type_url,
        resource=row.name,
        version=row.version,
        proxy_id=row.proxy_id,
        detail=row.detail,
        at=row.at,
    )
