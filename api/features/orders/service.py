"""Orders to agents, and their results."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from api.features.exits.service import EXITS
from api.features.orders.schemas import OUTCOME_BYTES_MAX, OrderKind, OrderOut, OrderResultIn
from api.http.field_errors import FieldError
from api.http.field_types import as_id
from api.http.problems import Problem
from api.kernel.caller import Caller
from api.kernel.context import ApiContext
from api.kernel.writes import WriteContext, WriteReply
from model.audit_log import AuditEntry
from model.exit_states import ExitState
from model.repositories import declared, orders
from model.tables import ExitOrderRow, ExitRow
from model.world import Kind

EXPIRES_AFTER: Final = timedelta(minutes=5)
_POLL_INTERVAL_S: Final = 0.2


async def order(work: WriteContext, ref: str, fleet: str | None, kind: OrderKind, detail: dict[str, Any]) -> WriteReply:
    """Record an order to the agent of an exit. Raises Problem: 404, and 409 when it would interrupt clients."""
    row = await EXITS.lock(work, ref, fleet)
    if kind == "rotate":
        await _demand_another_serving_exit(work, row)
    pool, owner = (await declared.pools_by_id(work.session, [row.pool_id]))[row.pool_id]
    if kind == "rotate":
        detail = {**detail, "country": pool.country}  # the agent may not switch to a server of another country
    created = ExitOrderRow(
        id=uuid4(), exit_id=row.id, kind=kind, detail=detail, asked_at=work.now, expires_at=work.now + EXPIRES_AFTER
    )
    await orders.add(work.session, created)
    work.unit.audit(AuditEntry(f"{kind}_ordered", Kind.EXIT, str(row.id), owner.id, {"name": row.name}))
    shown = _show(created, row.name, work.now)
    return WriteReply(202, shown, {"Location": f"/api/v1/exits/{row.id}/orders/{created.id}"})


async def _demand_another_serving_exit(work: WriteContext, row: ExitRow) -> None:
    if (
        work.approve is not None
        or row.state == ExitState.DISABLED
        or await orders.has_another_serving(work.session, row.id)
    ):
        return
    message = f"no other exit of the pool would serve while {row.name} rotates"
    error = FieldError("?approve", message, "repeat it with ?approve=shrink to do it anyway, or add an exit first")
    raise Problem(409, "would_shrink", message, errors=[error])


async def read(
    context: ApiContext, caller: Caller, ref: str, fleet: str | None, order_id: str, *, wait_s: float
) -> OrderOut:
    """Return an order once it is no longer pending, or after `wait_s` seconds. Raises Problem (404)."""
    deadline_s = asyncio.get_running_loop().time() + wait_s
    while True:
        shown = await _read_once(context, caller, ref, fleet, order_id)
        remaining_s = deadline_s - asyncio.get_running_loop().time()
        if shown.state != "pending" or remaining_s <= 0:
            return shown
        await asyncio.sleep(min(_POLL_INTERVAL_S, remaining_s))


async def _read_once(context: ApiContext, caller: Caller, ref: str, fleet: str | None, order_id: str) -> OrderOut:
    async with context.database.snapshot() as session:
        row = await EXITS.find(session, caller, ref, fleet)
        id_ = as_id(order_id)
        found = None if id_ is None else await orders.find(session, row.id, id_)
        if found is None:
            message, hint = (
                "this exit has no such order, or it was removed because it is old",
                "use the id from the reply to the order",
            )
            raise Problem(404, "unknown_order", message, errors=[FieldError("{order_id}", message, hint, order_id)])
        return _show(found, row.name, context.clock())


def _show(row: ExitOrderRow, exit_name: str, now: datetime) -> OrderOut:
    if row.done_at is not None:
        state = "failed" if row.error else "done"
    else:
        state = "pending" if now < row.expires_at else "expired"
    return OrderOut.of(row, exit=exit_name, state=state, created_at=row.asked_at, error=row.error)


async def record_results(context: ApiContext, exit_id: UUID, results: list[OrderResultIn]) -> None:
    """Store the results that an agent reports. Raises DatabaseUnreachable; the agent then reports them again."""
    async with context.database.session() as session:
        for each in results:
            outcome, error = each.outcome, each.error
            if outcome is not None and len(json.dumps(outcome)) > OUTCOME_BYTES_MAX:
                outcome, error = None, f"the result is longer than {OUTCOME_BYTES_MAX} bytes, so it was dropped"
            await orders.complete(
                session, exit_id, each.id, now=context.clock(), outcome=None if error else outcome, error=error
            )
    for each in results:
        context.pending_orders.remove(exit_id, each.id)
