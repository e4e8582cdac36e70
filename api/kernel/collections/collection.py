"""A collection: what the API does with one kind of thing, and what it needs to know for that."""

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
from api.kernel.collections.listing import SortOrder, like, order_by
from api.kernel.collections.schemas import ListQuery, Page
from api.kernel.context import ReadContext
from api.kernel.writes import WriteContext
from model.repositories import declared
from model.tables import FleetRow

_OWNERS_MAX = 10
"""How many fleets are named to whoever has to choose one."""
Row = TypeVar("Row", bound=Any)
In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)


class Collection(ABC, Generic[Row, In, Out]):
    """One kind of thing that operators declare.

    A thing is named by its id; by its name too where that is unique within a fleet, or within all. The methods that write
    are given a row that is locked, and raise Problem.
    """

    name: ClassVar[str]
    """As in the path: `pools`."""
    kind: ClassVar[str]
    """`pool`."""
    table: type[Row]
    wish: type[In]
    patch: type[BaseModel]
    view: type[Out]
    query: type[ListQuery] = ListQuery
    has_name: ClassVar[bool] = True
    in_fleets: ClassVar[bool] = True
    """Whether callers who are for some fleets only see those of these alone."""
    has_fleet: ClassVar[bool] = True
    """Whether its names are unique within a fleet, rather than within all."""
    volatile: ClassVar[frozenset[str]] = frozenset()
    """Fields of the view that nobody declared: an ETag does not depend on them."""
    sort: ClassVar[str] = "name"

    # -- what a collection says of itself ------------------------------------------------------------------------------

    @abstractmethod
    async def show(self, look: ReadContext, rows: Sequence[Row]) -> list[Out]:
        """The rows as the API shows them."""

    async def create(self, work: WriteContext, wish: In) -> Row:
        """A new row."""
        raise NotImplementedError

    async def change(self, work: WriteContext, row: Row, fields: dict[str, Any]) -> None:
        """Give a row the values that were sent, by the names that they have in the schema."""
        raise NotImplementedError

    async def remove(self, work: WriteContext, row: Row) -> None:
        """Remove a row."""
        raise NotImplementedError

    @property
    def row_id(self) -> Any:
        return col(self.table.id)

    def fleet_of(self) -> Any:
        """The fleet that a row is of."""
        return col(self.table.fleet_id)

    def sortable(self) -> Mapping[str, Any]:
        """The columns to sort by, none of which may be NULL."""
        return {"name": col(self.table.name), "created_at": col(self.table.created_at)}

    def filters(self, query: Any) -> list[ColumnElement[bool]]:
        """What a list's query demands beyond the fleet and the name."""
        return [
            getattr(self.table, name) == value
            for name, value in query.model_dump(
                exclude_none=True, exclude={*ListQuery.model_fields, "fleet", "name"}
            ).items()
        ]

    # -- what follows from that ----------------------------------------------------------------------------------------

    async def page(self, look: ReadContext, caller: Caller, query: Any) -> Page[Out]:
        """One page of those that the caller sees and the query asks for."""
        order = order_by(query.sort, self.sort, self.sortable(), self.row_id)
        chosen = self._select().where(*self.visible(caller), *self.filters(query))
        if getattr(query, "fleet", None) is not None:
            chosen = chosen.where(self.fleet_of().in_(declared.ids_of(FleetRow, query.fleet)))
        if getattr(query, "name", None) is not None:
            chosen = chosen.where(like(col(self.table.name), query.name))
        rows: Sequence[Row] = (await look.session.execute(order.page_of(chosen, query.cursor, query.limit))).all()
        page = rows[: query.limit]
        return Page(items=await self.show(look, page), next=self._next(order, rows, page))

    def _select(self) -> Select[Any]:
        """The table's columns, whose rows have the names of its fields: objects that are followed cost twice as much."""
        return select(*inspect(self.table).columns)

    def _next(self, order: SortOrder, rows: Sequence[Row], page: Sequence[Row]) -> str | None:
        if len(rows) == len(page):
            return None
        return order.cursor_after(getattr(page[-1], order.name), getattr(page[-1], self.row_id.key or "id"))

    async def find(self, session: AsyncSession, caller: Caller, ref: str, fleet: str | None = None) -> Row:
        """A row, to read, by its id or name. Raises Problem: 404, or 409 for a name that several fleets use."""
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

    async def refer_to(
        self, session: AsyncSession, caller: Caller, ref: str, field: str, fleet: str | None = None
    ) -> Row:
        """A row that a query names by its id or name. Raises Problem (422)."""
        try:
            return await self.find(session, caller, ref, fleet)
        except Problem as problem:
            raise unknown(self.kind, field, ref) from problem

    def read_id(self, ref: str) -> Any:
        """The id that a path names; None when it is none."""
        return as_id(ref)

    async def lock(self, work: WriteContext, ref: str, fleet: str | None = None) -> Row:
        """The same, held against other writers until the unit ends."""
        row = await self.find(work.session, work.caller, ref, fleet)
        locked = await work.session.get(self.table, row.id, with_for_update=True, populate_existing=True)
        if locked is None:
            raise not_found(self.kind, ref)
        return locked

    async def show_one(self, look: ReadContext, row: Row) -> Out:
        """One row as the API shows it."""
        return (await self.show(look, [row]))[0]

    def etag(self, shown: Out) -> str:
        """What changes whenever what is declared of a thing does (RFC 9110, section 8.8.3)."""
        content = shown.model_dump_json(exclude=set(self.volatile))
        return f'"{hashlib.blake2b(content.encode(), digest_size=12).hexdigest()}"'

    async def stay(self, work: WriteContext, row: Row, fields: dict[str, Any]) -> None:
        """Take the fleet out of `fields`. Raises Problem (422) when it is another than the row's."""
        ref = fields.pop("fleet", None)
        if ref is None:
            return
        found = await declared.find_fleet(work.session, ref)
        if found is None or found.id != row.fleet_id:
            message, hint = f"a {self.kind} stays in its fleet", "leave it out, or create another there"
            raise Problem(422, "immutable", message, errors=[FieldError("/fleet", message, hint, ref)])

    def visible(self, caller: Caller) -> list[ColumnElement[bool]]:
        """What of the table there is for the caller."""
        return [self.fleet_of().in_(caller.fleets)] if self.in_fleets and caller.fleets is not None else []
