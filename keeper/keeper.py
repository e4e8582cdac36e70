"""The leased worker that judges exits, finds weights, resolves host names and removes old rows. The clock is injected."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from keeper.certificates import look_after_certificates
from keeper.counters import KeeperCounters
from keeper.exit_health import HealthThresholds, HealthVerdict, apply_hold_down, judge, updated_reason
from keeper.ingest_window import IngestWindow
from keeper.lease import LeaseCheck, hold_lease
from keeper.weights import WeightSmoother
from model.change_feed import HEARTBEAT_CHANNEL, ChangeFeed
from model.database import Database
from model.entities import WeighBy
from model.exit_states import SERVING, ExitState
from model.repositories import (
    authorities,
    clock_skew,
    enrolment,
    exit_history,
    exit_reports,
    exits,
    heartbeats,
    idempotency,
    keepalives,
    messages,
    orders,
    retention,
    rollout,
)
from model.repositories.exit_reports import ExitReport
from model.unit_of_work import write

Clock = Callable[[], datetime]
CLAMP_EVERY: Final = timedelta(seconds=5)
REASONS_EVERY: Final = timedelta(seconds=10)
CAPS_EVERY: Final = timedelta(seconds=5)
WEIGH_EVERY: Final = timedelta(minutes=1)
"""So measurements make no more than one revision a minute."""
RESOLVE_EVERY: Final = timedelta(seconds=5)
CERTIFICATES_EVERY: Final = timedelta(minutes=1)
PRUNE_EVERY: Final = timedelta(minutes=5)
REAP_EVERY: Final = timedelta(seconds=5)
KEEP_CHANGES_FOR: Final = timedelta(hours=1)
KEEP_CHANGES: Final = 10_000
"""The number of changes that are kept whatever their age. Events can be read as far back as changes are kept."""
KEEP_REPLIES_FOR: Final = timedelta(hours=24)
KEEP_HISTORY_FOR: Final = timedelta(days=90)
KEEP_ORDERS_FOR: Final = timedelta(days=7)
KEEP_KEEPALIVES_FOR: Final = timedelta(days=30)
KEEP_MESSAGES_FOR: Final = timedelta(days=30)
KEEP_REJECTIONS_FOR: Final = timedelta(days=90)
KEEP_OVERRIDES_FOR: Final = timedelta(days=1)
ABSENT_AFTER: Final = timedelta(hours=1)
"""The rejections of a proxy that was not connected for this long are forgotten."""
UPTIME_OVER: Final = timedelta(days=1)
_RESOLVE_TIMEOUT_S: Final = 2.0
log = structlog.get_logger()


async def run_keeper(
    database: Database,
    clock: Clock,
    thresholds: HealthThresholds,
    *,
    interval_s: float = 1.0,
    counters: KeeperCounters | None = None,
) -> None:
    """Run the keeper whenever this replica holds the lease, until cancelled."""
    counters = counters or KeeperCounters()
    feed = counters.feed = ChangeFeed(database, HEARTBEAT_CHANNEL, poll_s=interval_s)

    async def work(check_lease: LeaseCheck) -> None:
        keeper = Keeper(database, clock, thresholds, counters)
        counters.leads = True
        try:
            while True:
                await check_lease()
                began = time.monotonic()
                await keeper.run_due()
                counters.round_s.observe(time.monotonic() - began)
                counters.last_round = time.time()
                await feed.wait()
        finally:
            counters.leads = False

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed.run(), name="keeper.feed")
        tasks.create_task(hold_lease(database, work), name="keeper.lease")


class Keeper:
    """The work of one holder of the lease, and its memory between two runs."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        thresholds: HealthThresholds,
        counters: KeeperCounters | None = None,
    ) -> None:
        self._counters = counters or KeeperCounters()
        self._database = database
        self._clock = clock
        self._thresholds = thresholds
        self._ingest = IngestWindow()
        self._weights = WeightSmoother()
        self._last_run: dict[str, datetime] = {}

    async def run_due(self) -> None:
        """Judge the exits, and do the rest that is due. Raises DatabaseUnreachable."""
        now = self._clock()
        if self._is_due("clamp", now, CLAMP_EVERY):
            await self._clamp_future_times(now)
        await self._judge_exits(now)
        if self._is_due("reasons", now, REASONS_EVERY):
            await self._update_reasons()
        if self._is_due("caps", now, CAPS_EVERY):
            await self._apply_caps(now)
        if self._is_due("weigh", now, WEIGH_EVERY):
            await self._weigh(now)
        if self._is_due("resolve", now, RESOLVE_EVERY):
            await self._resolve_host_names()
        if self._is_due("certificates", now, CERTIFICATES_EVERY):
            await look_after_certificates(self._database, now)
        if self._is_due("prune", now, PRUNE_EVERY):
            await self._prune(now)
        if self._is_due("reap", now, REAP_EVERY):
            await self._reap_replicas()

    def _is_due(self, task: str, now: datetime, every: timedelta) -> bool:
        """Tell whether a task is due, and record that it runs now. It is due too after the clock went back."""
        last = self._last_run.get(task)
        if last is not None and timedelta(0) <= now - last < every:
            return False
        self._last_run[task] = now
        return True

    async def _clamp_future_times(self, now: datetime) -> None:
        async with self._database.session() as session:
            clamped = await clock_skew.clamp_future_times(session, now)
        if clamped:
            log.warning("clock.was_ahead", exits=clamped)

    async def _judge_exits(self, now: datetime) -> None:
        async with self._database.session() as session:
            self._ingest.observe(now, await heartbeats.ingest_watermark(session))
            reports = await exit_reports.find_moving(
                session,
                unreachable_before=self._ingest.silence_cutoff(self._thresholds.unreachable_after),
                lost_before=self._ingest.silence_cutoff(self._thresholds.lost_after),
            )
            verdicts = [
                (report, verdict)
                for report in reports
                if (verdict := judge(report, self._ingest, self._thresholds)) is not None
            ]
            moves = await _with_hold_down(session, now, verdicts)
        if not moves:
            return
        async with write(self._database) as unit:
            for report, verdict in moves:
                exit_id, old, new, reason = report.exit_id, report.state, verdict.state, verdict.reason
                if await exits.change_state(unit, exit_id, old, new, reason, now):
                    self._counters.transitions[new] += 1
                    log.info("exit.state", exit=str(exit_id), old=old, new=new, reason=reason)

    async def _update_reasons(self) -> None:
        """Update the reasons of exits that are not healthy. Their states, and the start of these, stay."""
        async with self._database.session() as session:
            reports = await exit_reports.find_unwell(session)
        updates = [
            (report, reason)
            for report in reports
            if (reason := updated_reason(report, self._ingest, self._thresholds)) is not None
        ]
        if not updates:
            return
        async with write(self._database) as unit:
            for report, reason in updates:
                await exits.change_reason(unit, report, reason)

    async def _apply_caps(self, now: datetime) -> None:
        """Drain exits that reached their monthly cap, and let them register again when the cap no longer holds."""
        async with self._database.session() as session:
            caps = await exits.find_cap_changes(session, now)
        if not caps:
            return
        async with write(self._database) as unit:
            for cap in caps:
                if cap.capped:
                    state, reason = ExitState.REGISTERING, "its monthly cap lets it carry again"
                else:
                    state, reason = ExitState.DRAINING, f"it has carried its {cap.monthly_cap_gb:g} GB of {now:%Y-%m}"
                if await exits.change_state(unit, cap.exit_id, cap.state, state, reason, now):
                    self._counters.transitions[state] += 1
                    log.info("exit.state", exit=str(cap.exit_id), old=cap.state, new=state, reason=reason)
                    await exits.set_capped(unit.session, cap.exit_id, capped=not cap.capped)

    async def _weigh(self, now: datetime) -> None:
        """Store the shares of exits whose pools have `weigh_by`, in one revision."""
        async with self._database.session() as session:
            weighed = await exits.find_weighed(session)
            stale = await exits.find_stale_shares(session)
            by_health = [each.exit_id for each in weighed if each.weigh_by is WeighBy.HEALTH]
            uptimes = await exit_history.uptimes(session, by_health, now - UPTIME_OVER, now) if by_health else {}
        changed = {**self._weights.weigh(weighed, uptimes), **dict.fromkeys(stale, 1)}
        if not changed:
            return
        async with write(self._database) as unit:
            before = {each.exit_id: each.share for each in weighed}
            for exit_id, share in sorted(changed.items()):
                await exits.set_share(unit, exit_id, before.get(exit_id), share)
        log.info("exits.weighed", changed=len(changed))

    async def _resolve_host_names(self) -> None:
        """Resolve the host names of exits, for EDS takes addresses only. A name that fails keeps its last address."""
        async with self._database.session() as session:
            named = await exits.find_host_names(session)
        addresses = await asyncio.gather(*(_resolve(address) for _, address, _ in named))
        for (exit_id, address, endpoint), resolved in zip(named, addresses, strict=True):
            if resolved is not None and resolved != endpoint:
                log.info("exit.resolved", exit=str(exit_id), address=address, endpoint=resolved)
                async with write(self._database) as unit:
                    await exits.set_endpoint(unit, exit_id, address, resolved)

    async def _prune(self, now: datetime) -> None:
        async with self._database.session() as session:
            await retention.prune(session, before=now - KEEP_CHANGES_FOR, keep=KEEP_CHANGES)
        async with self._database.session() as session:
            await retention.prune_logins(session, now)
            await idempotency.prune(session, before=now - KEEP_REPLIES_FOR)
            await keepalives.prune(session, before=now - KEEP_KEEPALIVES_FOR)
            await exit_history.prune(session, before=now - KEEP_HISTORY_FOR)
            await orders.prune(session, before=now - KEEP_ORDERS_FOR)
            await messages.fail_orphans(session)
            await messages.prune(session, before=now - KEEP_MESSAGES_FOR)
            await enrolment.forget_removed(session, now)
            await enrolment.forget_expired(session, now)
            await authorities.forget_revoked(session, now)
        async with write(self._database) as unit:
            await retention.prune_groups(unit, before=now - KEEP_REJECTIONS_FOR)
            await rollout.forget_rejections_of_absent(unit, since=now - ABSENT_AFTER, now=now)
            await rollout.prune_overrides(unit, now - KEEP_OVERRIDES_FOR)

    async def _reap_replicas(self) -> None:
        async with self._database.session() as session:
            for replica in await retention.reap_replicas(session):
                log.warning("xds.replica_dead", replica=str(replica))


async def _with_hold_down(
    session: AsyncSession, now: datetime, verdicts: Sequence[tuple[ExitReport, HealthVerdict]]
) -> Sequence[tuple[ExitReport, HealthVerdict]]:
    """Apply the hold-down to verdicts that let an exit serve again."""
    since = {
        report.exit_id: now - timedelta(seconds=report.resilience.flap_window_s)
        for report, verdict in verdicts
        if verdict.state in SERVING and report.state not in SERVING
    }
    if not since:
        return verdicts
    flaps = await exit_history.count_flaps(session, since)
    held = (
        (report, apply_hold_down(report, verdict, flaps.get(report.exit_id, 0), now)) for report, verdict in verdicts
    )
    return [(report, verdict) for report, verdict in held if verdict is not None]


async def _resolve(name: str) -> str | None:
    """Return the lowest address of a name, so that round-robin DNS does not flap; None when it does not resolve."""
    try:
        async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: the name cannot be encoded for a query
        log.warning("exit.unresolved", address=name, reason=str(error))
        return None
    return min((str(entry[4][0]) for entry in found), default=None)
