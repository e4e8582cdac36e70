"""The states of pools' containers, from what the keeper last stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from api.features.pools.container_schemas import ContainersStateOut
from api.kernel.context import ReadContext
from model.repositories import containers
from model.stored_containers import read_containers
from model.tables import ContainerEngineRow

ENGINE_STALE_AFTER: Final = timedelta(seconds=30)
"""The additional age at which the keeper's last reading of the container engine no longer counts."""
NO_ENGINE: Final = (
    "no control plane with a container engine looks after this; set EXITPLANE_CONTAINER_ENGINE where one runs"
)


async def read_container_states(read: ReadContext, pools: Sequence[Any]) -> dict[UUID, ContainersStateOut]:
    """Read the states of the pools' containers, by pool id. Pools that want no containers and have none are left out."""
    rows = await containers.of_pools(read.session, [pool.id for pool in pools])
    chosen = [pool for pool in pools if pool.containers is not None or pool.id in rows]
    if not chosen:
        return {}
    engine = await containers.engine(read.session)
    stored = await containers.pool_statuses(read.session, [pool.id for pool in chosen])
    states = {}
    for pool in chosen:
        known = stored.get(pool.id)
        minimum = 0 if pool.containers is None else read_containers(pool.containers).minimum
        error, since = _engine_error(engine, read.alive_since)
        if not error and known is not None and pool.containers is not None:
            error, since = known.error, known.error_since
        states[pool.id] = ContainersStateOut(
            wanted=known.wanted if known and pool.containers is not None else minimum,
            running=sum(row.state == "running" for row in rows.get(pool.id, ())),
            error=error,
            error_since=since,
        )
    return states


def _engine_error(engine: ContainerEngineRow | None, heard_since: datetime) -> tuple[str, datetime | None]:
    if engine is None or engine.looked_at < heard_since - ENGINE_STALE_AFTER:
        return NO_ENGINE, engine.looked_at if engine else None
    return engine.error, engine.error_since
