"""The endpoint of the whole declared state: /declared."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from api.features.declared import service
from api.features.declared.schemas import AppliedOut, Declared
from api.http.field_types import Reference
from api.http.openapi import document_operator_errors, document_write_errors
from api.http.parameters import Filter
from api.http.request_body import LongJsonRoute
from api.kernel.caller import Caller, Permission
from api.kernel.context import Context
from api.kernel.dry_run import DryRunOut
from api.kernel.writes import OperatorWrite, WriteContext, WriteReply, require_write

router = APIRouter(prefix="/declared", tags=["declared"], route_class=LongJsonRoute)
Prune = Annotated[
    bool,
    Query(description="Delete what the document does not name, within its collections and fleets."),
]
Only = Annotated[Reference | None, Query(description="The only fleet that the document may touch, and that is pruned.")]
Defaults = Annotated[bool, Query(description="false: leave out fields that have their default value.")]


@router.get("", response_model=Declared, responses=document_operator_errors(404, 422))
async def export_declared(
    context: Context,
    caller: Annotated[Caller, Depends(Permission("declared"))],
    fleet: Filter = None,
    *,
    defaults: Defaults = True,
) -> Response:
    """Export the declared state (of one fleet) as a document. It has no keys of certificates, as they are never shown."""
    async with context.database.snapshot() as session:
        document = await service.export(context.begin_read(session), caller, fleet)
    content = document.model_dump_json(by_alias=True, exclude_defaults=not defaults)
    return Response(content, media_type="application/json")


@router.put("", response_model=AppliedOut | DryRunOut, responses=document_write_errors(404, 409))
async def apply_declared(
    document: Declared,
    write: Annotated[OperatorWrite, require_write("declared")],
    fleet: Only = None,
    *,
    prune: Prune = False,
) -> Response:
    """Change the declared state to what the document says, in one revision. After an error nothing is changed."""

    async def do(work: WriteContext) -> WriteReply:
        return WriteReply(200, await service.apply(work, document, prune=prune, fleet=fleet))

    return await write.run(do)
