"""Listeners at which the gateways of a fleet accept clients."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
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
from model.certificate_rules import BadServerNames, check_server_names
from model.repositories import declared, server_certificates
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
        await _check_certificates(work, row)
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
        if stored.keys() & {"certificate_id", "additional_certificates", "countries_by_server_name"}:
            await _check_certificates(work, row)

    async def remove(self, work: WriteContext, row: ListenerRow) -> None:
        await declared.remove(work.unit, row)

    async def show(self, look: ReadContext, rows: Sequence[ListenerRow]) -> list[ListenerOut]:
        owners = await declared.fleet_names(look.session, {row.fleet_id for row in rows})
        named = await declared.names_of(look.session, PoolRow, {row.pool_id for row in rows if row.pool_id})
        shown = {each for row in rows for each in server_certificates.ids_of(row)}
        certificates = await declared.names_of(look.session, ServerCertificateRow, shown)
        return [
            ListenerOut.of(
                row,
                fleet=owners[row.fleet_id],
                pool=named[row.pool_id] if row.pool_id else None,
                certificate=certificates[row.certificate_id] if row.certificate_id else None,
                additional_certificates=[certificates[UUID(each)] for each in row.additional_certificates],
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
        fields["certificate_id"] = await _find_certificate(work, fleet_id, ref, "/certificate") if ref else None
    if "additional_certificates" in fields:
        fields["additional_certificates"] = [
            str(await _find_certificate(work, fleet_id, ref, f"/additional_certificates/{index}"))
            for index, ref in enumerate(fields["additional_certificates"])
        ]
    return fields


async def _find_certificate(work: WriteContext, fleet_id: UUID, ref: str, field: str) -> UUID:
    found = await declared.find_named(work.session, ServerCertificateRow, fleet_id, ref)
    if found is None:
        raise unknown("certificate", field, ref, "the fleet has no such certificate")
    return found.id


async def _check_certificates(work: WriteContext, row: ListenerRow) -> None:
    """Check that the certificates of a listener are still there, distinct, and have the names that it uses. Raises Problem (422)."""
    ids = server_certificates.ids_of(row)
    if not ids:
        return
    found = await server_certificates.lock_shared(work.session, ids)
    for each in ids:
        if each not in found:
            raise unknown("certificate", "/certificate", str(each), "the certificate was removed meanwhile")
    names = [(found[each].name, found[each].server_names) for each in ids]
    try:
        check_server_names(row.countries_by_server_name, names)
    except BadServerNames as error:
        field = "/additional_certificates" if row.additional_certificates else "/certificate"
        raise Problem(422, error.code, error.message, errors=[FieldError(field, error.message, error.hint)]) from error


def _check(row: ListenerRow) -> None:
    if not row.authentication and not ip_address(row.address).is_loopback:
        message = "a listener that does not authenticate its clients binds to loopback only"
        hint = "send authentication: [basic], or the address 127.0.0.1 or ::1"
        raise Problem(422, "not_loopback", message, errors=[FieldError("/address", message, hint, row.address)])
    if row.country is not None and row.pool_id is not None:
        message = "a listener has a country or a pool, not both"
        raise Problem(422, "country_and_pool", message, errors=[FieldError("/pool", message, "send one of the two")])
    if row.additional_certificates and row.certificate_id is None:
        message = "a listener with additional certificates needs one for all other names"
        error = FieldError("/certificate", message, "send the default certificate as `certificate`")
        raise Problem(422, "no_tls", message, errors=[error])
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
