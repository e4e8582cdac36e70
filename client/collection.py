"""A collection as a program meets it: typed, by the schemas of the API itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, cast

from pydantic import BaseModel

from api.http.paths import BASE_PATH, PATH_FIELDS
from api.kernel.collections.schemas import BulkIn, BulkOut, Page
from api.kernel.dry_run import DryRunOut
from client.transport import Operation, Reply, Transport, Value

In = TypeVar("In", bound=BaseModel)
Patch = TypeVar("Patch", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)


class WriteOptions(TypedDict, total=False):
    """What a write may be given beside what it writes."""

    approve: Literal["shrink"] | None
    """Yes, although it leaves less than half of the fleet."""
    wait_s: int
    """Return once the proxies have answered, after this many seconds at most."""


class GivenOne(WriteOptions, total=False):
    fleet: str | None
    """Where several fleets have a thing of this name."""
    if_match: str
    """The ETag that it was read with: refused if it changed since."""


class ReadableCollection(Generic[Out]):
    """What can be listed and read."""

    def __init__(self, transport: Transport, name: str, kind: str, out: type[Out]) -> None:
        self._transport = transport
        self._names, word = name.replace("-", "_"), kind.replace("-", "_")
        self.path = f"{BASE_PATH}/{name}"
        self.one = f"{self.path}/{PATH_FIELDS[kind]}"
        self._out = out
        self._read = Operation(f"read_{word}", "GET", self.one, None, out)

    @cached_property
    def _list(self) -> Operation[Page[Out]]:
        page = cast("type[Page[Out]]", Page.__class_getitem__(self._out))
        return Operation(f"list_{self._names}", "GET", self.path, None, page)

    def operations(self) -> Iterator[Operation[Any]]:
        """Those of the OpenAPI document."""
        yield from (self._list, self._read)

    async def page(self, **query: Value) -> Page[Out]:
        """One page: `limit`, `cursor`, `sort`, and the filters of the collection."""
        return (await self._transport.send(self._list, query=query)).value

    async def list(self, **query: Value) -> AsyncIterator[Out]:
        """All that there are, page by page: `sort`, the filters of the collection, and `limit` for the size of a page."""
        while True:
            page = await self.page(**query)
            for item in page.items:
                yield item
            if page.next is None:
                return
            query["cursor"] = page.next

    async def read(self, ref: object, *, fleet: str | None = None) -> Out:
        """One, by its id or name."""
        return (await self.read_with_etag(ref, fleet=fleet)).value

    async def read_with_etag(self, ref: object, *, fleet: str | None = None) -> Reply[Out]:
        """One, with the ETag that `if_match` takes."""
        return await self._transport.send(self._read, str(ref), query={"fleet": fleet})


class ChangeableCollection(ReadableCollection[Out], Generic[In, Patch, Out]):
    """What can be changed and deleted too."""

    def __init__(
        self, transport: Transport, name: str, kind: str, schemas: tuple[type[In], type[Patch], type[Out]]
    ) -> None:
        wish, patch, out = schemas
        super().__init__(transport, name, kind, out)
        word = kind.replace("-", "_")
        self._replace = Operation(f"replace_{word}", "PUT", self.one, wish, out)
        self._change = Operation(f"change_{word}", "PATCH", self.one, patch, out, repeatable=False)
        self._delete: Operation[None] = Operation(f"delete_{word}", "DELETE", self.one, None, None, repeatable=False)

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield from (self._replace, self._change, self._delete)

    async def replace(self, ref: object, wish: In, **given: Unpack[GivenOne]) -> Out:
        """Make one what is wished for."""
        query, headers = sort_out(given)
        return (await self._transport.send(self._replace, str(ref), query=query, body=wish, headers=headers)).value

    async def change(self, ref: object, patch: Patch, **given: Unpack[GivenOne]) -> Out:
        """Change the fields that were set in the patch."""
        query, headers = sort_out(given)
        return (await self._transport.send(self._change, str(ref), query=query, body=patch, headers=headers)).value

    async def delete(self, ref: object, **given: Unpack[GivenOne]) -> None:
        """Delete one."""
        query, headers = sort_out(given)
        await self._transport.send(self._delete, str(ref), query=query, headers=headers)

    async def try_replace(self, ref: object, wish: In, **given: Unpack[GivenOne]) -> DryRunOut:
        """What `replace` would do."""
        query, headers = sort_out(given)
        return await self._transport.dry_run(self._replace, str(ref), query=query, body=wish, headers=headers)

    async def try_change(self, ref: object, patch: Patch, **given: Unpack[GivenOne]) -> DryRunOut:
        """What `change` would do."""
        query, headers = sort_out(given)
        return await self._transport.dry_run(self._change, str(ref), query=query, body=patch, headers=headers)

    async def try_delete(self, ref: object, **given: Unpack[GivenOne]) -> DryRunOut:
        """What `delete` would do."""
        query, headers = sort_out(given)
        return await self._transport.dry_run(self._delete, str(ref), query=query, headers=headers)


class CreatableCollection(ChangeableCollection[In, Patch, Out], Generic[In, Patch, Out]):
    """What can be created too."""

    def __init__(
        self, transport: Transport, name: str, kind: str, schemas: tuple[type[In], type[Patch], type[Out]]
    ) -> None:
        super().__init__(transport, name, kind, schemas)
        wish, _, out = schemas
        self._create = Operation(f"create_{kind.replace('-', '_')}", "POST", self.path, wish, out, keyed=True)

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield self._create

    async def create(self, wish: In, **given: Unpack[WriteOptions]) -> Out:
        """Create one."""
        query, headers = sort_out(given)
        return (await self._transport.send(self._create, query=query, body=wish, headers=headers)).value

    async def try_create(self, wish: In, **given: Unpack[WriteOptions]) -> DryRunOut:
        """What `create` would do."""
        query, headers = sort_out(given)
        return await self._transport.dry_run(self._create, query=query, body=wish, headers=headers)


class CollectionClient(CreatableCollection[In, Patch, Out], Generic[In, Patch, Out]):
    """What can be created and deleted in bulk too."""

    def __init__(
        self, transport: Transport, name: str, kind: str, schemas: tuple[type[In], type[Patch], type[Out]]
    ) -> None:
        super().__init__(transport, name, kind, schemas)
        self._wish = schemas[0]

    @cached_property
    def _wishes(self) -> type[BulkIn[In]]:
        return cast("type[BulkIn[In]]", BulkIn.__class_getitem__(self._wish))

    @cached_property
    def _bulk(self) -> Operation[BulkOut[Out]]:
        answer = cast("type[BulkOut[Out]]", BulkOut.__class_getitem__(self._out))
        path = f"{self.path}/bulk"
        return Operation(f"change_{self._names}_in_bulk", "POST", path, self._wishes, answer, keyed=True)

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield self._bulk

    async def bulk(
        self,
        *,
        create: Sequence[In] = (),
        delete: Sequence[object] = (),
        fleet: str | None = None,
        **given: Unpack[WriteOptions],
    ) -> BulkOut[Out]:
        """Delete and create many in one revision, or nothing. `fleet` is that of what is deleted by name."""
        query, headers = sort_out(given)
        body = self._many(create, delete)
        return (
            await self._transport.send(self._bulk, query={**query, "fleet": fleet}, body=body, headers=headers)
        ).value

    async def try_bulk(
        self,
        *,
        create: Sequence[In] = (),
        delete: Sequence[object] = (),
        fleet: str | None = None,
        **given: Unpack[WriteOptions],
    ) -> DryRunOut:
        """What `bulk` would do."""
        query, headers = sort_out(given)
        body = self._many(create, delete)
        return await self._transport.dry_run(self._bulk, query={**query, "fleet": fleet}, body=body, headers=headers)

    def _many(self, create: Sequence[In], delete: Sequence[object]) -> BulkIn[In]:
        return self._wishes(create=[*create], delete=[str(ref) for ref in delete])


def sort_out(given: Mapping[str, object]) -> tuple[dict[str, Value], dict[str, str]]:
    """What of the options goes into the query, and what into headers."""
    query = {"approve": given.get("approve"), "fleet": given.get("fleet")}
    headers: dict[str, str] = {}
    if "wait_s" in given:
        headers["Prefer"] = f"wait={given['wait_s']}"
    if "if_match" in given:
        headers["If-Match"] = str(given["if_match"])
    return query, headers
