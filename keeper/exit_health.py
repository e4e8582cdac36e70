"""Which state an exit should be in: a pure function of what was heard of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from keeper.ingest_window import IngestWindow
from model.repositories import heartbeats
from model.repositories.heartbeats import ExitReport, Heartbeat
from model.world import SERVING, TAKEN_OUT, ExitState

_UP: Final = SERVING | {ExitState.VERIFYING, ExitState.LEAKING}
"""States of an exit whose tunnel and Envoy are up."""
_NUMBER: Final = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True, slots=True)
class HealthThresholds:
    """How long silence is borne."""

    unreachable_after: timedelta
    lost_after: timedelta


@dataclass(frozen=True, slots=True)
class HealthVerdict:
    """A state, and why."""

    state: ExitState
    reason: str


def judge(
    standing: ExitReport, now: datetime, hearing: IngestWindow, patience: HealthThresholds
) -> HealthVerdict | None:
    """The state that an exit should move to; None to stay.

    An exit comes up again only on a heartbeat that is newer than its present state (fail closed), and is healthy only if its
    traffic was seen to come out where its pool says; of an exit that nobody looks at so, that is believed. One that was not
    heard of for long is lost, whatever it said last.
    """
    beat = standing.heard
    if beat is None or standing.state in TAKEN_OUT:
        return None
    verdict = _by_what_is_known(standing, beat, hearing.silence(now, beat.heard_at), patience)
    if verdict.state is standing.state:
        return None
    if standing.state is ExitState.LOST and verdict.state is ExitState.UNREACHABLE and _nothing_new(standing):
        return None
    if verdict.state in _UP and standing.state not in SERVING and _nothing_new(standing):
        return None
    return verdict


def reword(standing: ExitReport, now: datetime, hearing: IngestWindow, patience: HealthThresholds) -> str | None:
    """Why an exit is in its state by now, if that is another matter than what is said of it: other numbers are not."""
    beat = standing.heard
    if beat is None or standing.state in TAKEN_OUT:
        return None
    verdict = _by_what_is_known(standing, beat, hearing.silence(now, beat.heard_at), patience)
    if verdict.state is not standing.state or _words(verdict.reason) == _words(standing.reason):
        return None
    return verdict.reason


def _words(reason: str) -> str:
    return _NUMBER.sub("", reason)


def _by_what_is_known(
    standing: ExitReport, beat: Heartbeat, silence: timedelta, patience: HealthThresholds
) -> HealthVerdict:
    if silence > patience.lost_after:
        return _silent(ExitState.LOST, silence)
    complaint = _complaint(beat)
    if complaint is not None:
        return complaint
    if silence > patience.unreachable_after:
        return _silent(ExitState.UNREACHABLE, silence)
    return _seen(beat, standing)


def _nothing_new(standing: ExitReport) -> bool:
    return standing.heard is None or standing.heard.heard_at <= standing.state_since


def _complaint(beat: Heartbeat) -> HealthVerdict | None:
    if beat.leaving:
        return HealthVerdict(ExitState.UNREACHABLE, "its agent was stopped")
    if not beat.envoy_up and not _leak(beat):  # an exit that leaks ends its Envoy: that is not what is wrong with it
        return HealthVerdict(ExitState.UNREACHABLE, "its Envoy is down")
    if not beat.tunnel_up:
        return HealthVerdict(ExitState.UNREACHABLE, f"its tunnel is down: {beat.reason}")
    return None


def _seen(beat: Heartbeat, standing: ExitReport) -> HealthVerdict:
    """What an exit is worth that is up, by where its traffic was seen to come out."""
    seen = beat.observation
    if seen is None:
        return _measured(beat, standing)
    if _leak(beat):
        return HealthVerdict(ExitState.LEAKING, _leak(beat))
    if seen.get("country") is None:
        return HealthVerdict(ExitState.VERIFYING, str(seen.get("trouble") or "its address is not known yet"))
    if seen["country"] != standing.country:
        reason = f"its address {seen.get('address')} is in {seen['country']}, and its pool is for {standing.country}"
        return HealthVerdict(ExitState.VERIFYING, reason)
    return _measured(beat, standing)


def _leak(beat: Heartbeat) -> str:
    return str((beat.observation or {}).get("leak") or "")


def _measured(beat: Heartbeat, standing: ExitReport) -> HealthVerdict:
    """Whether an exit that comes out where it should is as good as it should be."""
    seen = beat.observation or {}
    if seen.get("disagreement"):
        return HealthVerdict(ExitState.DEGRADED, f"sources disagree: {seen['disagreement']}")
    enough = heartbeats.BETTER if standing.state is ExitState.DEGRADED else 1
    limit, takes = standing.resilience.degraded_above_ms, seen.get("rtt_ms")
    if limit is not None and takes is not None and takes > limit * enough:
        reason = f"its round trips take {takes:g} ms, and its pool calls more than {limit} ms slow"
        return HealthVerdict(ExitState.DEGRADED, reason)
    if standing.capacity is not None and beat.open_requests >= standing.capacity * enough:
        reason = f"it carries {beat.open_requests} requests, and its capacity is {standing.capacity}"
        return HealthVerdict(ExitState.DEGRADED, reason)
    return HealthVerdict(ExitState.HEALTHY, "")


def hold_back(standing: ExitReport, verdict: HealthVerdict, falls: int, now: datetime) -> HealthVerdict | None:
    """The verdict on an exit that is about to serve again, if it fell out so often lately: it has to be up for a while first."""
    bears = standing.resilience
    if verdict.state not in SERVING or standing.state in SERVING or falls <= bears.falls_borne:
        return verdict
    if standing.state is ExitState.VERIFYING:
        return verdict if now - standing.state_since >= timedelta(seconds=bears.hold_down_s) else None
    reason = f"it fell out {falls} times within {bears.falls_window_s} s: it has to be up for {bears.hold_down_s} s"
    return HealthVerdict(ExitState.VERIFYING, reason)


def _silent(state: ExitState, silence: timedelta) -> HealthVerdict:
    return HealthVerdict(state, f"silent for {silence.total_seconds():.0f} s")
