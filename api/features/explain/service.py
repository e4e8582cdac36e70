"""Explanation of a request: how a fleet's gateways would route it, from the declared state."""

from __future__ import annotations

from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from api.features.explain.schemas import (
    ClientIntentOut,
    ExplainedExitOut,
    ExplainedPathOut,
    ExplainedPoolOut,
    ExplainOut,
    ExplainQuery,
    RefusalOut,
    TargetOut,
    TriedRouteOut,
)
from api.features.fleets.service import FLEETS
from api.features.listeners.service import LISTENERS
from api.http.field_errors import FieldError
from api.http.problems import Problem
from api.kernel.caller import Caller
from api.kernel.context import ApiContext
from model.locality import Locality
from model.tables import FleetRow, ListenerRow
from xds.translate.client_intent import RequestedLocation
from xds.translate.explain import ExplainedPool, ExplainRequest, Explanation, explain

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


async def show(context: ApiContext, caller: Caller, query: ExplainQuery) -> ExplainOut:
    """Explain a request.

    Raises Problem: 422 for an unknown fleet or listener or a bad target, 409 without a listener.
    """
    host, port = _parse_target(query.target)
    at = query.at or context.clock()
    async with context.database.snapshot() as session:
        fleet = await _fleet(session, caller, query.fleet)
        listener = None if query.listener is None else await _listener(session, caller, fleet, query.listener)
    world = await context.world_cache.read(context.database)
    request = ExplainRequest(
        target_host=host,
        target_port=port,
        listener_id=None if listener is None else listener.id,
        server_name=query.server_name,
        user_name=query.user,
        location=RequestedLocation(query.country, query.city, query.pool),
        session=query.session,
        day=at.weekday(),
        minute=at.hour * 60 + at.minute,
    )
    gateway_locality = None if query.locality is None else Locality.parse(query.locality)
    found = explain(world, fleet.id, request, gateway_locality)
    if found is None:
        message, hint = "the fleet has no listener, so it accepts no clients", "create one: POST /api/v1/listeners"
        raise Problem(409, "no_listener", message, errors=[FieldError("?fleet", message, hint, fleet.name)])
    return ExplainOut(
        fleet=fleet.name,
        listener=found.listener.name,
        at=at,
        revision=world.revision,
        intent=_show_intent(found),
        target=TargetOut(host=found.target.host, port=found.target.port),
        routes=[
            TriedRouteOut(id=each.route.id, name=each.route.name, position=each.route.position, failed=each.failed)
            for each in found.tried
        ],
        paths=[
            ExplainedPathOut(weight=path.weight, pools=[_show_pool(each) for each in path.pools])
            for path in found.paths
        ],
        refusal=None if found.refusal is None else RefusalOut(status=found.refusal.status, text=found.refusal.text),
        summary=_summary(found),
    )


def _show_intent(found: Explanation) -> ClientIntentOut:
    intent, location = found.intent, found.intent.location
    return ClientIntentOut(
        source=intent.source,
        country=location.country,
        city=location.city,
        pool=location.pool,
        session=intent.session,
        user=intent.user,
        group=found.group,
    )


def _show_pool(explained: ExplainedPool) -> ExplainedPoolOut:
    exits = [
        ExplainedExitOut(
            id=each.exit.id,
            name=each.exit.name,
            state=each.exit.state,
            distance=each.distance,
            standby=each.exit.standby,
            serves=not each.why_not,
            reason=each.why_not,
        )
        for each in explained.exits
    ]
    return ExplainedPoolOut(id=explained.pool.id, name=explained.pool.name, exits=exits)


def _summary(found: Explanation) -> str:
    decided = next((each.route.name for each in found.tried if each.failed is None), None)
    why = f"by the route {decided}" if decided else f"by the client's intent ({found.intent.source})"
    if found.refusal is not None:
        return f"refused with {found.refusal.status}, {why}: {found.refusal.text.strip()}"
    paths = [" then ".join(pool.pool.name for pool in path.pools) for path in found.paths]
    serving = any(not each.why_not for path in found.paths for pool in path.pools for each in pool.exits)
    end = "" if serving else "; none of their exits can serve now, so the client gets 503"
    return f"to the pool {' or '.join(paths)}, {why}{end}"


async def _fleet(session: AsyncSession, caller: Caller, ref: str | None) -> FleetRow:
    if ref is not None:
        return await FLEETS.resolve(session, caller, ref, "?fleet")
    visible = select(FleetRow).where(*FLEETS.visible(caller)).order_by(col(FleetRow.name)).limit(10)
    fleets = (await session.execute(visible)).scalars().all()
    if len(fleets) == 1:
        return fleets[0]
    message = "there are several fleets" if fleets else "there is no fleet"
    hint = f"add one of {', '.join(each.name for each in fleets)}" if fleets else "create one: POST /api/v1/fleets"
    raise Problem(422, "fleet_required", message, errors=[FieldError("?fleet", message, hint)])


async def _listener(session: AsyncSession, caller: Caller, fleet: FleetRow, ref: str) -> ListenerRow:
    return await LISTENERS.resolve(session, caller, ref, "?listener", str(fleet.id))


def _parse_target(text: str) -> tuple[str, int]:
    try:
        url = urlsplit(text if "://" in text else f"https://{text}")
        port = url.port or _PORTS.get(url.scheme, 0)
        if url.hostname and 1 <= port <= 65535:
            return url.hostname, port
    except ValueError:  # brackets without an IPv6 address, or a port that is not a number
        pass
    message, hint = "this is not a URL or host", "send https://example.com/ or example.com:443"
    raise Problem(422, "bad_target", message, errors=[FieldError("?target", message, hint, text)])
