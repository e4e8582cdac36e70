"""What is declared, as a document says it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from api.features.exits.service import EXITS
from api.features.fleets.service import FLEETS
from api.features.listeners.service import LISTENERS
from api.features.plans.service import PLANS
from api.features.pools.service import POOLS
from api.features.routes.service import ROUTES
from api.features.users.service import USERS
from api.kernel.caller import Caller
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext

AnyCollection: TypeAlias = Collection[Any, Any, Any]
ORDER: Final[tuple[AnyCollection, ...]] = (FLEETS, PLANS, POOLS, LISTENERS, EXITS, ROUTES, USERS)
"""What refers to something comes after it."""
_AT_ONCE: Final = 10_000
"""PostgreSQL takes 32,767 parameters."""


async def rows_of(
    look: ReadContext, caller: Caller, collection: AnyCollection, fleet_ids: Iterable[UUID] | None = None
) -> list[Any]:
    """The rows of a collection (in some fleets) that the caller sees, by name."""
    query = select(collection.table).where(*collection.visible(caller))
    if fleet_ids is not None:
        query = query.where(collection.fleet_of().in_(fleet_ids))
    return list((await look.session.execute(query.order_by(col(collection.table.name)))).scalars())


async def lock(session: AsyncSession, table: Any, ids: Iterable[UUID]) -> dict[UUID, Any]:
    """The rows that are still there, as they are now, held against other writers until the transaction ends; by id.

    Others may still refer to them meanwhile: a lock that kept them from it could wait for whom it makes wait.
    """
    held: dict[UUID, Any] = {}
    ordered = sorted(ids)
    for start in range(0, len(ordered), _AT_ONCE):
        query = select(table).where(table.id.in_(ordered[start : start + _AT_ONCE])).order_by(table.id)
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
        held |= {row.id: row for row in (await session.execute(query)).scalars()}
    return held


async def shown(look: ReadContext, collection: AnyCollection, rows: Sequence[Any]) -> list[Any]:
    """The rows as the API shows them."""
    views: list[Any] = []
    for start in range(0, len(rows), _AT_ONCE):
        views += await collection.show(look, rows[start : start + _AT_ONCE])
    return views


def as_wish(collection: AnyCollection, view: Any) -> Any:
    """What would have to be declared for a thing to be as it is."""
    fields = {name: value for name, value in view.model_dump().items() if name in collection.wish.model_fields}
    return collection.wish.model_validate(fields, by_name=True)


def differences(before: Any, after: Any) -> Mapping[str, tuple[Any, Any]]:
    """The fields in which two wishes differ, with both values, as JSON has them."""
    old, new = (each.model_dump(mode="json", by_alias=True) for each in (before, after))
    return {name: (old[name], new[name]) for name in new if old[name] != new[name]}
