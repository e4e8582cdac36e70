"""Fixtures that declare fleets, pools and exits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from model.database import Database
from model.entities import Role
from model.exit_states import ExitState
from model.repositories import declared
from model.tables import ExitRow, FleetRow, ListenerRow, PoolRow, ProxyRow
from model.unit_of_work import UnitOfWork

AT = datetime(2026, 1, 1, tzinfo=UTC)


class Declare:
    """Saves rows through a unit of work, with defaults for fields that a test does not care about."""

    async def fleet(self, unit: UnitOfWork, name: str = "demo") -> FleetRow:
        fleet = await declared.save(unit, FleetRow(name=name, created_at=AT))
        await declared.save(unit, ListenerRow(fleet_id=fleet.id, address="127.0.0.1", port=8080))
        return fleet

    async def pool(self, unit: UnitOfWork, fleet: FleetRow, country: str = "us") -> PoolRow:
        return await declared.save(unit, PoolRow(fleet_id=fleet.id, name=country, country=country, created_at=AT))

    async def exit(self, unit: UnitOfWork, pool: PoolRow, name: str = "one", **fields: Any) -> ExitRow:
        locality = fields.get("locality")
        proxy = ProxyRow(fleet_id=pool.fleet_id, name=name, role=Role.EXIT, locality=locality, created_at=AT)
        await declared.save(unit, proxy)
        return await declared.save(unit, exit_row(pool, name, id=proxy.id, **fields))

    async def gateway(self, unit: UnitOfWork, fleet: FleetRow, name: str = "gw-1", **fields: Any) -> ProxyRow:
        row = ProxyRow(fleet_id=fleet.id, name=name, role=Role.GATEWAY, created_at=AT, **fields)
        return await declared.save(unit, row)


def exit_row(pool: PoolRow, name: str, **fields: Any) -> ExitRow:
    given = {
        "address": "198.51.100.1",
        "endpoint": "198.51.100.1",
        "port": 8443,
        "bind_address": "0.0.0.0",
        "state": ExitState.HEALTHY,
        "state_reason": "",
        "state_since": AT,
        "created_at": AT,
    }
    return ExitRow(pool_id=pool.id, name=name, **given | fields)


@pytest.fixture
def declare() -> Declare:
    return Declare()


@pytest.fixture
def query(database: Database) -> Callable[..., Any]:
    """`await query(sql, **values)` returns the rows of a statement as a list of tuples."""

    async def run(sql: str, **values: Any) -> list[tuple[Any, ...]]:
        async with database.session() as session:
            result = await session.execute(text(sql), values)
            return [tuple(row) for row in result.all()] if result.returns_rows else []

    return run
