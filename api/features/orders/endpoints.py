"""POST /exits/{exit_id}/rotate, /speed-test and /logs, and what came of them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from api.features.orders import service
from api.features.orders.schemas import OrderKind, OrderOut
from api.http.limits import AGENT_LOG_LINES_MAX
from api.http.openapi import document_operator_errors
from api.http.parameters import Ref
from api.http.request_body import JsonRoute
from api.kernel.caller import Caller, Permission
from api.kernel.collections.router import OfFleet
from api.kernel.context import Context
from api.kernel.dry_run import DryRunOut
from api.kernel.writes import LONGEST_WAIT_S, OperatorWrite, require_write

router = APIRouter(prefix="/exits/{exit_id}", tags=["exits"], route_class=JsonRoute)
Writing = Annotated[OperatorWrite, require_write("exits")]
_ORDERED: dict[str, Any] = {
    "status_code": 202,
    "response_model": OrderOut | DryRunOut,
    "responses": {200: {"model": DryRunOut, "description": "With dry_run."}, **document_operator_errors(404, 409, 422)},
}


@router.post("/rotate", **_ORDERED)
async def rotate_exit(exit_id: Ref, write: Writing, of_fleet: OfFleet = None) -> Response:
    """Have an exit take another server or address.

    An exit whose agent brings its tunnel up itself, from several servers, keeps the old one until the new one is verified. Others
    send their clients to the other exits of the pool meanwhile. Where the new one does not come up, the old one is taken again.
    """
    return await _order(write, exit_id, of_fleet, "rotate", {})


@router.post("/speed-test", **_ORDERED)
async def measure_exit_speed(exit_id: Ref, write: Writing, of_fleet: OfFleet = None) -> Response:
    """Have an exit measure its download, upload and round trips through its tunnel."""
    return await _order(write, exit_id, of_fleet, "speed-test", {})


@router.post("/logs", **_ORDERED)
async def read_exit_logs(
    exit_id: Ref,
    write: Writing,
    lines: Annotated[int, Query(ge=1, le=AGENT_LOG_LINES_MAX, description="How many of the newest.")] = 100,
    of_fleet: OfFleet = None,
) -> Response:
    """Have an exit's agent send the newest lines of its own log and its Envoy's."""
    return await _order(write, exit_id, of_fleet, "logs", {"lines": lines})


@router.get("/orders/{order_id}", responses=document_operator_errors(404, 409, 422))
async def read_exit_order(
    exit_id: Ref,
    order_id: Ref,
    context: Context,
    caller: Annotated[Caller, Depends(Permission("exits"))],
    wait: Annotated[
        float, Query(ge=0, le=LONGEST_WAIT_S, description="Answer when it is settled, so many s later at most.")
    ] = 0,
    of_fleet: OfFleet = None,
) -> OrderOut:
    """What came of an order."""
    return await service.read(context, caller, exit_id, of_fleet, order_id, wait_s=wait)


async def _order(
    write: OperatorWrite, ref: str, fleet: str | None, kind: OrderKind, detail: dict[str, Any]
) -> Response:
    return await write.run(lambda work: service.order(work, ref, fleet, kind, detail))
