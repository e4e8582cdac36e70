"""The leased worker: states of exits, names of exits, and the end of old rows. The clock is injected."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from keeper.hearing import Hearing
from keeper.lease import Alive, hold_lease
from keeper.states import Patience, judge
from model.changes import HEARTBEAT_CHANNEL, Feed, write
from model.database import Database
from model.repositories import heartbeats, history, idempotency, keepalives, upkeep

Clock = Callable[[], datetime]
RESOLVE_EVERY = timedelta(seconds=5)
_RESOLVE_TIMEOUT_S = 2.0
PRUNE_EVERY = timedelta(minutes=5)
KEEP_CHANGES_FOR = timedelta(hours=1)
KEEP_CHANGES = 10_000
"""Also how far back events can be read: what is older and beyond that many is forgotten."""
KEEP_ANSWERS_FOR = timedelta(hours=24)
KEEP_HISTORY_FOR = timedelta(days=90)
KEEP_CLIENTS_FOR = timedelta(days=30)
KEEP_REJECTIONS_FOR = timedelta(days=90)
BURY_EVERY = timedelta(seconds=5)
log = structlog.get_logger()


async def run_keeper(database: Database, clock: Clock, patience: Patience, *, look_every_s: float = 1.0) -> None:
    """Look after the exits whenever this replica holds the lease, until cancelled."""
    feed = Feed(database, HEARTBEAT_CHANNEL, poll_s=look_every_s)

    async def work(alive: Alive) -> None:
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

    def __init__(self, database: Database, clock: Clock, patience: Patience) -> None:
        self._database = database
        self._clock = clock
        self._patience = patience
        self._hearing = Hearing()
        self._resolved_at: datetime | None = None
        self._pruned_at: datetime | None = None
        self._buried_at: datetime | None = None

    async def look(self) -> None:
        """Look once at everything that is due. Raises DatabaseUnreachable."""
        now = self._clock()
        await self._judge_exits(now)
        if _due(self._resolved_at, now, RESOLVE_EVERY):
            self._resolved_at = now
            await self._resolve_names()
        if _due(self._pruned_at, now, PRUNE_EVERY):
            self._pruned_at = now
            async with self._database.session() as session:
                await upkeep.prune(session, before=now - KEEP_CHANGES_FOR, keep=KEEP_CHANGES)
            async with self._database.session() as session:
                await upkeep.prune_logins(session, now)
                await idempotency.prune(session, before=now - KEEP_ANSWERS_FOR)
                await keepalives.prune(session, before=now - KEEP_CLIENTS_FOR)
                await history.prune(session, before=now - KEEP_HISTORY_FOR)
            async with write(self._database) as unit:
                await upkeep.forget_groups(unit, before=now - KEEP_REJECTIONS_FOR)
        if _due(self._buried_at, now, BURY_EVERY):
            self._buried_at = now
            async with self._database.session() as session:
                for replica in await upkeep.bury_replicas(session):
                    log.warning("xds.replica_dead", replica=str(replica))

    async def _judge_exits(self, now: datetime) -> None:
        async with self._database.session() as session:
            heard_until = await heartbeats.heard_until(session)
            self._hearing.look(now, heard_until)
            standings = await heartbeats.in_question(
                session,
                unreachable_before=self._hearing.silent_before(now, self._patience.unreachable_after),
                lost_before=self._hearing.silent_before(now, self._patience.lost_after),
            )
        verdicts = [
            (standing, verdict)
            for standing in standings
            if (verdict := judge(standing, now, self._hearing, self._patience)) is not None
        ]
        if not verdicts:
            return
        async with write(self._database) as unit:
            for standing, verdict in verdicts:
                if await upkeep.change_state(
                    unit, standing.exit_id, standing.state, verdict.state, verdict.reason, now
                ):
                    log.info(
                        "exit.state",
                        exit=str(standing.exit_id),
                        old=standing.state,
                        new=verdict.state,
                        reason=verdict.reason,
                    )

    async def _resolve_names(self) -> None:
        """Follow the host names of exits: EDS takes addresses only. A name that fails keeps what it resolved to."""
        async with self._database.session() as session:
            named = await upkeep.named_exits(session)
        addresses = await asyncio.gather(*(_resolve(address) for _, address, _ in named))
        for (exit_id, address, endpoint), resolved in zip(named, addresses, strict=True):
            if resolved is not None and resolved != endpoint:
                log.info("exit.resolved", exit=str(exit_id), address=address, endpoint=resolved)
                async with write(self._database) as unit:
                    await upkeep.set_endpoint(unit, exit_id, address, resolved)


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
