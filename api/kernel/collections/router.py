"""The endpoints that every collection has.

List, create, read, replace, patch, delete, and create and delete in bulk. Lists have filters and pages (`limit`, `cursor`,
`sort`). A read has an `ETag`, and a change takes `If-Match`. A POST takes an `Idempotency-Key`. Every write takes
`dry_run=true` and `Prefer: wait=5`.
"""

# without `from __future__ import annotations`: the framework reads the types below, which are made at run time

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from pydantic import BaseModel

from api.http.field_errors import FieldError
from api.http.field_types import Reference
from api.http.openapi import document_operator_errors, document_write_errors
from api.http.paths import BASE_PATH, PATH_FIELDS
from api.http.problems import Problem, locate_errors
from api.http.request_body import JsonRoute
from api.kernel.caller import Caller, Permission
from api.kernel.collections.collection import Collection
from api.kernel.collections.descriptions import Descriptions
from api.kernel.collections.schemas import BulkIn, BulkOut, Page
from api.kernel.context import Context
from api.kernel.dry_run import DryRunOut
from api.kernel.writes import OperatorWrite, WriteContext, WriteReply, require_write

READ, CREATE, CHANGE, DELETE = "read", "create", "change", "delete"
ALL = frozenset({READ, CREATE, CHANGE, DELETE})
IfMatch = Annotated[
    str | None,
    Header(max_length=1_000, description="The ETag of the last read. 412 if the resource has changed since."),
]
OfFleet = Annotated[
    Reference | None,
    Query(alias="fleet", description="The name or id of the fleet, where several fleets have this name."),
]


def router_of(collection: Collection[Any, Any, Any], can: frozenset[str] = ALL) -> APIRouter:
    """Make a router with the endpoints of a collection that `can` names."""
    router = APIRouter(prefix=f"/{collection.name}", tags=[collection.name], route_class=JsonRoute)
    kind, name = (each.replace("-", "_") for each in (collection.kind, collection.name))
    describe = Descriptions(collection)
    one = "/" + PATH_FIELDS[collection.kind]
    shown_model = collection.response_model
    Ref = Annotated[
        str,
        Path(
            alias=PATH_FIELDS[collection.kind].strip("{}"),
            description="An id or a name." if collection.has_name else "An id.",
        ),
    ]
    Fleet = OfFleet if collection.has_name and collection.has_fleet else Annotated[None, Depends(_nothing)]
    MayRead = Annotated[Caller, Depends(Permission(collection.name))]
    MayWrite = Annotated[OperatorWrite, require_write(collection.name)]
    shown: dict[int | str, dict[str, Any]] = {200: {"headers": _ETAG}}
    tried: dict[int | str, dict[str, Any]] = {200: {"model": DryRunOut, "description": "With `dry_run`."}}

    @router.get(
        "",
        name=f"list_{name}",
        description=describe.list,
        response_model=Page[shown_model],
        responses=document_operator_errors(422),
    )
    async def list_all(
        query: Annotated[collection.query_model, Query()], context: Context, caller: MayRead
    ) -> Response:
        async with context.database.snapshot() as session:
            return _json(await collection.page(context.begin_read(session), caller, query))

    if CREATE in can:

        @router.post(
            "",
            name=f"create_{kind}",
            description=describe.create,
            status_code=201,
            response_model=shown_model,
            responses={**document_write_errors(404, 409), **tried},
        )
        async def create(body: collection.request_model, write: MayWrite) -> Response:
            async def do(work: WriteContext) -> WriteReply:
                made = await collection.show_one(work.read, await collection.create(work, body))
                headers = {"Location": f"{BASE_PATH}/{collection.name}/{made.id}", "ETag": collection.etag(made)}
                return WriteReply(201, made, headers)

            return await write.run(do)

        @router.post(
            "/bulk",
            name=f"change_{name}_in_bulk",
            description=describe.bulk,
            response_model=BulkOut[shown_model] | DryRunOut,
            responses=document_write_errors(404, 409),
        )
        async def bulk(body: BulkIn[collection.request_model], write: MayWrite, of_fleet: Fleet = None) -> Response:
            return await write.run(partial(_write_in_bulk, collection, body, of_fleet))

    @router.get(
        one,
        name=f"read_{kind}",
        description=describe.read,
        response_model=shown_model,
        responses={**document_operator_errors(404, 409, 422), **shown},
    )
    async def read(ref: Ref, context: Context, caller: MayRead, of_fleet: Fleet = None) -> Response:
        async with context.database.snapshot() as session:
            found = await collection.show_one(
                context.begin_read(session), await collection.find(session, caller, ref, of_fleet)
            )
        return _json(found, {"ETag": collection.etag(found)})

    async def change(
        write: OperatorWrite, ref: str, fleet: str | None, if_match: str | None, fields: dict[str, Any]
    ) -> Response:
        async def do(work: WriteContext) -> WriteReply:
            row = await collection.lock(work, ref, fleet)
            await _check(collection, work, row, if_match)
            await collection.change(work, row, fields)
            changed = await collection.show_one(work.read, row)
            return WriteReply(200, changed, {"ETag": collection.etag(changed)})

        return await write.run(do)

    if CHANGE in can:
        refusals = {**document_write_errors(404, 409, 412), **shown}

        @router.patch(
            one,
            name=f"change_{kind}",
            description=describe.patch,
            response_model=shown_model | DryRunOut,
            responses=refusals,
        )
        async def patch(
            ref: Ref, body: collection.patch_model, write: MayWrite, of_fleet: Fleet = None, if_match: IfMatch = None
        ) -> Response:
            return await change(write, ref, of_fleet, if_match, body.model_dump(exclude_unset=True))

        @router.put(
            one,
            name=f"replace_{kind}",
            description=describe.put,
            response_model=shown_model | DryRunOut,
            responses=refusals,
        )
        async def replace(
            ref: Ref, body: collection.request_model, write: MayWrite, of_fleet: Fleet = None, if_match: IfMatch = None
        ) -> Response:
            return await change(write, ref, of_fleet, if_match, body.model_dump())

    if DELETE in can:

        @router.delete(
            one,
            name=f"delete_{kind}",
            description=describe.delete,
            status_code=204,
            responses={**document_operator_errors(404, 409, 412, 422), **tried},
        )
        async def delete(ref: Ref, write: MayWrite, of_fleet: Fleet = None, if_match: IfMatch = None) -> Response:
            async def do(work: WriteContext) -> WriteReply:
                row = await collection.lock(work, ref, of_fleet)
                await _check(collection, work, row, if_match)
                await collection.remove(work, row)
                return WriteReply(204)

            return await write.run(do)

    return router


