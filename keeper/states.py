"""Which state an exit should be in: a pure function of what was heard of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from keeper.hearing import Hearing
from model.repositories.heartbeats import Heartbeat, Standing
from model.world import ExitState


@dataclass(frozen=True, slots=True)
class Patience:
    """How long silence is borne."""

    unreachable_after: timedelta
    lost_after: timedelta


@dataclass(frozen=True, slots=True)
class Verdict:
    """A state, and why."""

    state: ExitState
    reason: str


def judge(standing: Standing, now: datetime, hearing: Hearing, patience: Patience) -> Verdict | None:
    """The state that an exit should move to; None to stay.

    An exit returns to healthy only on a heartbeat that is newer than its present state (fail closed). One that was not
    heard of for long is lost, whatever it said last.
    """
    beat = standing.heard
    if beat is None or standing.state in (ExitState.DRAINING, ExitState.DISABLED):
        return None
    silence = hearing.silence(now, beat.heard_at)
    if silence > patience.lost_after:
        verdict = _silent(ExitState.LOST, silence)
    elif (complaint := _complaint(beat)) is not None:
        verdict = complaint
    elif silence > patience.unreachable_after:
        verdict = _silent(ExitState.UNREACHABLE, silence)
    else:
        verdict = Verdict(ExitState.HEALTHY, "")
    if verdict.state is standing.state:
        return None
    if standing.state is ExitState.LOST and verdict.state is ExitState.UNREACHABLE and _nothing_new(standing):
        return None
    if verdict.state is ExitState.HEALTHY and _nothing_new(standing):
        return None
    return verdict


def _nothing_new(standing: Standing) -> bool:
    return standing.heard is None or standing.heard.heard_at <= standing.state_since


def _complaint(beat: Heartbeat) -> Verdict | None:
    if beat.leaving:
        return Verdict(ExitState.UNREACHABLE, "its agent was stopped")
    if not beat.envoy_up:
        return Verdict(ExitState.UNREACHABLE, "its Envoy is down")
    if not beat.tunnel_up:
        return Verdict(ExitState.UNREACHABLE, f"its tunnel is down: {beat.reason}")
    return None


def _silent(state: ExitState, silence: timedelta) -> Verdict:
    return Verdict(state, f"silent for {silence.total_seconds():.0f} s")
