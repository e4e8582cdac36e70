"""The collection /proxies."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query

from api.auth.caller import Caller, Permit
from api.collections.router import CHANGE, DELETE, READ, router_of
from api.context import Context
from api.openapi import for_operators
from api.parameters import Id
from api.proxies import config
from api.proxies.schemas import ConfigOut
from api.proxies.service import PROXIES

Resource = Annotated[
    str | None,
    Query(max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$", description="Only this one, with its content as JSON."),
]
Differences = Annotated[bool, Query(description="Only what differs.")]
router = router_of(PROXIES, can=frozenset({READ, CHANGE, DELETE}))


@router.get("/{proxy_id}/config", responses=for_operators(404, 422))
async def read_config(
    proxy_id: Id,
    context: Context,
    caller: Annotated[Caller, Depends(Permit("proxies"))],
    *,
    resource: Resource = None,
    differences: Differences = False,
) -> ConfigOut:
    """The resources that the proxy holds, and the difference to what it should hold, as of now."""
    return await config.show(context.database, caller, proxy_id, resource=resource, differences=differences)
