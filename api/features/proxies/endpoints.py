"""The endpoints of the collection /proxies."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query

from api.features.proxies import config_dump
from api.features.proxies.schemas import ConfigOut
from api.features.proxies.service import PROXIES
from api.http.openapi import document_operator_errors
from api.http.parameters import Id
from api.kernel.caller import Caller, Permission
from api.kernel.collections.router import CHANGE, DELETE, READ, router_of
from api.kernel.context import Context

Resource = Annotated[
    str | None,
    Query(
        max_length=256,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="Only the resource of this name, with its content as JSON.",
    ),
]
Differences = Annotated[bool, Query(description="Only resources that differ from the desired ones.")]
router = router_of(PROXIES, can=frozenset({READ, CHANGE, DELETE}))


@router.get("/{proxy_id}/config", responses=document_operator_errors(404, 422))
async def read_config(
    proxy_id: Id,
    context: Context,
    caller: Annotated[Caller, Depends(Permission("proxies"))],
    *,
    resource: Resource = None,
    differences: Differences = False,
) -> ConfigOut:
    """Show the resources that a proxy has accepted now, and how they differ from the desired ones."""
    return await config_dump.show(context.database, caller, proxy_id, resource=resource, differences=differences)
