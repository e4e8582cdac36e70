"""The end of an exit, whoever wants it."""

from __future__ import annotations

from uuid import UUID

from model.repositories import declared, heartbeats, sync
from model.tables import ExitRow
from model.unit_of_work import UnitOfWork


async def deregister(unit: UnitOfWork, row: ExitRow, fleet_id: UUID) -> None:
    """Remove an exit: its proxy, certificates and last heartbeat go with it."""
    await declared.remove(unit, row, fleet_id)
    proxy = await declared.find_proxy(unit.session, row.id)
    if proxy is not None:
        await declared.remove(unit, proxy)
    await heartbeats.forget(unit.session, row.id)
    await sync.forget(unit.session, row.id)
