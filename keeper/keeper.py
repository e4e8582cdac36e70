"""The leased worker: states of exits, names of exits, and the end of old rows. The clock is injected."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from keeper.exit_health import HealthThresholds, HealthVerdict, apply_hold_down, judge, updated_reason
from keeper.ingest_window import IngestWindow
from keeper.lease import LeaseCheck, hold_lease
from keeper.weights import WeightSmoother
from model.change_feed import HEARTBEAT_CHANNEL, ChangeFeed
from model.database import Database
from model.entities import WeighBy
from model.exit_states import SERVING, ExitState
from model.repositories import (
    clock_skew,
    exit_history,
    exit_reports,
    exits,
    heartbeats,
    idempotency,
    keepalives,
    orders,
    retention,
)
from model.repositories.exit_reports import ExitReport
from model.unit_of_work import write

Clock = Callable[[], datetime]
RESOLVE_EVERY = timedelta(seconds=5)
_RESOLVE_TIMEOUT_S = 2.0
PRUNE_EVERY = timedelta(minutes=5)
KEEP_CHANGES_FOR = timedelta(hours=1)
KEEP_CHANGES = 10_000
"""Also how far back events can be read: what is older and beyond that many is forgotten."""
KEEP_ANSWERS_FOR = timedelta(hours=24)
KEEP_HISTORY_FOR = timedelta(days=90)
KEEP_ORDERS_FOR = timedelta(days=7)
KEEP_CLIENTS_FOR = timedelta(days=30)
KEEP_REJECTIONS_FOR = timedelta(days=90)
PULL_BACK_EVERY = timedelta(seconds=5)
BURY_EVERY = timedelta(seconds=5)
REWORD_EVERY = timedelta(seconds=10)
CAPS_EVERY = timedelta(seconds=5)
WEIGH_EVERY = timedelta(minutes=1)
"""So measurements make no more than one revision a minute."""
UPTIME_OVER = timedelta(days=1)
log = structlog.get_logger()


async def run_keeper(
    database: Database, clock: Clock, patience: HealthThresholds, *, look_every_s: float = 1.0
) -> None:
    """Look after the exits whenever this replica holds the lease, until cancelled."""
    feed = ChangeFeed(database, HEARTBEAT_CHANNEL, poll_s=look_every_s)

    async def work(alive: LeaseCheck) -> None:
        keeper = Keeper(database, clock, patience)
        while True:
            await alive()
            await keeper.look()
            await feed.wait()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed.run(), name="keeper.feed")
        tasks.create_task(hold_lease(database, work), name="keeper.lease")


class Keeper:
    """What one holder of the lease remembers between two looks."""

    def __init__(self, database: Database, clock: Clock, patience: HealthThresholds) -> None:
        self._database = database
        self._clock = clock
        self._patience = patience
        self._hearing = IngestWindow()
        self._pulled_at: datetime | None = None
        self._resolved_at: datetime | None = None
        self._pruned_at: datetime | None = None
        self._buried_at: datetime | None = None
        self._reworded_at: datetime | None = None
        self._capped_at: datetime | None = None
        self._weighed_at: datetime | None = None
        self._scales = WeightSmoother()

    async def look(self) -> None:
        """Look once at everything that is due. Raises DatabaseUnreachable."""
        now = self._clock()
        if _due(self._pulled_at, now, PULL_BACK_EVERY):
            self._pulled_at = now
            async with self._database.session() as session:
                pulled = await clock_skew.clamp_future_times(session, now)
            if pulled:
                log.warning("clock.was_ahead", exits=pulled)
        await self._judge_exits(now)
        if _due(self._reworded_at, now, REWORD_EVERY):
            self._reworded_at = now
            await self._reword(now)
        if _due(self._capped_at, now, CAPS_EVERY):
            self._capped_at = now
            await self._heed_caps(now)
        if _due(self._weighed_at, now, WEIGH_EVERY):
            self._weighed_at = now
            await self._weigh(now)
        if _due(self._resolved_at, now, RESOLVE_EVERY):
            self._resolved_at = now
            await self._resolve_names()
        if _due(self._pruned_at, now, PRUNE_EVERY):
            self._pruned_at = now
            async with self._database.session() as session:
                await retention.prune(session, before=now - KEEP_CHANGES_FOR, keep=KEEP_CHANGES)
            async with self._database.session() as session:
                await retention.prune_logins(session, now)
                await idempotency.prune(session, before=now - KEEP_ANSWERS_FOR)
                await keepalives.prune(session, before=now - KEEP_CLIENTS_FOR)
                await exit_history.prune(session, before=now - KEEP_HISTORY_FOR)
                await orders.prune(session, before=now - KEEP_ORDERS_FOR)
            async with write(self._database) as unit:
                await retention.prune_groups(unit, before=now - KEEP_REJECTIONS_FOR)
        if _due(self._buried_at, now, BURY_EVERY):
            self._buried_at = now
            async with self._database.session() as session:
                for replica in await retention.reap_replicas(session):
                    log.warning("xds.replica_dead", replica=str(replica))

    async def _judge_exits(self, now: datetime) -> None:
        async with self._database.session() as session:
            heard_until = await heartbeats.ingest_watermark(session)
            self._hearing.look(now, heard_until)
            standings = await exit_reports.find_moving(
                session,
                unreachable_before=self._hearing.silent_before(now, self._patience.unreachable_after),
                lost_before=self._hearing.silent_before(now, self._patience.lost_after),
            )
            verdicts = await _held_back(
                session,
                now,
                [
                    (standing, verdict)
                    for standing in standings
                    if (verdict := judge(standing, now, self._hearing, self._patience)) is not None
                ],
            )
        if not verdicts:
            return
        async with write(self._database) as unit:
            for standing, verdict in verdicts:
                if await exits.change_state(unit, standing.exit_id, standing.state, verdict.state, verdict.reason, now):
                    log.info(
                        "exit.state",
                        exit=str(standing.exit_id),
                        old=standing.state,
                        new=verdict.state,
                        reason=verdict.reason,
                    )

    async def _reword(self, now: datetime) -> None:
        """Say of exits that are not well what is wrong with them by now. Their states, and since when, stay."""
        async with self._database.session() as session:
            standings = await exit_reports.find_unwell(session)
        reworded = [
            (standing, reason)
            for standing in standings
            if (reason := updated_reason(standing, now, self._hearing, self._patience)) is not None
        ]
        if not reworded:
            return
        async with write(self._database) as unit:
            for standing, reason in reworded:
                await exits.change_reason(unit, standing, reason)

    async def _heed_caps(self, now: datetime) -> None:
        """Drain exits that have carried what they may this month, and let them serve again when that is over."""
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
                    log.info("exit.state", exit=str(cap.exit_id), old=cap.state, new=state, reason=reason)
                    await exits.set_capped(unit.session, cap.exit_id, capped=not cap.capped)

    async def _weigh(self, now: datetime) -> None:
        """Give exits the shares that their pools weigh them to."""
        async with self._database.session() as session:
            candidates = await exits.find_weighed(session)
            stray = await exits.find_stale_shares(session)
            judged = [each.exit_id for each in candidates if each.weigh_by is WeighBy.HEALTH]
            uptimes = await exit_history.uptimes(session, judged, now - UPTIME_OVER, now) if judged else {}
        changed = {**self._scales.weigh(candidates, uptimes), **dict.fromkeys(stray, 1)}
        if not changed:
            return
        async with write(self._database) as unit:
            before = {each.exit_id: each.share for each in candidates}
            for exit_id, share in sorted(changed.items()):
                await exits.set_share(unit, exit_id, before.get(exit_id), share)
        log.info("exits.weighed", changed=len(changed))

    async def _resolve_names(self) -> None:
        """Follow the host names of exits: EDS takes addresses only. A name that fails keeps what it resolved to."""
        async with self._database.session() as session:
            named = await exits.find_host_names(session)
        addresses = await asyncio.gather(*(_resolve(address) for _, address, _ in named))
        for (exit_id, address, endpoint), resolved in zip(named, addresses, strict=True):
            if resolved is not None and resolved != endpoint:
                log.info("exit.resolved", exit=str(exit_id), address=address, endpoint=resolved)
                async with write(self._database) as unit:
                    await exits.set_endpoint(unit, exit_id, address, resolved)


async def _held_back(
    session: AsyncSession, now: datetime, verdicts: Sequence[tuple[ExitReport, HealthVerdict]]
) -> Sequence[tuple[ExitReport, HealthVerdict]]:
    """The verdicts, less those that would let an exit serve again that fell out too often lately."""
    coming = {
        standing.exit_id: now - timedelta(seconds=standing.resilience.falls_window_s)
        for standing, verdict in verdicts
        if verdict.state in SERVING and standing.state not in SERVING
    }
    if not coming:
        return verdicts
    falls = await exit_history.falls_since(session, coming)
    held = (
        (standing, apply_hold_down(standing, verdict, falls.get(standing.exit_id, 0), now))
        for standing, verdict in verdicts
    )
    return [(standing, verdict) for standing, verdict in held if verdict is not None]


def _due(last: datetime | None, now: datetime, every: timedelta) -> bool:
    return last is None or not timedelta(0) <= now - last < every


async def _resolve(name: str) -> str | None:
    """The lowest of the addresses of a name, so that round-robin DNS does not flap; None when it cannot be resolved."""
    try:
        async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter for a name that cannot be asked for
        log.warning("exit.unresolved", address=name, reason=str(error))
        return None
    return min((str(entry[4][0]) for entry in found), default=None)
