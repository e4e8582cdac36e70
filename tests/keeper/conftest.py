"""A keeper with a database and a clock, and exits that send heartbeats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from keeper.exit_health import HealthThresholds
from keeper.keeper import Keeper
from model.database import Database
from model.entities import Role
from model.exit_states import ExitState
from model.repositories import declared, heartbeats
from model.repositories.heartbeats import Heartbeat
from model.tables import ExitRow, FleetRow, ListenerRow, PoolRow, ProxyRow
from model.unit_of_work import write

THRESHOLDS = HealthThresholds(unreachable_after=timedelta(seconds=30), lost_after=timedelta(seconds=300))


@dataclass
class KeeperHarness:
    """A pool of exits, the API's writes, and a keeper; all share one clock."""

    database: Database
    clock: Any
    pool: PoolRow | None = None
    keeper: Keeper = field(init=False)

    def __post_init__(self) -> None:
        self.keeper = Keeper(self.database, self.clock, THRESHOLDS)

    async def open(self) -> None:
        now = self.clock()
        async with write(self.database) as unit:
            fleet = await declared.save(unit, FleetRow(name="demo", created_at=now))
            await declared.save(unit, ListenerRow(fleet_id=fleet.id, address="127.0.0.1", port=8080))
            self.pool = await declared.save(unit, PoolRow(fleet_id=fleet.id, name="us", country="us", created_at=now))

    async def declare(self, name: str = "one", state: ExitState = ExitState.REGISTERING, **fields: Any) -> UUID:
        """Declare an exit whose `state` begins now."""
        now = self.clock()
        given = {"address": "198.51.100.1", "endpoint": "198.51.100.1", "port": 8443, "bind_address": "0.0.0.0"}
        async with write(self.database) as unit:
            proxy = ProxyRow(fleet_id=self.pool.fleet_id, name=name, role=Role.EXIT, created_at=now)
            await declared.save(unit, proxy)
            times = {"state_since": now, "created_at": now}
            row = ExitRow(
                id=proxy.id, pool_id=self.pool.id, name=name, state=state, state_reason="", **times, **(given | fields)
            )
            await declared.save(unit, row)
        return row.id

    async def send_heartbeat(self, exit_id: UUID, *, at: datetime | None = None, **said: Any) -> None:
        """Store a heartbeat of an exit."""
        good = {"tunnel_up": True, "envoy_up": True, "stopping": False, "reason": "", "version": "1"}
        at = at or self.clock()
        async with self.database.session() as session:
            await heartbeats.store(session, [Heartbeat(exit_id, at, at, **(good | said))])

    async def flush_watermark(self) -> None:
        """Record a flush of the API, with or without heartbeats."""
        async with self.database.session() as session:
            await heartbeats.record_ingest_watermark(session, "a", self.clock())

    async def run_keeper(self) -> None:
        await self.flush_watermark()
        await self.keeper.run_due()

    async def pass_time(self, seconds: float, *, api_up: bool = True) -> None:
        """Advance the clock in steps of four seconds, and run the keeper at each (with `api_up`, after a flush of the API)."""
        while seconds > 0:
            self.clock.advance(seconds=min(seconds, 4))
            seconds -= 4
            await (self.run_keeper() if api_up else self.keeper.run_due())

    async def row(self, exit_id: UUID) -> ExitRow:
        async with self.database.session() as session:
            row = await session.get(ExitRow, exit_id)
            assert row is not None
            return row

    async def state(self, exit_id: UUID) -> ExitState:
        return ExitState((await self.row(exit_id)).state)


@pytest.fixture
async def harness(database: Database, clock: Callable[[], datetime]) -> KeeperHarness:
    opened = KeeperHarness(database, clock)
    await opened.open()
    return opened
