"""Explaining: what the gateways of a fleet make of a request, told from what is declared."""

from __future__ import annotations

from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from api.features.explain.schemas import (
    ClientIntentOut,
    ExitSeenOut,
    ExplainOut,
    ExplainQuery,
    PathOut,
    PoolSeenOut,
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
    """Raises Problem (422) for an unknown fleet or listener, and for a target that is none."""
    host, port = _target(query.target)
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
        wish=RequestedLocation(query.country, query.city, query.pool),
        session=query.session,
        day=at.weekday(),
        minute=at.hour * 60 + at.minute,
    )
    seen_from = None if query.locality is None else Locality.parse(query.locality)
    found = explain(world, fleet.id, request, seen_from)
    if found is None:
        message, hint = "the fleet has no listener, so no client can ask it for anything", "POST /api/v1/listeners"
        raise Problem(409, "no_listener", message, errors=[FieldError("?fleet", message, hint, fleet.name)])
    return ExplainOut(
        fleet=fleet.name,
        listener=found.listener.name,
        at=at,
        revision=world.revision,
        wish=_wish(found),
        target=TargetOut(host=found.target.host, port=found.target.port),
        routes=[
            TriedRouteOut(id=each.route.id, name=each.route.name, position=each.route.position, failed=each.failed)
            for each in found.tried
        ],
        ways=[PathOut(weight=way.weight, pools=[_pool(each) for each in way.pools]) for way in found.ways],
        refusal=None if found.refusal is None else RefusalOut(status=found.refusal.status, text=found.refusal.text),
        summary=_summary(found),
    )


def _wish(found: Explanation) -> ClientIntentOut:
    wish, place = found.wish, found.wish.place
    return ClientIntentOut(
        source=wish.source,
        country=place.country,
        city=place.city,
        pool=place.pool,
        session=wish.session,
        user=wish.user,
        group=found.group,
    )


def _pool(seen: ExplainedPool) -> PoolSeenOut:
    exits = [
        ExitSeenOut(
            id=each.exit.id,
            name=each.exit.name,
            state=each.exit.state,
            distance=each.distance,
            standby=each.exit.standby,
            serves=not each.why_not,
            why_not=each.why_not,
        )
        for each in seen.exits
    ]
    return PoolSeenOut(id=seen.pool.id, name=seen.pool.name, exits=exits)


def _summary(found: Explanation) -> str:
    decided = next((each.route.name for each in found.tried if each.failed is None), None)
    why = f"by the route {decided}" if decided else f"by the wish ({found.wish.source})"
    if found.refusal is not None:
        return f"refused with {found.refusal.status}, {why}: {found.refusal.text.strip()}"
    ways = [" then ".join(pool.pool.name for pool in way.pools) for way in found.ways]
    serving = any(not seen.why_not for way in found.ways for pool in way.pools for seen in pool.exits)
    end = "" if serving else "; none of their exits can serve now, so it is answered with 503"
    return f"to the pool {' or '.join(ways)}, {why}{end}"


async def _fleet(session: AsyncSession, caller: Caller, ref: str | None) -> FleetRow:
    if ref is not None:
        return await FLEETS.resolve(session, caller, ref, "?fleet")
    seen = select(FleetRow).where(*FLEETS.visible(caller)).order_by(col(FleetRow.name)).limit(10)
    fleets = (await session.execute(seen)).scalars().all()
    if len(fleets) == 1:
        return fleets[0]
    message = "there are several fleets" if fleets else "there is no fleet"
    hint = f"add one of {', '.join(each.name for each in fleets)}" if fleets else "create one: POST /api/v1/fleets"
    raise Problem(422, "which_fleet", message, errors=[FieldError("?fleet", message, hint)])


async def _listener(session: AsyncSession, caller: Caller, fleet: FleetRow, ref: str) -> ListenerRow:
    return await LISTENERS.resolve(session, caller, ref, "?listener", str(fleet.id))


def _target(text: str) -> tuple[str, int]:
    try:
        url = urlsplit(text if "://" in text else f"https://{text}")
        port = url.port or _PORTS.get(url.scheme, 0)
        if url.hostname and 1 <= port <= 65535:
            return url.hostname, port
    except ValueError:  # brackets that hold no address, a port that is no number
        pass
    message, hint = "this is no target", "send https://example.com/ or example.com:443"
    raise Problem(422, "bad_target", message, errors=[FieldError("?target", message, hint, text)])
