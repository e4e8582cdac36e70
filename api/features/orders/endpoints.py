"""POST /exits/{exit_id}/rotate, /speed-test and /logs, and the results of these orders."""

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
    "responses": {
        200: {"model": DryRunOut, "description": "The result of a dry run"},
        **document_operator_errors(404, 409, 422),
    },
}


@router.post("/rotate", **_ORDERED)
async def rotate_exit(exit_id: Ref, write: Writing, of_fleet: OfFleet = None) -> Response:
    """Order an exit to switch to another VPN server or address.

    An agent that brings up the tunnel itself, and has several servers, keeps the old tunnel until the new one is verified.
    Otherwise the pool's other exits serve its clients meanwhile. If the new tunnel does not come up, the old one is restored.
    """
    return await _order(write, exit_id, of_fleet, "rotate", {})


@router.post("/speed-test", **_ORDERED)
async def measure_exit_speed(exit_id: Ref, write: Writing, of_fleet: OfFleet = None) -> Response:
    """Order an exit to measure download, upload and round trips through its tunnel."""
    return await _order(write, exit_id, of_fleet, "speed-test", {})


@router.post("/logs", **_ORDERED)
async def read_exit_logs(
    exit_id: Ref,
    write: Writing,
    lines: Annotated[
        int, Query(ge=1, le=AGENT_LOG_LINES_MAX, description="How many of the newest lines to send.")
    ] = 100,
    of_fleet: OfFleet = None,
) -> Response:
    """Order an exit's agent to send the newest lines of its own log and of its Envoy's log."""
    return await _order(write, exit_id, of_fleet, "logs", {"lines": lines})


@router.get("/orders/{order_id}", responses=document_operator_errors(404, 409, 422))
async def read_exit_order(
    exit_id: Ref,
    order_id: Ref,
    context: Context,
    caller: Annotated[Caller, Depends(Permission("exits"))],
    wait: Annotated[
        float,
        Query(
            ge=0,
            le=LONGEST_WAIT_S,
            description="Reply once the order is no longer pending, after at most this many seconds.",
        ),
    ] = 0,
    of_fleet: OfFleet = None,
) -> OrderOut:
    """Read the state and the result of an order."""
    return await service.read(context, caller, exit_id, of_fleet, order_id, wait_s=wait)


async def _order(
    write: OperatorWrite, ref: str, fleet: str | None, kind: OrderKind, detail: dict[str, Any]
) -> Response:
    return await write.run(lambda work: service.order(work, ref, fleet, kind, detail))
