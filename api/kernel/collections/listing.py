"""Lists: filtered, sorted, and cut into pages by a cursor that stays good while rows come and go."""

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
    """By a column, and by id where that is equal."""

    name: str
    column: ColumnElement[Any]
    row_id: ColumnElement[Any]
    descending: bool

    def page_of(self, query: Select[Any], cursor: str | None, limit: int) -> Select[Any]:
        """The rows of one page, and one more if there is another. Raises Problem (422) for a cursor of another list."""
        if cursor is not None:
            key, last = tuple_(self.column, self.row_id), self._read(cursor)
            query = query.where(key < last if self.descending else key > last)
        directed = [column.desc() if self.descending else column.asc() for column in (self.column, self.row_id)]
        return query.order_by(*directed).limit(limit + 1)

    def cursor_after(self, value: Any, row_id: Any) -> str:
        """The cursor of what follows a row with this value and id."""
        plain = value.isoformat() if isinstance(value, datetime) else value
        return urlsafe_b64encode(json.dumps([self._sort, plain, str(row_id)]).encode()).decode().rstrip("=")

    @property
    def _sort(self) -> str:
        return f"-{self.name}" if self.descending else self.name

    def _read(self, cursor: str) -> tuple[Any, Any]:
        try:
            sort, value, row_id = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            if sort != self._sort:
                raise ValueError(sort)  # noqa: TRY301 - one refusal for all that is wrong with it
            kind, id_kind = self.column.type.python_type, self.row_id.type.python_type
            value = datetime.fromisoformat(value) if kind is datetime else value
            if not isinstance(value, kind) or "\0" in f"{value}{row_id}":
                raise TypeError(kind)  # noqa: TRY301
            return value, id_kind(row_id)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            message, hint = "this is no cursor of this list", "send `next` of the page before, with the same sort"
            raise Problem(422, "bad_cursor", message, errors=[FieldError("?cursor", message, hint, cursor)]) from error


def order_by(
    sort: str | None, default: str, sortable: Mapping[str, ColumnElement[Any]], row_id: ColumnElement[Any]
) -> SortOrder:
    """The order that a query asks for. Raises Problem (422) for a field that is none."""
    wanted = sort or default
    name = wanted.removeprefix("-")
    if name not in sortable:
        message, hint = "this is no field to sort by", f"send one of {', '.join(sorted(sortable))}, maybe with a -"
        raise Problem(422, "bad_sort", message, errors=[FieldError("?sort", message, hint, sort)])
    return SortOrder(name, sortable[name], row_id, wanted.startswith("-"))


def like(column: Any, pattern: str) -> ColumnElement[bool]:
    """Whether a column is a name, or begins as one that ends in `*`."""
    if pattern.endswith("*"):
        matches: ColumnElement[bool] = column.startswith(pattern[:-1], autoescape=True)
        return matches
    equals: ColumnElement[bool] = column == pattern
    return equals
