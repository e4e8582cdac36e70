"""The collection /exits, how exits are operated, and what they went through."""

from __future__ import annotations

from datetime import timedelta
from itertools import islice
from typing import Annotated

from fastapi import Depends, Query, Response

from api.features.exits.schemas import STAYS_MAX, ExitOut, HistoryOut, StayOut, SummaryOut
from api.features.exits.service import EXITS
from api.http.limits import HISTORY_HOURS_MAX
from api.http.openapi import for_operators
from api.http.parameters import Ref
from api.kernel.caller import Caller, Permission
from api.kernel.collections.router import OfFleet, router_of
from api.kernel.context import Context
from api.kernel.dry_run import DryRunOut
from api.kernel.writes import OperatorWrite, WriteContext, WriteReply, writing
from model.exit_states import ExitState
from model.repositories import exit_history
from model.state_history import HistorySummary, intervals_of, summarize

router = router_of(EXITS)
Writing = Annotated[OperatorWrite, writing("exits")]
Hours = Annotated[int, Query(ge=1, le=HISTORY_HOURS_MAX, description="How far back.")]
_SWITCHED = for_operators(404, 409, 422)


@router.post("/{exit_id}/drain", response_model=ExitOut | DryRunOut, responses=_SWITCHED)
async def drain_exit(exit_id: Ref, write: Writing, of_fleet: OfFleet = None) -> Response:
    """Offer an exit to nobody any more. Its open tunnels go on until their clients are done."""
    return await _switch(write, exit_id, of_fleet, ExitState.DRAINING)


@router.post("/{exit_id}/enable", response_model=ExitOut | DryRunOut, responses=_SWITCHED)
async def enable_exit(exit_id: Ref, write: Writing, of_fleet: OfFleet = None) -> Response:
    """Let an exit that was drained or disabled serve again, once it is heard of. Any other is left as it is."""
    return await _switch(write, exit_id, of_fleet, ExitState.REGISTERING)


@router.post("/{exit_id}/disable", response_model=ExitOut | DryRunOut, responses=_SWITCHED)
async def disable_exit(exit_id: Ref, write: Writing, of_fleet: OfFleet = None) -> Response:
    """Take an exit out."""
    return await _switch(write, exit_id, of_fleet, ExitState.DISABLED)


async def _switch(write: OperatorWrite, ref: str, fleet: str | None, state: ExitState) -> Response:
    async def do(work: WriteContext) -> WriteReply:
        row = await EXITS.lock(work, ref, fleet)
        await EXITS.switch(work, row, state)
        shown = await EXITS.show_one(work.look, row)
        return WriteReply(200, shown, {"ETag": EXITS.etag(shown)})

    return await write.run(do)


@router.get("/{exit_id}/history", responses=for_operators(404, 409, 422))
async def read_exit_history(
    exit_id: Ref,
    context: Context,
    caller: Annotated[Caller, Depends(Permission("exits"))],
    hours: Hours = 24,
    of_fleet: OfFleet = None,
) -> HistoryOut:
    """What an exit went through, and how that compares with the time before."""
    now, window = context.clock(), timedelta(hours=hours)
    async with context.database.snapshot() as session:
        row = await EXITS.find(session, caller, exit_id, of_fleet)
        noted = await exit_history.states_since(session, row.id, now - 2 * window)
    stays = list(intervals_of([(each.at, ExitState(each.state), each.reason) for each in noted]))
    within = [stay for stay in stays if stay.until is None or stay.until > now - window]
    return HistoryOut(
        since=now - window,
        until=now,
        summary=_show_summary(summarize(stays, now - window, now)),
        before=_show_summary(summarize(stays, now - 2 * window, now - window)),
        states=[StayOut.of(stay) for stay in islice(reversed(within), STAYS_MAX)],
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
