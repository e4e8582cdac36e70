"""Exits: VPN tunnels with an Envoy. That Envoy is a proxy row with the exit's id, created and removed with the exit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from ipaddress import ip_address
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement
from sqlmodel import col

from api.features.exits.parent_proxy import check_place, parent_columns, show_parent
from api.features.exits.schemas import ExitIn, ExitOut, ExitPatch, ExitQuery
from api.features.pools import service as pools
from api.features.rejections.service import load_rejections
from api.http.field_errors import FieldError
from api.http.problems import Problem, clashes, duplicate, unknown
from api.kernel.caller import Caller
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.shrink_guard import require_shrink_approval
from api.kernel.writes import WriteContext
from model.entities import Role
from model.exit_states import TAKEN_OUT, ExitState
from model.repositories import declared, exits, heartbeats
from model.repositories.exits import GB
from model.tables import ExitRow, FleetRow, PoolRow, ProxyRow
from model.unit_of_work import UnitOfWork
from xds.translate.scopes import ExitGroup, ExitOverlay, ParentProxyGroup

DISABLED = "disabled by an operator"
ENABLED = "enabled by an operator, no heartbeat since"
DRAINED = "drained by an operator"
DECLARED = "declared, no heartbeat yet"
_SWITCH_REASONS = {ExitState.REGISTERING: ENABLED, ExitState.DRAINING: DRAINED, ExitState.DISABLED: DISABLED}
_SHARED_FIELDS = ("name", "locality")
"""The fields that an exit shares with the proxy row of its Envoy."""


class ExitCollection(Collection[ExitRow, ExitIn, ExitOut]):
    name, kind = "exits", "exit"
    table, request_model, patch_model, response_model, query_model = ExitRow, ExitIn, ExitPatch, ExitOut, ExitQuery
    volatile = frozenset(
        {
            "endpoint",
            "share",
            "open_requests",
            "month_gb",
            "state",
            "state_reason",
            "state_since",
            "last_heartbeat_at",
            "observation",
            "rejections",
        }
    )

    def fleet_of(self) -> ColumnElement[UUID]:
        return declared.fleet_of_exit()

    def sortable(self) -> Mapping[str, Any]:
        more = {"state": col(ExitRow.state), "state_since": col(ExitRow.state_since)}
        return {**super().sortable(), **more}

    def filters(self, query: ExitQuery) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        if query.pool is not None:
            found.append(col(ExitRow.pool_id).in_(declared.ids_of(PoolRow, query.pool)))
        if query.country is not None:
            found.append(col(ExitRow.pool_id).in_(declared.pool_ids_in(query.country)))
        if query.state is not None:
            found.append(col(ExitRow.state) == query.state)
        if query.locality is not None:
            found.append(col(ExitRow.locality) == query.locality)
        return found

    async def create(self, work: WriteContext, body: ExitIn) -> ExitRow:
        """Create an exit. Raises Problem: 422 for an unknown pool, 409 when the name is taken in the fleet."""
        pool, _ = await pools.refer(work.session, body.pool, body.fleet, caller=work.caller)
        fields = body.model_dump(exclude={"pool", "fleet", "enabled"})
        fields |= _declared_parent(work, fields.pop("parent"))
        state, reason = (ExitState.REGISTERING, DECLARED) if body.enabled else (ExitState.DISABLED, DISABLED)
        return await add(work.unit, pool, fields, state=state, reason=reason, now=work.now)

    async def change(self, work: WriteContext, row: ExitRow, fields: dict[str, Any]) -> None:
        """Update an exit.

        Raises Problem: 422 for a pool outside the fleet, 409 when the name is taken or the change would shrink the fleet.
        """
        pool, fleet = (await declared.pools_by_id(work.session, [row.pool_id]))[row.pool_id]
        ref = fields.pop("fleet", None)
        if ref not in (None, fleet.name, str(fleet.id)):
            message, hint = "an exit cannot move to another fleet", "leave it out, or create another exit there"
            raise Problem(422, "immutable", message, errors=[FieldError("/fleet", message, hint, ref)])
        if "pool" in fields:
            pool, _ = await pools.refer(work.session, fields.pop("pool"), str(fleet.id))
            fields["pool_id"] = pool.id
        if "parent" in fields:
            fields |= _declared_parent(work, fields.pop("parent"), row)
        enabled = fields.pop("enabled", None)
        if enabled is not None and enabled != (row.state != ExitState.DISABLED):
            fields |= _switched_fields(ExitState.REGISTERING if enabled else ExitState.DISABLED, work.now)
        async with require_shrink_approval(work, [fleet.id]):
            await update(work.unit, row, pool, fields)

    async def switch(self, work: WriteContext, row: ExitRow, state: ExitState) -> None:
        """Set the state of a locked exit: draining, disabled, or registering to enable it. Do nothing if it has that state.

        Raises Problem: 409 when the change would shrink the fleet, or when a disabled exit should be drained.
        """
        if row.state == state or (state is ExitState.REGISTERING and row.state not in TAKEN_OUT):
            return
        if state is ExitState.DRAINING and row.state == ExitState.DISABLED:
            message, hint = "the exit is disabled, so it has nothing to drain", "enable it first, or leave it disabled"
            raise Problem(409, "nothing_to_drain", message, hint=hint)
        _, fleet = (await declared.pools_by_id(work.session, [row.pool_id]))[row.pool_id]
        async with require_shrink_approval(work, [fleet.id]):
            await declared.save_changes(work.unit, row, _switched_fields(state, work.now), fleet.id)

    async def remove(self, work: WriteContext, row: ExitRow) -> None:
        """Deregister an exit, and delete its proxy, certificates and last heartbeat.

        Raises Problem: 409 when the removal would shrink the fleet.
        """
        _, fleet = (await declared.pools_by_id(work.session, [row.pool_id]))[row.pool_id]
        async with require_shrink_approval(work, [fleet.id]):
            await exits.deregister(work.unit, row, fleet.id)
        work.add_removed_proxy(row.id)

    async def show(self, look: ReadContext, rows: Sequence[ExitRow]) -> list[ExitOut]:
        owners = await declared.owners_of_exits(look.session, {row.pool_id for row in rows})
        reports = await heartbeats.last_reports(look.session, [row.id for row in rows])
        rejections = await load_rejections(look.session)
        return [
            ExitOut.of(
                row,
                **owners[row.pool_id],
                parent=show_parent(row),
                enabled=row.state != ExitState.DISABLED,
                state=ExitState(row.state),
                **_heartbeat_fields(reports.get(row.id)),
                rejections=rejections.of_groups([ExitOverlay(row.id).key, _group_of(row).key]),
            )
            for row in rows
        ]

    async def best(self, look: ReadContext, caller: Caller, country: str, fleet: str | None) -> ExitOut:
        """Return the best serving exit of a country. Raises Problem (404) when none serves there.

        The order is: no standby first, then healthy before degraded, then the lowest load per weight, then the shortest round
        trips.
        """
        found = self._select().where(*self.visible(caller), declared.serving_in(country))
        if fleet is not None:
            found = found.where(self.fleet_of().in_(declared.ids_of(FleetRow, fleet)))
        shown = await self.show(look, (await look.session.execute(found)).all())
        if not shown:
            message, hint = f"no exit in {country} serves", f"read why: GET /api/v1/exits?country={country}"
            raise Problem(404, "no_exit_serves", message, errors=[FieldError("?country", message, hint, country)])
        return min(shown, key=_rank)


def _declared_parent(
    work: WriteContext, parent: Mapping[str, Any] | None, row: ExitRow | None = None
) -> dict[str, Any]:
    """Return the columns of a parent that an operator declares. Raises Problem (422)."""
    if not work.allows_local_parents:
        check_place(parent, row)
    return parent_columns(parent, row)


def _rank(shown: ExitOut) -> tuple[Any, ...]:
    observed = shown.observation
    rtt_ms = None if observed is None else observed.rtt_ms
    load = shown.open_requests / (shown.weight * shown.share)
    return shown.standby, shown.state is not ExitState.HEALTHY, load, math.inf if rtt_ms is None else rtt_ms, shown.name


EXITS = ExitCollection()


def _heartbeat_fields(last: heartbeats.LastReport | None) -> dict[str, Any]:
    if last is None:
        return {"last_heartbeat_at": None, "observation": None, "open_requests": 0, "month_gb": 0.0}
    return {
        "last_heartbeat_at": last.heard_at,
        "observation": last.observation,
        "open_requests": last.open_requests,
        "month_gb": last.month_bytes / GB,
    }


async def add(
    unit: UnitOfWork, pool: PoolRow, fields: dict[str, Any], *, state: ExitState, reason: str, now: datetime
) -> ExitRow:
    """Create an exit in `pool`, and the proxy of its Envoy.

    Raises Problem (409) when the name is taken in the fleet.
    """
    exit_id = uuid4()
    shared = {name: fields[name] for name in _SHARED_FIELDS}
    proxy = ProxyRow(id=exit_id, fleet_id=pool.fleet_id, role=Role.EXIT, created_at=now, **shared)
    row = ExitRow(
        id=exit_id,
        pool_id=pool.id,
        endpoint=endpoint_of(fields["address"]),
        state=state,
        state_reason=reason,
        state_since=now,
        created_at=now,
        **fields,
    )
    with clashes(_conflicts(fields["name"], pool.name)):
        await declared.save(unit, proxy)
        await declared.save(unit, row, pool.fleet_id)
    return row


async def update(unit: UnitOfWork, row: ExitRow, pool: PoolRow, fields: dict[str, Any]) -> None:
    """Update a locked exit and the proxy of its Envoy. Raises Problem (409) when the name is taken."""
    if "address" in fields and fields["address"] != row.address:
        fields["endpoint"] = endpoint_of(fields["address"])
    with clashes(_conflicts(fields.get("name", row.name), pool.name)):
        if shared := {name: fields[name] for name in _SHARED_FIELDS if name in fields}:
            proxy = await declared.find_proxy(unit.session, row.id)
            assert proxy is not None, "an exit has a proxy"
            await declared.save_changes(unit, proxy, shared)
        await declared.save_changes(unit, row, fields, pool.fleet_id)


def endpoint_of(address: str) -> str | None:
    """Return an IP address as the endpoint; None for a host name, which the keeper resolves later."""
    try:
        return str(ip_address(address))
    except ValueError:
        return None


def _group_of(row: ExitRow) -> ExitGroup | ParentProxyGroup:
    return ParentProxyGroup(row.pool_id) if row.parent_address else ExitGroup(row.pool_id)


def _switched_fields(state: ExitState, now: datetime) -> dict[str, Any]:
    """Return the columns of a state set by an operator. An enabled exit is not healthy yet: fail closed."""
    return {"state": state, "state_reason": _SWITCH_REASONS[state], "state_since": now, "capped": False}


def _conflicts(name: str, pool: str) -> dict[str, Problem]:
    taken = duplicate("/name", name, "another exit of the fleet has this name")
    return {
        "uq_proxy_fleet_id_role_name": taken,
        "uq_exit_pool_id_name": taken,
        "fk_exit_pool_id_pool": unknown("pool", "/pool", pool),
        "fk_proxy_fleet_id_fleet": unknown("fleet", "/fleet", "", "the fleet was removed meanwhile"),
    }
