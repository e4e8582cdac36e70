"""The health of an exit: a pure function from its last heartbeat to the state that it should be in.

The rules are tables in `model.exit_states`; here each condition is evaluated for one exit, with a reason for people.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from keeper.ingest_window import IngestWindow
from model.exit_states import (
    RECOVERY_FACTOR,
    SERVING,
    STATE_BY_CONDITION,
    TAKEN_OUT,
    ExitCondition,
    ExitState,
    may_move,
)
from model.repositories.exit_reports import ExitReport
from model.repositories.heartbeats import Heartbeat

_NUMBER: Final = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True, slots=True)
class HealthThresholds:
    """The silence after which an exit is unreachable, and after which it is lost."""

    unreachable_after: timedelta
    lost_after: timedelta


@dataclass(frozen=True, slots=True)
class HealthVerdict:
    """The state that an exit should be in, with the reason for people."""

    state: ExitState
    reason: str


def judge(report: ExitReport, ingest: IngestWindow, thresholds: HealthThresholds) -> HealthVerdict | None:
    """Return the verdict that moves an exit to another state; None when it keeps its state.

    An exit comes up again only on a heartbeat that is newer than its present state. It is healthy only if its traffic comes
    out in its pool's country; without an observation, only if its pool allows it (docs/architecture.md#fail-closed).
    """
    verdict = _verdict(report, ingest, thresholds)
    if verdict is None or not may_move(report.state, verdict.state, heartbeat_is_new=report.is_new):
        return None
    return verdict


def updated_reason(report: ExitReport, ingest: IngestWindow, thresholds: HealthThresholds) -> str | None:
    """Return the present reason for an exit's state, if it differs from the stored one in more than its numbers."""
    verdict = _verdict(report, ingest, thresholds)
    if verdict is None or report.state in TAKEN_OUT or verdict.state is not report.state:
        return None
    return None if _without_numbers(verdict.reason) == _without_numbers(report.reason) else verdict.reason


def apply_hold_down(report: ExitReport, verdict: HealthVerdict, flaps: int, now: datetime) -> HealthVerdict | None:
    """Hold an exit in verifying that is about to serve again but stopped serving `flaps` times lately.

    Return the verdict itself when the pool tolerates so many flaps or the exit was up for `hold_down_s`; None: no move yet.
    """
    resilience = report.resilience
    if verdict.state not in SERVING or report.state in SERVING or flaps <= resilience.flap_threshold:
        return verdict
    if report.state is ExitState.VERIFYING:
        return verdict if now - report.state_since >= timedelta(seconds=resilience.hold_down_s) else None
    reason = f"it stopped serving {flaps} times within {resilience.flap_window_s} s: it has to be up for {resilience.hold_down_s} s"
    return HealthVerdict(ExitState.VERIFYING, reason)


def _verdict(report: ExitReport, ingest: IngestWindow, thresholds: HealthThresholds) -> HealthVerdict | None:
    if report.heartbeat is None:
        return None
    silence = ingest.silence(report.heartbeat.heard_at)
    for condition, state in STATE_BY_CONDITION.items():
        reason = _reason(condition, report, report.heartbeat, silence, thresholds)
        if reason is not None:
            return HealthVerdict(state, reason)
    return HealthVerdict(ExitState.HEALTHY, "")


def _reason(
    condition: ExitCondition,
    report: ExitReport,
    heartbeat: Heartbeat,
    silence: timedelta,
    thresholds: HealthThresholds,
) -> str | None:
    """Return the reason why a condition holds; None when it does not."""
    seen = heartbeat.observation
    leak = str((seen or {}).get("leak") or "")
    match condition:
        case ExitCondition.LONG_SILENT:
            return _silent(silence) if silence > thresholds.lost_after else None
        case ExitCondition.STOPPING:
            return "its agent was stopped" if heartbeat.stopping else None
        case ExitCondition.ENVOY_DOWN:
            return "its Envoy is down" if not heartbeat.envoy_up and not leak else None
        case ExitCondition.TUNNEL_DOWN:
            return None if heartbeat.tunnel_up else f"its tunnel is down: {heartbeat.reason}"
        case ExitCondition.SILENT:
            return _silent(silence) if silence > thresholds.unreachable_after else None
        case ExitCondition.LEAKS:
            return leak or None
        case ExitCondition.NOT_OBSERVED:
            if seen is not None or report.allow_unverified:
                return None
            return "its agent observes nothing: start it with --observe, or set allow_unverified of its pool"
        case ExitCondition.COUNTRY_UNKNOWN:
            if seen is None or seen.get("country") is not None:
                return None
            return str(seen.get("error") or "its address is not known yet")
        case ExitCondition.WRONG_COUNTRY:
            if seen is None or seen.get("country") in (None, report.country):
                return None
            return f"its address {seen.get('address')} is in {seen['country']}, and its pool is for {report.country}"
        case ExitCondition.SOURCES_DISAGREE:
            return f"sources disagree: {seen['conflict']}" if seen and seen.get("conflict") else None
        case ExitCondition.SLOW:
            return _slow(report, (seen or {}).get("rtt_ms"))
        case ExitCondition.FULL:
            limit = report.capacity
            if limit is None or heartbeat.open_requests < limit * _factor(report):
                return None
            return f"it carries {heartbeat.open_requests} requests, and its capacity is {limit}"


def _slow(report: ExitReport, rtt_ms: float | None) -> str | None:
    limit = report.resilience.degraded_above_ms
    if limit is None or rtt_ms is None or rtt_ms <= limit * _factor(report):
        return None
    return f"its round trips take {rtt_ms:g} ms, and its pool calls more than {limit} ms slow"


def _factor(report: ExitReport) -> float:
    return RECOVERY_FACTOR if report.state is ExitState.DEGRADED else 1


def _silent(silence: timedelta) -> str:
    return f"silent for {silence.total_seconds():.0f} s"


def _without_numbers(reason: str) -> str:
    return _NUMBER.sub("", reason)
