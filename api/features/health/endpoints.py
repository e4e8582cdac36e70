"""The probes /health, /health/ready and /health/startup."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from api.features.health.schemas import ConnectionsOut, HealthOut, PartOut
from api.kernel.context import ApiContext, Context
from api.runtime.database_probe import DatabaseProbe

router = APIRouter(prefix="/health", tags=["health"])


async def _probe_of(request: Request) -> DatabaseProbe:
    probe: DatabaseProbe = request.app.state.database_probe
    return probe


Probe = Annotated[DatabaseProbe, Depends(_probe_of)]
_UNAVAILABLE: dict[int | str, dict[str, Any]] = {503: {"model": HealthOut, "description": "Not ready, or not started"}}


@router.get("")
async def show_health(context: Context, probe: Probe) -> HealthOut:
    """Show that the process is alive, and the health of its parts. Always 200."""
    return await _check(context, probe)


@router.get("/ready", responses=_UNAVAILABLE)
async def show_readiness(context: Context, probe: Probe, response: Response) -> HealthOut:
    """Show whether this replica can take requests and streams: 200 or 503."""
    health = await _check(context, probe)
    if not health.ok:
        response.status_code = 503
    return health


@router.get("/startup", responses=_UNAVAILABLE)
async def show_startup(context: Context, response: Response) -> HealthOut:
    """Show whether the process has started: 200 or 503."""
    started = context.has_started()
    if not started:
        response.status_code = 503
    return HealthOut(ok=started, parts={})


async def _check(context: ApiContext, probe: DatabaseProbe) -> HealthOut:
    reason = await probe.check()
    parts = {"database": PartOut(ok=reason is None, reason=reason or "")}
    for name, ready in context.readiness_checks.items():
        ok = ready()
        parts[name] = PartOut(ok=ok, reason="" if ok else "not ready")
    connections = {
        name: ConnectionsOut(open=table.open, waiting=table.waiting, closed={**table.closed})
        for name, table in context.connection_tables.items()
    }
    return HealthOut(ok=all(part.ok for part in parts.values()), parts=parts, connections=connections)
