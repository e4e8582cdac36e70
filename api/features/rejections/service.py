"""Rejections of desired versions, shown on the object that a resource comes from, and on the proxy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.features.rejections.schemas import RejectedOut
from model.repositories import rollout
from model.tables import RejectionRow


@dataclass(frozen=True, slots=True)
class BlockingRejections:
    """The rejections that hold a change-set back. Rejections of versions that are no longer desired are left out."""

    rows: tuple[RejectionRow, ...]

    def of_groups(self, groups: Iterable[str], *names: str) -> list[RejectedOut]:
        """Return the rejections of some groups; with `names`, only those of these resources."""
        if not self.rows:
            return []
        keys = set(groups)
        return [show(row) for row in self.rows if row.group in keys and (not names or row.name in names)]

    def by_proxy(self, proxy_id: UUID) -> list[RejectedOut]:
        """Return the rejections that a proxy was the first of its group to send."""
        return [show(row) for row in self.rows if row.proxy_id == proxy_id]


async def load_rejections(session: AsyncSession) -> BlockingRejections:
    """Load all rejections that hold a change-set back, newest first. The session's transaction must have begun."""
    if not await rollout.any_held_back(session):
        return BlockingRejections(())
    held_back = {
        (row.group, *resource)
        for row in await rollout.all_rollouts(session)
        for change_set in row.change_sets
        for resource in map(tuple, change_set["resources"])
    }
    rows = await rollout.rejections_by(session)
    return BlockingRejections(
        tuple(row for row in rows if (row.group, row.type_url, row.name, row.version) in held_back)
    )


def show(row: RejectionRow) -> RejectedOut:
    """Convert a rejection."""
    return RejectedOut(
        type_url=row.type_url,
        resource=row.name,
        version=row.version,
        proxy_id=row.proxy_id,
        detail=row.detail,
        at=row.at,
    )
