"""The endpoints of the collection /exits, with drain, enable, disable and history."""

from __future__ import annotations

from datetime import timedelta
from itertools import islice
from typing import Annotated

from fastapi import Depends, Query, Response

from api.features.exits.schemas import STATE_PERIODS_MAX, ExitOut, HistoryOut, StatePeriodOut, SummaryOut
from api.features.exits.service import EXITS
from api.http.limits import HISTORY_HOURS_MAX
from api.http.openapi import document_operator_errors
from api.http.parameters import Ref
from api.kernel.caller import Caller, Permission
from api.kernel.collections.router import OfFleet, router_of
from api.kernel.context import Context
from api.kernel.dry_run import DryRunOut
from api.kernel.writes import OperatorWrite, WriteContext, WriteReply, require_write
from model.exit_states import ExitState
from model.repositories import exit_history
from model.state_history import HistorySummary, intervals_of, summarize

router = router_of(EXITS)
Writing = Annotated[OperatorWrite, require_write("exits")]
Hours = Annotated[
    int, Query(ge=1, le=HISTORY_HOURS_MAX, description="The length of the window in hours, back from now.")
]
_SWITCH_PROBLEMS = document_operator_errors(404, 409, 422)


@router.post("/{exit_id}/drain", response_model=ExitOut | DryRunOut, responses=_SWITCH_PROBLEMS)
async def drain_exit(exit_id: Ref, write: Writing, of_fleet: OfFleet = None) -> Response:
    """Drain an exit: it gets no new clients. Its open tunnels continue until their clients close them."""
    return await _switch(write, exit_id, of_fleet, ExitState.DRAINING)


@router.post("/{exit_id}/enable", response_model=ExitOut | DryRunOut, responses=_SWITCH_PROBLEMS)
async def enable_exit(exit_id: Ref, write: Writing, of_fleet: OfFleet = None) -> Response:
    """Enable a drained or disabled exit: it serves again after its next heartbeat. Any other exit is left unchanged."""
    return await _switch(write, exit_id, of_fleet, ExitState.REGISTERING)


@router.post("/{exit_id}/disable", response_model=ExitOut | DryRunOut, responses=_SWITCH_PROBLEMS)
async def disable_exit(exit_id: Ref, write: Writing, of_fleet: OfFleet = None) -> Response:
    """Disable an exit: it serves nobody until it is enabled."""
    return await _switch(write, exit_id, of_fleet, ExitState.DISABLED)


async def _switch(write: OperatorWrite, ref: str, fleet: str | None, state: ExitState) -> Response:
    async def do(work: WriteContext) -> WriteReply:
        row = await EXITS.lock(work, ref, fleet)
        await EXITS.switch(work, row, state)
        shown = await EXITS.show_one(work.read, row)
        return WriteReply(200, shown, {"ETag": EXITS.etag(shown)})

    return await write.run(do)


@router.get("/{exit_id}/history", responses=document_operator_errors(404, 409, 422))
async def read_exit_history(
    exit_id: Ref,
    context: Context,
    caller: Annotated[Caller, Depends(Permission("exits"))],
    hours: Hours = 24,
    of_fleet: OfFleet = None,
) -> HistoryOut:
    """Show the states of an exit within a window, and compare the window with the previous one."""
    now, window = context.clock(), timedelta(hours=hours)
    async with context.database.snapshot() as session:
        row = await EXITS.find(session, caller, exit_id, of_fleet)
        changes = await exit_history.states_since(session, row.id, now - 2 * window)
    periods = list(intervals_of([(each.at, ExitState(each.state), each.reason) for each in changes]))
    within = [each for each in periods if each.until is None or each.until > now - window]
    return HistoryOut(
        since=now - window,
        until=now,
        summary=_show_summary(summarize(periods, now - window, now)),
        before=_show_summary(summarize(periods, now - 2 * window, now - window)),
        states=[StatePeriodOut.of(each) for each in islice(reversed(within), STATE_PERIODS_MAX)],
    )


def _show_summary(summary: HistorySummary) -> SummaryOut:
    between, recover = summary.mean_time_between_failures, summary.mean_time_to_recover
    return SummaryOut(
        uptime=summary.uptime,
        serving_s=summary.serving.total_seconds(),
        failures=summary.failures,
        mean_time_between_failures_s=None if between is None else between.total_seconds(),
        mean_time_to_recover_s=None if recover is None else recover.total_seconds(),
    )
