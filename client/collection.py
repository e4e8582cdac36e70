"""The collections of the API, typed by the API's own schemas."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, cast

from pydantic import BaseModel

from api.http.paths import BASE_PATH, PATH_FIELDS
from api.kernel.collections.schemas import BulkIn, BulkOut, Page
from api.kernel.dry_run import DryRunOut
from client.transport import Operation, QueryValue, Reply, Transport

In = TypeVar("In", bound=BaseModel)
Patch = TypeVar("Patch", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)


class WriteOptions(TypedDict, total=False):
    """The options of every write."""

    approve: Literal["shrink"] | None
    """`shrink` allows a change that leaves less than half of a fleet's pools or healthy exits."""
    wait_s: int
    """Return when the proxies have answered, after this many seconds at most."""


class ItemWriteOptions(WriteOptions, total=False):
    """The options of a write to one existing object."""

    fleet: str | None
    """The fleet of an object that is given by its name; needed where several fleets have one of this name."""
    if_match: str
    """The ETag with which the object was read: the write is refused if it changed since."""


class ReadableCollection(Generic[Out]):
    """A collection that can be listed and read."""

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
        """Yield the operations of the OpenAPI document that this client implements."""
        yield from (self._list, self._read)

    async def page(self, **query: QueryValue) -> Page[Out]:
        """Read one page. `query` takes `limit`, `cursor`, `sort` and the filters of the collection."""
        return (await self._transport.send(self._list, query=query)).value

    async def list(self, **query: QueryValue) -> AsyncIterator[Out]:
        """Read all items, page by page. `query` takes `sort`, the filters of the collection, and `limit`, the size of a page."""
        while True:
            page = await self.page(**query)
            for item in page.items:
                yield item
            if page.next is None:
                return
            query["cursor"] = page.next

    async def read(self, ref: object, *, fleet: str | None = None) -> Out:
        """Read one object by its id or name."""
        return (await self.read_with_etag(ref, fleet=fleet)).value

    async def read_with_etag(self, ref: object, *, fleet: str | None = None) -> Reply[Out]:
        """Read one object by its id or name, with the ETag for `if_match`."""
        return await self._transport.send(self._read, str(ref), query={"fleet": fleet})


class ChangeableCollection(ReadableCollection[Out], Generic[In, Patch, Out]):
    """A collection whose objects can be changed and deleted, too."""

    def __init__(
        self, transport: Transport, name: str, kind: str, schemas: tuple[type[In], type[Patch], type[Out]]
    ) -> None:
        item, patch, out = schemas
        super().__init__(transport, name, kind, out)
        word = kind.replace("-", "_")
        self._replace = Operation(f"replace_{word}", "PUT", self.one, item, out)
        self._change = Operation(f"change_{word}", "PATCH", self.one, patch, out, repeatable=False)
        self._delete: Operation[None] = Operation(f"delete_{word}", "DELETE", self.one, None, None, repeatable=False)

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield from (self._replace, self._change, self._delete)

    async def replace(self, ref: object, item: In, **options: Unpack[ItemWriteOptions]) -> Out:
        """Replace all fields of one object."""
        query, headers = split_options(options)
        return (await self._transport.send(self._replace, str(ref), query=query, body=item, headers=headers)).value

    async def change(self, ref: object, patch: Patch, **options: Unpack[ItemWriteOptions]) -> Out:
        """Change the fields of one object that are set in the patch."""
        query, headers = split_options(options)
        return (await self._transport.send(self._change, str(ref), query=query, body=patch, headers=headers)).value

    async def delete(self, ref: object, **options: Unpack[ItemWriteOptions]) -> None:
        """Delete one object."""
        query, headers = split_options(options)
        await self._transport.send(self._delete, str(ref), query=query, headers=headers)

    async def try_replace(self, ref: object, item: In, **options: Unpack[ItemWriteOptions]) -> DryRunOut:
        """Return what `replace` would do, without doing it."""
        query, headers = split_options(options)
        return await self._transport.dry_run(self._replace, str(ref), query=query, body=item, headers=headers)

    async def try_change(self, ref: object, patch: Patch, **options: Unpack[ItemWriteOptions]) -> DryRunOut:
        """Return what `change` would do, without doing it."""
        query, headers = split_options(options)
        return await self._transport.dry_run(self._change, str(ref), query=query, body=patch, headers=headers)

    async def try_delete(self, ref: object, **options: Unpack[ItemWriteOptions]) -> DryRunOut:
        """Return what `delete` would do, without doing it."""
        query, headers = split_options(options)
        return await self._transport.dry_run(self._delete, str(ref), query=query, headers=headers)


