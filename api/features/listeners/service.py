"""Listeners at which the gateways of a fleet accept clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement
from sqlmodel import col

from api.features.fleets import service as fleets
from api.features.listeners.schemas import ListenerIn, ListenerOut, ListenerPatch, ListenerQuery
from api.features.pools import service as pools
from api.http.field_errors import FieldError
from api.http.problems import Problem, clashes, duplicate, unknown
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.writes import WriteContext
from model.repositories import declared
from model.tables import ListenerRow, PoolRow, ServerCertificateRow


class ListenerCollection(Collection[ListenerRow, ListenerIn, ListenerOut]):
    name, kind = "listeners", "listener"
    table, request_model, patch_model, response_model, query_model = (
        ListenerRow,
        ListenerIn,
        ListenerPatch,
        ListenerOut,
        ListenerQuery,
    )

    def sortable(self) -> dict[str, Any]:
        return {"name": col(ListenerRow.name), "port": col(ListenerRow.port)}

    def filters(self, query: ListenerQuery) -> list[ColumnElement[bool]]:
        return [] if query.pool is None else [col(ListenerRow.pool_id).in_(declared.ids_of(PoolRow, query.pool))]

    async def create(self, work: WriteContext, body: ListenerIn) -> ListenerRow:
        """Create a listener.

        Raises Problem: 422 for a pool or certificate outside the fleet, 409 when the name, or address and port, are taken.
        """
        fleet = await fleets.refer(work.session, body.fleet, caller=work.caller)
        fields = await _to_columns(work, fleet.id, body.model_dump(exclude={"fleet"}))
        row = ListenerRow(fleet_id=fleet.id, created_at=work.now, **fields)
        _check(row)
        missing_fleet = {"fk_listener_fleet_id_fleet": unknown("fleet", "/fleet", body.fleet)}
        with clashes(_conflicts(fields) | missing_fleet):
            return await declared.save(work.unit, row)

    async def change(self, work: WriteContext, row: ListenerRow, fields: dict[str, Any]) -> None:
        """Update a listener.

        Raises Problem: 422 for a pool or certificate outside the fleet, 409 when the name, or address and port, are taken.
        """
        await self.reject_fleet_change(work, row, fields)
        stored = await _to_columns(work, row.fleet_id, fields)
        with clashes(_conflicts(stored)):
            await declared.save_changes(work.unit, row, stored)
        _check(row)

    async def remove(self, work: WriteContext, row: ListenerRow) -> None:
        await declared.remove(work.unit, row)

    async def show(self, look: ReadContext, rows: Sequence[ListenerRow]) -> list[ListenerOut]:
        owners = await declared.fleet_names(look.session, {row.fleet_id for row in rows})
        named = await declared.names_of(look.session, PoolRow, {row.pool_id for row in rows if row.pool_id})
        shown = {row.certificate_id for row in rows if row.certificate_id}
        certificates = await declared.names_of(look.session, ServerCertificateRow, shown)
        return [
            ListenerOut.of(
                row,
                fleet=owners[row.fleet_id],
                pool=named[row.pool_id] if row.pool_id else None,
                certificate=certificates[row.certificate_id] if row.certificate_id else None,
            )
            for row in rows
        ]


LISTENERS = ListenerCollection()


async def _to_columns(work: WriteContext, fleet_id: UUID, fields: dict[str, Any]) -> dict[str, Any]:
    """Convert the sent fields to columns, with ids for names. Raises Problem (422)."""
    if "pool" in fields:
        ref = fields.pop("pool")
        fields["pool_id"] = None if ref is None else (await pools.refer(work.session, ref, str(fleet_id)))[0].id
    if "certificate" in fields:
        ref = fields.pop("certificate")
        found = ref and await declared.find_named(work.session, ServerCertificateRow, fleet_id, ref)
        if ref and not found:
            raise unknown("certificate", "/certificate", ref, "the fleet has no such certificate")
        fields["certificate_id"] = found.id if found else None
    return fields


def _check(row: ListenerRow) -> None:
    if row.country is not None and row.pool_id is not None:
        message = "a listener has a country or a pool, not both"
        raise Problem(422, "country_and_pool", message, errors=[FieldError("/pool", message, "send one of the two")])
    if row.countries_by_server_name and row.certificate_id is None:
        message = "clients send a server name only over TLS, and this listener has no certificate"
        error = FieldError("/countries_by_server_name", message, "give it a certificate")
        raise Problem(422, "no_tls", message, errors=[error])


def _conflicts(fields: dict[str, Any]) -> dict[str, Problem]:
    taken = duplicate("/port", str(fields.get("port", "")), "another listener of the fleet uses this address and port")
    return {
        "uq_listener_fleet_id_name": duplicate(
            "/name", fields.get("name", ""), "another listener of the fleet has this name"
        ),
        "uq_listener_fleet_id_address_port": taken,
        "fk_listener_pool_id_pool": unknown("pool", "/pool", "", "the pool was removed meanwhile"),
        "fk_listener_certificate_id_server_certificate": unknown(
            "certificate", "/certificate", "", "the certificate was removed meanwhile"
        ),
    }
