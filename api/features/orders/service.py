"""Asking agents to do something, and hearing what came of it."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from api.features.exits.service import EXITS
from api.features.orders.schemas import OUTCOME_BYTES_MAX, OrderKind, OrderOut, SettledIn
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
_LOOK_EVERY_S: Final = 0.2


async def order(work: WriteContext, ref: str, fleet: str | None, kind: OrderKind, detail: dict[str, Any]) -> WriteReply:
    """Ask the agent of an exit to do something. Raises Problem: 404, and 409 where that would interrupt clients."""
    row = await EXITS.lock(work, ref, fleet)
    if kind == "rotate":
        await _leave_one_that_serves(work, row)
    pool, owner = (await declared.pools_by_id(work.session, [row.pool_id]))[row.pool_id]
    if kind == "rotate":
        detail = {**detail, "country": pool.country}  # where the agent does not take a server elsewhere
    asked = ExitOrderRow(
        id=uuid4(), exit_id=row.id, kind=kind, detail=detail, asked_at=work.now, expires_at=work.now + EXPIRES_AFTER
    )
    await orders.add(work.session, asked)
    work.unit.audit(AuditEntry(f"{kind}_ordered", Kind.EXIT, str(row.id), owner.id, {"name": row.name}))
    shown = _show(asked, row.name, work.now)
    return WriteReply(202, shown, {"Location": f"/api/v1/exits/{row.id}/orders/{asked.id}"})


async def _leave_one_that_serves(work: WriteContext, row: ExitRow) -> None:
    if (
        work.approve is not None
        or row.state == ExitState.DISABLED
        or await orders.has_another_serving(work.session, row.id)
    ):
        return
    message = "no other exit of its pool serves while it takes another address"
    error = FieldError("?approve", message, "repeat it with ?approve=shrink if it is meant, or add an exit first")
    raise Problem(409, "would_shrink", message, errors=[error])


async def read(
    context: ApiContext, caller: Caller, ref: str, fleet: str | None, order_id: str, *, wait_s: float
) -> OrderOut:
    """An order, as soon as it is settled, or after `wait_s` as it is then. Raises Problem (404)."""
    deadline_s = asyncio.get_running_loop().time() + wait_s
    while True:
        shown = await _read_now(context, caller, ref, fleet, order_id)
        left_s = deadline_s - asyncio.get_running_loop().time()
        if shown.state != "pending" or left_s <= 0:
            return shown
        await asyncio.sleep(min(_LOOK_EVERY_S, left_s))


async def _read_now(context: ApiContext, caller: Caller, ref: str, fleet: str | None, order_id: str) -> OrderOut:
    async with context.database.snapshot() as session:
        row = await EXITS.find(session, caller, ref, fleet)
        id_ = as_id(order_id)
        found = None if id_ is None else await orders.find(session, row.id, id_)
        if found is None:
            message, hint = (
                "there is no such order of this exit",
                "name one that was answered when it was ordered, lately",
            )
            raise Problem(404, "unknown_order", message, errors=[FieldError("{order_id}", message, hint, order_id)])
        return _show(found, row.name, context.clock())


def _show(row: ExitOrderRow, exit_name: str, now: datetime) -> OrderOut:
    if row.done_at is not None:
        state = "failed" if row.trouble else "done"
    else:
        state = "pending" if now < row.expires_at else "expired"
    return OrderOut.of(row, exit=exit_name, state=state)


async def settle(context: ApiContext, exit_id: UUID, settled: list[SettledIn]) -> None:
    """Keep what an agent says came of its orders. Raises DatabaseUnreachable: the agent says it again."""
    async with context.database.session() as session:
        for each in settled:
            outcome, trouble = each.outcome, each.trouble
            if outcome is not None and len(json.dumps(outcome)) > OUTCOME_BYTES_MAX:
                outcome, trouble = None, "its answer is too long to be kept"
            await orders.complete(
                session, exit_id, each.id, now=context.clock(), outcome=None if trouble else outcome, trouble=trouble
            )
    for each in settled:
        context.orders.forget(exit_id, each.id)
