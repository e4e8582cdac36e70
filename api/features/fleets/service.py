"""Fleets: gateways that share configuration. A fleet is usually created together with its first listener."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from api.features.fleets.schemas import (
    FirstListenerOut,
    FleetIn,
    FleetOut,
    FleetPatch,
    FleetQuery,
    TracingIn,
    TracingOut,
)
from api.features.rejections.service import load_rejections
from api.http.field_errors import FieldError
from api.http.problems import Problem, clashes, duplicate, in_use, unknown
from api.kernel.caller import Caller
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.writes import WriteContext
from model.repositories import declared
from model.tables import FleetRow, ListenerRow
from xds.translate import names
from xds.translate.scopes import GatewayGroup


class FleetCollection(Collection[FleetRow, FleetIn, FleetOut]):
    name, kind = "fleets", "fleet"
    table, request_model, patch_model, response_model, query_model = FleetRow, FleetIn, FleetPatch, FleetOut, FleetQuery
    volatile = frozenset({"rejections"})
    has_fleet = False

    def fleet_of(self) -> Any:
        return col(FleetRow.id)

    async def create(self, work: WriteContext, body: FleetIn) -> FleetRow:
        """Create a fleet. Raises Problem: 409 when the name is taken."""
        work.caller.demand_all_fleets("a new fleet")
        tracing = None if body.tracing is None else body.tracing.model_dump()
        fleet = FleetRow(name=body.name, tracing=tracing, created_at=work.now)
        with clashes({"uq_fleet_name": _name_taken(body.name)}):
            await declared.save(work.unit, fleet)
        if body.listener is not None:
            await declared.save(
                work.unit, ListenerRow(fleet_id=fleet.id, created_at=work.now, **body.listener.model_dump())
            )
        return fleet

    async def change(self, work: WriteContext, row: FleetRow, fields: dict[str, Any]) -> None:
        """Update a fleet. Raises Problem: 409 when the name, or the listener's address and port, are taken."""
        if fields.get("name", row.name) != row.name:  # folders and permissions of fleets are found by the name
            work.caller.demand_all_fleets("a new name of a fleet")
        if fields.get("tracing") is not None:
            fields["tracing"] = TracingIn.model_validate(fields["tracing"]).model_dump()
        listener: dict[str, Any] = fields.pop("listener", None) or {}
        with clashes({"uq_fleet_name": _name_taken(fields.get("name", ""))}):
            await declared.save_changes(work.unit, row, fields)
        if not listener:
            return
        first = await declared.lock_first_listener(work.session, row.id)
        taken = duplicate(
            "/listener/port", str(listener.get("port", "")), "another listener of the fleet uses this address and port"
        )
        with clashes({"uq_listener_fleet_id_address_port": taken}):
            if first is not None:
                await declared.save_changes(work.unit, first, listener)
            elif {"address", "port"} <= listener.keys():
                await declared.save(work.unit, ListenerRow(fleet_id=row.id, created_at=work.now, **listener))
            else:
                message = "the fleet has no first listener to change"
                error = FieldError("/listener", message, "send both address and port")
                raise Problem(422, "no_listener", message, errors=[error])

    async def remove(self, work: WriteContext, row: FleetRow) -> None:
        """Delete a fleet and its listeners. Raises Problem: 409 while it contains anything else."""
        work.caller.demand_all_fleets("removing a fleet")
        for listener in await declared.listeners_of(work.session, row.id):
            await declared.remove(work.unit, listener)
        with clashes(
            {f"fk_{table}_fleet_id_fleet": _in_use(row, collection) for table, collection in _CONTENTS.items()}
        ):
            await declared.remove(work.unit, row)

    async def show(self, look: ReadContext, rows: Sequence[FleetRow]) -> list[FleetOut]:
        listeners = await declared.first_listeners(look.session, [row.id for row in rows])
        rejections = await load_rejections(look.session)
        return [
            FleetOut(
                id=row.id,
                name=row.name,
                listener=_show_listener(listeners.get(row.id)),
                tracing=None if row.tracing is None else TracingOut(**row.tracing),
                rejections=rejections.of_groups(
                    [GatewayGroup(row.id).key], names.GATEWAY_LISTENER, names.GATEWAY_ROUTES
                ),
                created_at=row.created_at,
            )
            for row in rows
        ]


FLEETS = FleetCollection()
_CONTENTS = {
    "pool": "pools",
    "proxy": "proxies",
    "route": "routes",
    "user_account": "users",
    "plan": "plans",
    "server_certificate": "certificates",
}
"""The tables of objects in a fleet, with their collections in the API."""


async def refer(session: AsyncSession, ref: str, field: str = "/fleet", caller: Caller | None = None) -> FleetRow:
    """Return the fleet that a body names. Raises Problem (422), also for a fleet that the caller may not see."""
    found = await declared.find_fleet(session, ref)
    if found is None or (caller is not None and not caller.sees(found.id)):
        raise unknown("fleet", field, ref)
    return found


def _show_listener(row: ListenerRow | None) -> FirstListenerOut | None:
    return None if row is None else FirstListenerOut(address=row.address, port=row.port)


def _in_use(fleet: FleetRow, collection: str) -> Problem:
    hint = f"delete them first: GET /api/v1/{collection}?fleet={fleet.name}"
    return in_use("fleet", fleet.name, f"the fleet has {collection}", hint)


def _name_taken(name: str) -> Problem:
    return duplicate("/name", name, "another fleet has this name")