class CreatableCollection(ChangeableCollection[In, Patch, Out], Generic[In, Patch, Out]):
    """A collection whose objects can be created, too."""

    def __init__(
        self, transport: Transport, name: str, kind: str, schemas: tuple[type[In], type[Patch], type[Out]]
    ) -> None:
        super().__init__(transport, name, kind, schemas)
        item, _, out = schemas
        self._create = Operation(
            f"create_{kind.replace('-', '_')}", "POST", self.path, item, out, takes_idempotency_key=True
        )

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield self._create

    async def create(self, item: In, **options: Unpack[WriteOptions]) -> Out:
        """Create one object."""
        query, headers = split_options(options)
        return (await self._transport.send(self._create, query=query, body=item, headers=headers)).value

    async def try_create(self, item: In, **options: Unpack[WriteOptions]) -> DryRunOut:
        """Return what `create` would do, without doing it."""
        query, headers = split_options(options)
        return await self._transport.dry_run(self._create, query=query, body=item, headers=headers)


class CollectionClient(CreatableCollection[In, Patch, Out], Generic[In, Patch, Out]):
    """A collection whose objects can be created and deleted in bulk, too."""

    def __init__(
        self, transport: Transport, name: str, kind: str, schemas: tuple[type[In], type[Patch], type[Out]]
    ) -> None:
        super().__init__(transport, name, kind, schemas)
        self._in_schema = schemas[0]

    @cached_property
    def _bulk_schema(self) -> type[BulkIn[In]]:
        return cast("type[BulkIn[In]]", BulkIn.__class_getitem__(self._in_schema))

    @cached_property
    def _bulk(self) -> Operation[BulkOut[Out]]:
        response = cast("type[BulkOut[Out]]", BulkOut.__class_getitem__(self._out))
        path = f"{self.path}/bulk"
        return Operation(
            f"change_{self._names}_in_bulk", "POST", path, self._bulk_schema, response, takes_idempotency_key=True
        )

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield self._bulk

    async def bulk(
        self,
        *,
        create: Sequence[In] = (),
        delete: Sequence[object] = (),
        fleet: str | None = None,
        **options: Unpack[WriteOptions],
    ) -> BulkOut[Out]:
        """Delete and create many objects in one revision, or none. `fleet` is the fleet of objects deleted by name."""
        query, headers = split_options(options)
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
        **options: Unpack[WriteOptions],
    ) -> DryRunOut:
        """Return what `bulk` would do, without doing it."""
        query, headers = split_options(options)
        body = self._many(create, delete)
        return await self._transport.dry_run(self._bulk, query={**query, "fleet": fleet}, body=body, headers=headers)

    def _many(self, create: Sequence[In], delete: Sequence[object]) -> BulkIn[In]:
        return self._bulk_schema(create=[*create], delete=[str(ref) for ref in delete])


def split_options(options: Mapping[str, object]) -> tuple[dict[str, QueryValue], dict[str, str]]:
    """Split the options of a write into query parameters and headers."""
    query = {"approve": options.get("approve"), "fleet": options.get("fleet")}
    headers: dict[str, str] = {}
    if "wait_s" in options:
        headers["Prefer"] = f"wait={options['wait_s']}"
    if "if_match" in options:
        headers["If-Match"] = str(options["if_match"])
    return query, headers
