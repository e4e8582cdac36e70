"""Reading of the audit log. Each audited action writes its own entry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement
from sqlmodel import col

from api.features.audit_events.schemas import AuditEventOut, AuditQuery
from api.http.field_types import ResponseModel, as_id
from api.kernel.caller import Caller
from api.kernel.collections.collection import Collection
from api.kernel.collections.schemas import Page, read_number
from api.kernel.context import ApiContext, ReadContext
from model.repositories import declared
from model.tables import AuditRow, FleetRow

_FIELDS = {"kind": "kind", "action": "action", "object_id": "object_id", "actor": "actor_id"}


class AuditEventCollection(Collection[AuditRow, ResponseModel, AuditEventOut]):
    name, kind = "audit-events", "audit-event"
    table, response_model, query_model = AuditRow, AuditEventOut, AuditQuery
    has_name = in_fleets = has_fleet = False
    sort = "-sequence"

    @property
    def row_id(self) -> Any:
        return col(AuditRow.sequence)

    def sortable(self) -> Mapping[str, Any]:
        return {"sequence": col(AuditRow.sequence), "at": col(AuditRow.at)}

    def filters(self, query: AuditQuery) -> list[ColumnElement[bool]]:
        conditions = [
            getattr(AuditRow, column) == getattr(query, name)
            for name, column in _FIELDS.items()
            if getattr(query, name) is not None
        ]
        if query.since is not None:
            conditions.append(col(AuditRow.at) >= query.since)
        if query.until is not None:
            conditions.append(col(AuditRow.at) < query.until)
        if query.fleet is not None:
            fleet = as_id(query.fleet)
            fleets = [fleet] if fleet else declared.ids_of(FleetRow, query.fleet)
            conditions.append(col(AuditRow.fleet_id).in_(fleets))
        return conditions

    def read_id(self, ref: str) -> int | None:
        return read_number(ref)

    async def show(self, look: ReadContext, rows: Sequence[AuditRow]) -> list[AuditEventOut]:  # noqa: ARG002 - the base class's
        return [AuditEventOut.of(row) for row in rows]

    async def read(self, context: ApiContext, caller: Caller, query: AuditQuery) -> Page[AuditEventOut]:
        """Read one page. Raises Problem (422)."""
        async with context.database.session() as session:
            return await self.page(context.begin_read(session), caller, query)

    async def export(
        self, context: ApiContext, caller: Caller, query: AuditQuery, page: Page[AuditEventOut]
    ) -> AsyncIterator[bytes]:
        """Yield a page and, without a limit, all that follow it, as one line of JSON per event.

        No database connection is held between two pages, because the reader may be slow.
        """
        yield _as_ndjson(page)
        while page.next is not None and "limit" not in query.model_fields_set:
            page = await self.read(context, caller, query.model_copy(update={"cursor": page.next}))
            yield _as_ndjson(page)


def _as_ndjson(page: Page[AuditEventOut]) -> bytes:
    return b"".join(item.model_dump_json().encode() + b"\n" for item in page.items)


AUDIT_EVENTS = AuditEventCollection()
