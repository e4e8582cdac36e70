"""Reads of the declared state, as a document holds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from api.features.certificates.service import CERTIFICATES
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
ORDER: Final[tuple[AnyCollection, ...]] = (FLEETS, PLANS, POOLS, CERTIFICATES, LISTENERS, EXITS, ROUTES, USERS)
"""The collections of a document: each comes after those that it refers to."""
_ROWS_AT_ONCE: Final = 10_000
"""PostgreSQL takes 32,767 parameters in a statement."""


async def read_rows(
    read: ReadContext, caller: Caller, collection: AnyCollection, fleet_ids: Iterable[UUID] | None = None
) -> list[Any]:
    """Read the rows of a collection (in some fleets) that the caller sees, by name."""
    query = select(collection.table).where(*collection.visible(caller))
    if fleet_ids is not None:
        query = query.where(collection.fleet_of().in_(fleet_ids))
    return list((await read.session.execute(query.order_by(col(collection.table.name)))).scalars())


async def lock_rows(session: AsyncSession, table: Any, ids: Iterable[UUID]) -> dict[UUID, Any]:
    """Lock the rows that still exist until the transaction ends, and read them as they are now, by id.

    Other writers may still refer to them (FOR NO KEY UPDATE). A stronger lock could deadlock with them.
    """
    locked: dict[UUID, Any] = {}
    ordered = sorted(ids)
    for start in range(0, len(ordered), _ROWS_AT_ONCE):
        query = select(table).where(table.id.in_(ordered[start : start + _ROWS_AT_ONCE])).order_by(table.id)
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
        locked |= {row.id: row for row in (await session.execute(query)).scalars()}
    return locked


async def show_rows(read: ReadContext, collection: AnyCollection, rows: Sequence[Any]) -> list[Any]:
    """Show rows as the API responds with them."""
    shown: list[Any] = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        shown += await collection.show(read, rows[start : start + _ROWS_AT_ONCE])
    return shown


def as_request(collection: AnyCollection, shown: Any) -> Any:
    """Convert a response model to the request that would declare the same item."""
    names = collection.request_model.model_fields
    fields = {name: value for name, value in shown.model_dump().items() if name in names}
    return collection.request_model.model_validate(fields, by_name=True)


def diff(before: Any, after: Any) -> Mapping[str, tuple[Any, Any]]:
    """Compare two requests: the fields that differ, each with its old and new value as JSON holds them."""
    old, new = (each.model_dump(mode="json", by_alias=True) for each in (before, after))
    return {name: (old[name], new[name]) for name in new if old[name] != new[name]}
