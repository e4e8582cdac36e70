"""Reading of messages and their deliveries. The keeper writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlmodel import col

from api.features.messages.schemas import MessageOut, MessageQuery
from api.http.field_types import ResponseModel
from api.kernel.collections.collection import Collection
from api.kernel.collections.schemas import read_number
from api.kernel.context import ReadContext
from model.tables import MessageRow

_CONTENT = ("title", "body", "kind", "items")


class MessageCollection(Collection[MessageRow, ResponseModel, MessageOut]):
    name, kind = "messages", "message"
    table, response_model, query_model = MessageRow, MessageOut, MessageQuery
    has_name = in_fleets = has_fleet = False
    sort = "-id"

    def sortable(self) -> Mapping[str, Any]:
        return {"id": col(MessageRow.id), "created_at": col(MessageRow.created_at)}

    def read_id(self, ref: str) -> int | None:
        return read_number(ref)

    async def show(self, look: ReadContext, rows: Sequence[MessageRow]) -> list[MessageOut]:  # noqa: ARG002 - the base class's
        return [
            MessageOut.of(
                row,
                **{name: row.content[name] for name in _CONTENT},
                next_attempt_at=row.due_at if row.state == "pending" else None,
            )
            for row in rows
        ]


MESSAGES = MessageCollection()
