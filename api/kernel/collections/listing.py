"""The order, pages and cursors of lists. A cursor stays valid while rows are added and removed."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, tuple_

from api.http.field_errors import FieldError
from api.http.problems import Problem


@dataclass(frozen=True, slots=True)
class SortOrder:
    """An order by a column, and by id where its values are equal."""

    name: str
    column: ColumnElement[Any]
    row_id: ColumnElement[Any]
    descending: bool

    def page_of(self, query: Select[Any], cursor: str | None, limit: int) -> Select[Any]:
        """Select the rows of one page, and one more row if a page follows. Raises Problem (422) for a wrong cursor."""
        if cursor is not None:
            key, last = tuple_(self.column, self.row_id), self._read(cursor)
            query = query.where(key < last if self.descending else key > last)
        directed = [column.desc() if self.descending else column.asc() for column in (self.column, self.row_id)]
        return query.order_by(*directed).limit(limit + 1)

    def cursor_after(self, value: Any, row_id: Any) -> str:
        """Make the cursor of the page after a row with this value and id."""
        plain = value.isoformat() if isinstance(value, datetime) else value
        return urlsafe_b64encode(json.dumps([self._sort, plain, str(row_id)]).encode()).decode().rstrip("=")

    @property
    def _sort(self) -> str:
        return f"-{self.name}" if self.descending else self.name

    def _read(self, cursor: str) -> tuple[Any, Any]:
        try:
            sort, value, row_id = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            if sort != self._sort:
                raise ValueError(sort)  # noqa: TRY301 - all errors of a cursor become the same problem
            kind, id_kind = self.column.type.python_type, self.row_id.type.python_type
            value = datetime.fromisoformat(value) if kind is datetime else value
            if not isinstance(value, kind) or "\0" in f"{value}{row_id}":
                raise TypeError(kind)  # noqa: TRY301
            return value, id_kind(row_id)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            message, hint = "this is not a cursor of this list", "send `next` of the previous page, with the same sort"
            raise Problem(422, "bad_cursor", message, errors=[FieldError("?cursor", message, hint, cursor)]) from error


def read_order(
    sort: str | None, default: str, sortable: Mapping[str, ColumnElement[Any]], row_id: ColumnElement[Any]
) -> SortOrder:
    """Read the order of a query. Raises Problem (422) for a field that cannot be sorted by."""
    wanted = sort or default
    name = wanted.removeprefix("-")
    if name not in sortable:
        message, hint = (
            "the list cannot be sorted by this field",
            f"send one of {', '.join(sorted(sortable))}, with a - for descending order",
        )
        raise Problem(422, "bad_sort", message, errors=[FieldError("?sort", message, hint, sort)])
    return SortOrder(name, sortable[name], row_id, wanted.startswith("-"))


def match_name(column: Any, pattern: str) -> ColumnElement[bool]:
    """Make the condition that a column equals a name, or has a prefix if `pattern` ends in `*`."""
    if pattern.endswith("*"):
        matches: ColumnElement[bool] = column.startswith(pattern[:-1], autoescape=True)
        return matches
    equals: ColumnElement[bool] = column == pattern
    return equals
