"""The request and response models of lists and bulk writes, for every collection."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from typing import Annotated, Final, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.http.field_types import Reference, RequestModel, ResponseModel
from api.http.validators import bad_value

PAGE_SIZE: Final = 1_000
PAGE_SIZE_MAX: Final = 10_000
BULK_MAX: Final = 1_000
In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)


def _check_pattern(value: str) -> str:
    if "*" in value[:-1] or "\0" in value:
        raise bad_value("bad_pattern", "a * may only be the last character", "send a name, or a prefix with a *")
    return value


Pattern = Annotated[
    str, Field(max_length=100, description="A name, or a prefix that ends in `*`."), AfterValidator(_check_pattern)
]


class ListQuery(BaseModel):
    """The query parameters of every list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(PAGE_SIZE, ge=1, le=PAGE_SIZE_MAX, description="The largest number of items on a page.")
    cursor: str | None = Field(None, max_length=1_000, description="`next` of the previous page.")
    sort: str | None = Field(None, max_length=50, description="A field, with a leading `-` for descending order.")


NUMBER_MAX: Final = 2**63 - 1
"""The largest id of items that are numbered."""


def _check_cursor(value: str) -> str:
    """Refuse a cursor with a number beyond a bigint, which PostgreSQL would not accept."""
    try:
        numbers = [int(part) for part in json.loads(urlsafe_b64decode(value + "=" * (-len(value) % 4)))[1:]]
    except (ValueError, TypeError, RecursionError):
        return value  # the listing refuses it with its own error
    if any(abs(number) > NUMBER_MAX for number in numbers):
        raise bad_value("bad_cursor", "this is not a cursor of this list", "send `next` of the previous page")
    return value


def read_number(ref: str) -> int | None:
    """Parse the id of a numbered item in a path; None when it is not one."""
    number = int(ref) if ref.isascii() and ref.isdecimal() and len(ref) < 20 else 0
    return number if 0 < number <= NUMBER_MAX else None


class NumberedListQuery(ListQuery):
    """The query parameters of lists of items whose ids are numbers."""

    cursor: Annotated[str, AfterValidator(_check_cursor)] | None = Field(
        None, max_length=1_000, description="`next` of the previous page."
    )


class FleetListQuery(ListQuery):
    """The query parameters of lists of items in fleets."""

    fleet: Reference | None = Field(None, description="Only the items of this fleet, by its name or id.")
    name: Pattern | None = None


class Page(ResponseModel, Generic[Out]):
    items: list[Out]
    next: str | None = Field(description="The cursor of the next page; null on the last page.")


class BulkIn(RequestModel, Generic[In]):
    """Deletions and creations, in this order. All are executed in one revision, or none."""

    create: list[In] = Field(default=[], max_length=BULK_MAX)
    delete: list[str] = Field(default=[], max_length=BULK_MAX, description="Ids or names.")


class BulkOut(ResponseModel, Generic[Out]):
    created: list[Out]
    deleted: list[str] = Field(description="Ids.")
