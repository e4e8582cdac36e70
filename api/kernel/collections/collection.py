"""The base class of collections: what the endpoints of every kind of resource need."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Select, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from api.http.field_errors import FieldError
from api.http.field_types import as_id, as_reference
from api.http.paths import PATH_FIELDS
from api.http.problems import Problem, not_found, unknown
from api.kernel.caller import Caller
from api.kernel.collections.listing import SortOrder, match_name, read_order
from api.kernel.collections.schemas import ListQuery, Page
from api.kernel.context import ReadContext
from api.kernel.writes import WriteContext
from model.repositories import declared
from model.tables import FleetRow

_OWNERS_MAX = 10
"""The largest number of fleets that the error for an ambiguous name lists."""
Row = TypeVar("Row", bound=Any)
In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)


class Collection(ABC, Generic[Row, In, Out]):
    """A kind of resource that operators declare.

    A resource is referred to by its id, or by its name where names are unique within a fleet or within all fleets. The
    methods that write take a locked row, and raise Problem.
    """

    name: ClassVar[str]
    """The plural in the path: `pools`."""
    kind: ClassVar[str]
    """The singular: `pool`."""
    table: type[Row]
    request_model: type[In]
    patch_model: type[BaseModel]
    response_model: type[Out]
    query_model: type[ListQuery] = ListQuery
    has_name: ClassVar[bool] = True
    in_fleets: ClassVar[bool] = True
    """True if a caller who is limited to some fleets sees only the rows of these fleets."""
    has_fleet: ClassVar[bool] = True
    """True if names are unique within a fleet, false if within all fleets."""
    volatile: ClassVar[frozenset[str]] = frozenset()
    """Fields of the response model that nobody declares. An ETag does not depend on them."""
    sort: ClassVar[str] = "name"
    deletion: ClassVar[str] = "Delete {one}."
    """The first sentence of the description of DELETE."""

    # -- what a subclass implements ------------------------------------------------------------------------------------

    @abstractmethod
    async def show(self, read: ReadContext, rows: Sequence[Row]) -> list[Out]:
        """Convert rows to response models."""

    async def create(self, work: WriteContext, body: In) -> Row:
        """Create a row."""
        raise NotImplementedError

    async def change(self, work: WriteContext, row: Row, fields: dict[str, Any]) -> None:
        """Change a row. `fields` holds the values that were sent, by their names in the schema."""
        raise NotImplementedError

    async def remove(self, work: WriteContext, row: Row) -> None:
        """Delete a row."""
        raise NotImplementedError

    @property
    def row_id(self) -> Any:
        return col(self.table.id)

    def fleet_of(self) -> Any:
        """The column or subquery with the id of a row's fleet."""
        return col(self.table.fleet_id)

    def sortable(self) -> Mapping[str, Any]:
        """The columns to sort by. None of them may be NULL."""
        return {"name": col(self.table.name), "created_at": col(self.table.created_at)}

    def filters(self, query: Any) -> list[ColumnElement[bool]]:
        """The conditions of a list's query, besides the fleet and the name."""
        return [
            getattr(self.table, name) == value
            for name, value in query.model_dump(
                exclude_none=True, exclude={*ListQuery.model_fields, "fleet", "name"}
            ).items()
        ]

    # -- what every collection has -------------------------------------------------------------------------------------

    async def page(self, read: ReadContext, caller: Caller, query: Any) -> Page[Out]:
        """Read one page of the rows that the caller sees and the query selects."""
        order = read_order(query.sort, self.sort, self.sortable(), self.row_id)
        chosen = self._select().where(*self.visible(caller), *self.filters(query))
        if getattr(query, "fleet", None) is not None:
            chosen = chosen.where(self.fleet_of().in_(declared.ids_of(FleetRow, query.fleet)))
        if getattr(query, "name", None) is not None:
            chosen = chosen.where(match_name(col(self.table.name), query.name))
        rows: Sequence[Row] = (await read.session.execute(order.page_of(chosen, query.cursor, query.limit))).all()
        page = rows[: query.limit]
        return Page(items=await self.show(read, page), next=self._next(order, rows, page))

    def _select(self) -> Select[Any]:
        """Select the columns, whose result rows have the names of the table's fields. Mapped objects cost twice as much."""
        return select(*inspect(self.table).columns)

    def _next(self, order: SortOrder, rows: Sequence[Row], page: Sequence[Row]) -> str | None:
        if len(rows) == len(page):
            return None
        return order.cursor_after(getattr(page[-1], order.name), getattr(page[-1], self.row_id.key or "id"))

    async def find(self, session: AsyncSession, caller: Caller, ref: str, fleet: str | None = None) -> Row:
        """Find a row by its id or name. Raises Problem: 404, or 409 for a name that several fleets use."""
        named = self._select().where(*self.visible(caller))
        if fleet is not None:
            named = named.where(self.fleet_of().in_(declared.ids_of(FleetRow, fleet)))
        found: Sequence[Row] = ()
        row_id = self.read_id(ref)
        if row_id is not None:
            found = (await session.execute(named.where(self.row_id == row_id))).all()
        elif self.has_name and as_reference(ref) is not None:
            found = (await session.execute(named.where(col(self.table.name) == ref).limit(_OWNERS_MAX))).all()
        if not found:
            raise not_found(self.kind, ref)
        if len(found) > 1:
            owners = select(col(FleetRow.name), self.row_id).where(self.fleet_of() == col(FleetRow.id))
            names = (await session.execute(owners.where(self.row_id.in_([row.id for row in found])))).scalars()
            message = f"several fleets have a {self.kind} of this name"
            hint = f"add ?fleet= with one of {', '.join(sorted(names))}, or use the id"
            error = FieldError(PATH_FIELDS[self.kind], message, hint, ref)
            raise Problem(409, "ambiguous", message, errors=[error])
        return found[0]

    async def resolve(
        self, session: AsyncSession, caller: Caller, ref: str, field: str, fleet: str | None = None
    ) -> Row:
        """Find a row that a query parameter names by its id or name. Raises Problem (422)."""
        try:
            return await self.find(session, caller, ref, fleet)
        except Problem as problem:
            raise unknown(self.kind, field, ref) from problem

    def read_id(self, ref: str) -> Any:
        """Parse an id in a path; None when it is not one."""
        return as_id(ref)

    async def lock(self, work: WriteContext, ref: str, fleet: str | None = None) -> Row:
        """Find a row as `find` does, and lock it until the unit ends."""
        row = await self.find(work.session, work.caller, ref, fleet)
        locked = await work.session.get(self.table, row.id, with_for_update=True, populate_existing=True)
        if locked is None:
            raise not_found(self.kind, ref)
        return locked

    async def show_one(self, read: ReadContext, row: Row) -> Out:
        """Convert one row to its response model."""
        return (await self.show(read, [row]))[0]

    def etag(self, shown: Out) -> str:
        """Compute the ETag (RFC 9110, section 8.8.3), which changes whenever a declared field does."""
        content = shown.model_dump_json(exclude=set(self.volatile))
        return f'"{hashlib.blake2b(content.encode(), digest_size=12).hexdigest()}"'

    async def reject_fleet_change(self, work: WriteContext, row: Row, fields: dict[str, Any]) -> None:
        """Remove `fleet` from `fields`. Raises Problem (422) when it is not the row's fleet."""
        ref = fields.pop("fleet", None)
        if ref is None:
            return
        found = await declared.find_fleet(work.session, ref)
        if found is None or found.id != row.fleet_id:
            message, hint = f"a {self.kind} stays in its fleet", "leave `fleet` out, or create another one there"
            raise Problem(422, "immutable", message, errors=[FieldError("/fleet", message, hint, ref)])

    def visible(self, caller: Caller) -> list[ColumnElement[bool]]:
        """The conditions that limit a query to the rows that the caller sees."""
        return [self.fleet_of().in_(caller.fleets)] if self.in_fleets and caller.fleets is not None else []