async def _write_in_bulk(
    collection: Collection[Any, Any, Any], body: BulkIn[Any], fleet: str | None, work: WriteContext
) -> WriteReply:
    deleted, rows = [], []
    for index, ref in enumerate(body.delete):
        with locate_errors(f"/delete/{index}", whole=True):
            row = await collection.lock(work, ref, fleet)
            await collection.remove(work, row)
        deleted.append(str(row.id))
    for index, each in enumerate(body.create):
        with locate_errors(f"/create/{index}"):
            rows.append(await collection.create(work, each))
    return WriteReply(200, BulkOut(created=await collection.show(work.read, rows), deleted=deleted))


async def _check(collection: Collection[Any, Any, Any], work: WriteContext, row: Any, if_match: str | None) -> None:
    """Check If-Match (RFC 9110, section 13.1.1). Raises Problem (412) when the row has changed since the caller's read."""
    if if_match is None or if_match.strip() == "*":
        return
    now = collection.etag(await collection.show_one(work.read, row))
    if now not in [tag.strip() for tag in if_match.split(",")]:
        message = f"the {collection.kind} changed since it was read"
        error = FieldError("If-Match", message, "read it again, and send the new ETag", if_match)
        raise Problem(412, "changed_since", message, errors=[error], headers={"ETag": now})


def _json(body: BaseModel, headers: dict[str, str] | None = None) -> Response:
    return Response(
        body.__pydantic_serializer__.to_json(body, by_alias=True), headers=headers, media_type="application/json"
    )


async def _nothing() -> None:
    return None


_ETAG = {"ETag": {"description": "The value for `If-Match`.", "schema": {"type": "string"}}}
