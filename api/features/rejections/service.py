"""Rejections of desired versions, shown on the object that a resource comes from, and on the proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from api.features.rejections.schemas import RejectedOut
from model.entities import VALIDATOR
from model.repositories import rollout
from model.tables import RejectionRow


@dataclass(frozen=True, slots=True)
class BlockingRejections:
    """The rejections of versions in rollout, and those of versions that others accepted.

    Rejections of versions that are no longer desired are left out.
    """

    rows: tuple[RejectionRow, ...]
    """Of versions in rollout."""
    outvoted: tuple[RejectionRow, ...] = ()
    """Of versions that the group accepted."""

    def of_groups(self, groups: Iterable[str], *names: str) -> list[RejectedOut]:
        """Return the rejections of some groups; with `names`, only those of these resources."""
        if not self.rows:
            return []
        keys = set(groups)
        return [show(row) for row in self.rows if row.group in keys and (not names or row.name in names)]

    def by_proxy(self, proxy_id: UUID) -> list[RejectedOut]:
        """Return the rejections by a proxy."""
        return self.show(lambda row: row.proxy_id == proxy_id)

    @property
    def proxy_ids(self) -> frozenset[UUID]:
        """The proxies that rejected anything."""
        return frozenset(row.proxy_id for row in (*self.rows, *self.outvoted))

    def show(self, which: Callable[[RejectionRow], bool]) -> list[RejectedOut]:
        """Convert the rejections of both kinds that `which` selects."""
        blocking = [show(row) for row in self.rows if which(row)]
        return blocking + [show(row, accepted_by_others=True) for row in self.outvoted if which(row)]


async def load_rejections(session: AsyncSession) -> BlockingRejections:
    """Load the rejections that matter, newest first. The session's transaction must have begun."""
    if not await rollout.any_rejected(session):
        return BlockingRejections(())
    held_back = {
        (row.group, *resource)
        for row in await rollout.all_rollouts(session)
        for change_set in row.change_sets
        for resource in map(tuple, change_set["resources"])
    }
    rows = await rollout.rejections_by(session)
    return BlockingRejections(
        tuple(row for row in rows if (row.group, row.type_url, row.name, row.version) in held_back),
        tuple(await rollout.outvoted_rejections(session)),
    )


def show(row: RejectionRow, *, accepted_by_others: bool = False) -> RejectedOut:
    """Convert a rejection."""
    return RejectedOut(
        type_url=row.type_url,
        resource=row.name,
        version=row.version,
        proxy_id=None if row.proxy_id == VALIDATOR else row.proxy_id,
        accepted_by_others=accepted_by_others,
        detail=row.detail,
        at=row.at,
    )
