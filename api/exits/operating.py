"""Operating exits: /exits/{exit_id}/drain, /enable, /disable and /history."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from api.auth.caller import Caller, Permit
from api.bodies import JsonRoute
from api.collections.router import OfFleet
from api.context import Context
from api.exits.history import Stay, Summary, stays_of, summarize
from api.exits.schemas import ExitOut
from api.exits.service import EXITS
from api.openapi import for_operators
from api.values import Ref, View
from api.writes import Answer, DryRunOut, OperatorWrite, Work, writing
from model.repositories import history
from model.world import ExitState

HOURS_MAX: Final = 24 * 90
_STAYS_MAX: Final = 1_000
router = APIRouter(prefix="/exits/{exit_id}", tags=["exits"], route_class=JsonRoute)
Writing = Annotated[OperatorWrite, writing("exits")]
_SWITCHED = for_operators(404, 409, 422)
Hours = Annotated[int, Query(ge=1, le=HOURS_MAX, description="How far back.")]


class StayOut(View):
    """A state that the exit was in."""

    state: ExitState
    reason: str
    since: datetime
    until: datetime | None = Field(description="null: it still is.")


class SummaryOut(View):
    """What a time says of an exit. Time in which an operator had taken it out counts neither for it nor against it."""

    uptime: float | None = Field(description="The part of the time in which it served clients; null: there was none.")
    serving_s: float
    failures: int = Field(description="How often it ceased to serve, other than on purpose.")
    mean_time_between_failures_s: float | None
    mean_time_to_recover_s: float | None


class HistoryOut(View):
    since: datetime
    until: datetime
    summary: SummaryOut
    before: SummaryOut = Field(description="The same of the time before, as long: what to compare it with.")
    states: list[StayOut] = Field(description=f"The newest first, {_STAYS_MAX} at most.")


@router.post("/drain", response_model=ExitOut | DryRunOut, responses=_SWITCHED)
async def drain_exit(exit_id: Ref, write: Writing, of_fleet: OfFleet = None) -> Response:
    """Offer an exit to nobody any more. Its open tunnels go on until their clients are done."""
    return await _switch(write, exit_id, of_fleet, ExitState.DRAINING)


@router.post("/enable", response_model=ExitOut | DryRunOut, responses=_SWITCHED)
async def enable_exit(exit_id: Ref, write: Writing, of_fleet: OfFleet = None) -> Response:
    """Let an exit that was drained or disabled serve again, once it is heard of. Any other is left as it is."""
    return await _switch(write, exit_id, of_fleet, ExitState.REGISTERING)


@router.post("/disable", response_model=ExitOut | DryRunOut, responses=_SWITCHED)
async def disable_exit(exit_id: Ref, write: Writing, of_fleet: OfFleet = None) -> Response:
    """Take an exit out."""
    return await _switch(write, exit_id, of_fleet, ExitState.DISABLED)


async def _switch(write: OperatorWrite, ref: str, fleet: str | None, state: ExitState) -> Response:
    async def do(work: Work) -> Answer:
        row = await EXITS.lock(work, ref, fleet)
        await EXITS.switch(work, row, state)
        shown = await EXITS.show_one(work.look, row)
        return Answer(200, shown, {"ETag": EXITS.etag(shown)})

    return await write.run(do)


@router.get("/history", responses=for_operators(404, 409, 422))
async def read_exit_history(
    exit_id: Ref,
    context: Context,
    caller: Annotated[Caller, Depends(Permit("exits"))],
    hours: Hours = 24,
    of_fleet: OfFleet = None,
) -> HistoryOut:
    """What an exit went through, and how that compares with the time before."""
    now, window = context.clock(), timedelta(hours=hours)
    async with context.database.snapshot() as session:
        row = await EXITS.find(session, caller, exit_id, of_fleet)
        noted = await history.states_since(session, row.id, now - 2 * window)
    stays = list(stays_of([(each.at, ExitState(each.state), each.reason) for each in noted]))
    return HistoryOut(
        since=now - window,
        until=now,
        summary=_show_summary(summarize(_within(stays, now - window), now - window, now)),
        before=_show_summary(summarize(stays, now - 2 * window, now - window)),
        states=[StayOut.of(stay) for stay in reversed(_within(stays, now - window)[-_STAYS_MAX:])],
    )


def _within(stays: Sequence[Stay], start: datetime) -> list[Stay]:
    """Those that had not ended by then."""
    return [stay for stay in stays if stay.until is None or stay.until > start]


def _show_summary(summary: Summary) -> SummaryOut:
    between, recover = summary.mean_time_between_failures, summary.mean_time_to_recover
    return SummaryOut(
        uptime=summary.uptime,
        serving_s=summary.serving.total_seconds(),
        failures=summary.failures,
        mean_time_between_failures_s=None if between is None else between.total_seconds(),
        mean_time_to_recover_s=None if recover is None else recover.total_seconds(),
    )
