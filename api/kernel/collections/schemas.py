"""Lists, pages and bulk writes, as every collection takes and shows them."""

from __future__ import annotations

from typing import Annotated, Final, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.http.field_types import Reference, RequestModel, ResponseModel
from api.http.validators import bad_value

PAGE: Final = 1_000
PAGE_MAX: Final = 10_000
BULK_MAX: Final = 1_000
In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)


def _check_pattern(value: str) -> str:
    if "*" in value[:-1] or "\0" in value:
        raise bad_value("bad_pattern", "a * stands for the rest, at the end", "send a name, or its beginning and a *")
    return value


Pattern = Annotated[
    str, Field(max_length=100, description="A name, or its beginning with a `*`."), AfterValidator(_check_pattern)
]


class ListQuery(BaseModel):
    """What every list takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(PAGE, ge=1, le=PAGE_MAX, description="How many there are on a page at most.")
    cursor: str | None = Field(None, max_length=1_000, description="`next` of the page before.")
    sort: str | None = Field(None, max_length=50, description="A field, with `-` before it from the last one on.")


class FleetListQuery(ListQuery):
    """What the lists of things in fleets take."""

    fleet: Reference | None = Field(None, description="Only those of this fleet, by its name or id.")
    name: Pattern | None = None


class Page(ResponseModel, Generic[Out]):
    items: list[Out]
    next: str | None = Field(description="The cursor of the next page; null on the last one.")


class BulkIn(RequestModel, Generic[In]):
    """All of it is done, in one revision, or nothing. Deletions come first."""

    create: list[In] = Field(default=[], max_length=BULK_MAX)
    delete: list[str] = Field(default=[], max_length=BULK_MAX, description="Ids, or names.")


class BulkOut(ResponseModel, Generic[Out]):
    created: list[Out]
    deleted: list[str] = Field(description="Ids.")
