"""The declared state as a whole: /declared."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from api.features.declared import service
from api.features.declared.schemas import AppliedOut, Declared
from api.http.field_types import Reference
from api.http.openapi import for_operators, written
from api.http.parameters import Filter
from api.http.request_body import LongJsonRoute
from api.kernel.caller import Caller, Permission
from api.kernel.context import Context
from api.kernel.dry_run import DryRunOut
from api.kernel.writes import OperatorWrite, WriteContext, WriteReply, require_write

router = APIRouter(prefix="/declared", tags=["declared"], route_class=LongJsonRoute)
Prune = Annotated[
    bool,
    Query(description="Delete what the document does not name, in its collections and of its fleets."),
]
Only = Annotated[
    Reference | None, Query(description="The only fleet that the document may be about, and that is pruned.")
]
Defaults = Annotated[bool, Query(description="false: without the fields that have their default.")]


@router.get("", response_model=Declared, responses=for_operators(404, 422))
async def export_declared(
    context: Context,
    caller: Annotated[Caller, Depends(Permission("declared"))],
    fleet: Filter = None,
    *,
    defaults: Defaults = True,
) -> Response:
    """All that is declared (in one fleet), as a document. Certificates are not in it, for their keys are never shown."""
    async with context.database.snapshot() as session:
        document = await service.export(context.begin_read(session), caller, fleet)
    content = document.model_dump_json(by_alias=True, exclude_defaults=not defaults)
    return Response(content, media_type="application/json")


@router.put("", response_model=AppliedOut | DryRunOut, responses=written(404, 409))
async def apply_declared(
    document: Declared,
    write: Annotated[OperatorWrite, require_write("declared")],
    fleet: Only = None,
    *,
    prune: Prune = False,
) -> Response:
    """Make what is declared what the document says: all of it in one revision, or nothing."""

    async def do(work: WriteContext) -> WriteReply:
        return WriteReply(200, await service.apply(work, document, prune=prune, fleet=fleet))

    return await write.run(do)
