"""Server certificates that listeners present to clients over TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from api.features.certificates.schemas import CertificateIn, CertificateOut, CertificatePatch, CertificateQuery
from api.features.fleets import service as fleets
from api.http.field_errors import FieldError
from api.http.problems import Problem, clashes, duplicate, in_use, unknown
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.writes import WriteContext
from model.certificate_folder import CertificateFolder, UnusableFiles
from model.certificate_rules import (
    BadServerCertificate,
    BadServerNames,
    CheckedPair,
    check_pair,
    columns_of,
    is_near_expiry,
)
from model.repositories import declared, server_certificates
from model.tables import FleetRow, ServerCertificateRow

_UPLOADED: Final = ("chain", "key")
_SOURCE_FIELDS: Final[tuple[str, ...]] = (*_UPLOADED, "passphrase", "issued_for", "folder")
_SOURCES: Final = "`chain` and `key`, `issued_for`, or `folder`"


class CertificateCollection(Collection[ServerCertificateRow, CertificateIn, CertificateOut]):
    name, kind = "certificates", "certificate"
    table, request_model, patch_model, response_model = (
        ServerCertificateRow,
        CertificateIn,
        CertificatePatch,
        CertificateOut,
    )
    query_model = CertificateQuery
    volatile = frozenset({"warnings", "presented_chain"})

    async def create(self, work: WriteContext, body: CertificateIn) -> ServerCertificateRow:
        """Create a certificate.

        Raises Problem: 422 for an unknown fleet or a bad certificate, 409 when the name is taken.
        """
        fleet = await fleets.refer(work.session, body.fleet, caller=work.caller)
        columns = await _read_source(work, fleet, body.model_dump(exclude={"fleet", "name"}), None)
        row = ServerCertificateRow(fleet_id=fleet.id, name=body.name, created_at=work.now, **columns)
        missing_fleet = {"fk_server_certificate_fleet_id_fleet": unknown("fleet", "/fleet", body.fleet)}
        with clashes(_conflicts(body.name) | missing_fleet):
            return await declared.save(work.unit, row)

    async def change(self, work: WriteContext, row: ServerCertificateRow, fields: dict[str, Any]) -> None:
        """Update a certificate. Raises Problem: 422 for a bad certificate, 409 when the name is taken."""
        await self.reject_fleet_change(work, row, fields)
        sent = {name: fields.pop(name) for name in _SOURCE_FIELDS if name in fields}
        if any(sent.values()):
            fleet = await declared.get_fleet(work.session, row.fleet_id)
            fields |= await _read_source(work, fleet, sent, row)
            with _problems():
                await server_certificates.check_users(work.session, row, fields.get("server_names", row.server_names))
        elif _loses_source(row, sent):
            raise _bad_source(f"the certificate needs a source: {_SOURCES}")
        with clashes(_conflicts(fields.get("name", ""))):
            await declared.save_changes(work.unit, row, fields)

    async def remove(self, work: WriteContext, row: ServerCertificateRow) -> None:
        """Delete a certificate. Raises Problem: 409 while a listener uses it."""
        await declared.lock(work.session, ServerCertificateRow, row.id)  # no listener takes it meanwhile
        users = await server_certificates.users_of(work.session, row.id)
        if users:
            hint = f"give the listener {users[0].name} another certificate first: GET /api/v1/listeners"
            raise in_use("certificate", row.name, "a listener uses the certificate", hint)
        await declared.remove(work.unit, row)

    async def show(self, look: ReadContext, rows: Sequence[ServerCertificateRow]) -> list[CertificateOut]:
        owners = await declared.fleet_names(look.session, {row.fleet_id for row in rows})
        return [
            CertificateOut.of(
                row,
                fleet=owners[row.fleet_id],
                source=_source_of(row),
                chain=row.chain if _source_of(row) == "uploaded" else None,
                presented_chain=row.chain,
                warnings=[*_warnings(row, look)],
            )
            for row in rows
        ]


CERTIFICATES = CertificateCollection()


def _source_of(row: Any) -> str:
    if row.folder is not None:
        return "folder"
    return "issued" if row.issued_for else "uploaded"


def _loses_source(row: ServerCertificateRow, sent: Mapping[str, Any]) -> bool:
    """Return whether a change takes away the source of a certificate, and gives it no other."""
    return {"folder": "folder" in sent, "issued": "issued_for" in sent, "uploaded": False}[_source_of(row)]


def _warnings(row: Any, look: ReadContext) -> Iterator[str]:
    if row.folder_error:
        yield f"the files in its folder are not used: {row.folder_error}"
    if row.expires_at <= look.now:
        yield "it has expired"
    elif is_near_expiry(row.valid_from, row.expires_at, look.now):
        yield "it expires soon, and should have been renewed"


async def _read_source(
    work: WriteContext, fleet: FleetRow, sent: Mapping[str, Any], row: ServerCertificateRow | None
) -> dict[str, Any]:
    """Return the columns for the one source that is sent. Raises Problem (422)."""
    uploads = any(sent.get(name) for name in _UPLOADED)
    issued_for, folder = [*dict.fromkeys(sent.get("issued_for") or ())], sent.get("folder")
    if uploads + bool(issued_for) + bool(folder) != 1:
        raise _bad_source(f"a certificate has one source: {_SOURCES}")
    if row is not None and issued_for and row.issued_for == issued_for:
        return {}  # it is renewed when it is due
    with _problems():
        if folder:
            pair = await _read_folder(work, fleet, folder)
        elif issued_for:
            pair = await server_certificates.issue(work.session, fleet.id, issued_for, work.now)
        else:
            pair = _read_upload(work, sent, row)
    soon = is_near_expiry(pair.valid_from, pair.expires_at, work.now)
    source = {"issued_for": issued_for, "folder": folder, "folder_error": "", "expires_soon": soon}
    return {**columns_of(pair), **source}


def _read_upload(work: WriteContext, sent: Mapping[str, Any], row: ServerCertificateRow | None) -> CheckedPair:
    chain, key = sent.get("chain"), sent.get("key")
    if row is not None and _source_of(row) == "uploaded":
        chain, key = chain or row.chain, key or row.key
    for name, value in zip(_UPLOADED, (chain, key), strict=True):
        if not value:
            message = f"the {name} is missing"
            error = FieldError(f"/{name}", message, "send the chain and its key; a stored key is never exported")
            raise Problem(422, "bad_certificate", message, errors=[error])
    return check_pair(chain or "", key or "", work.now, sent.get("passphrase") if sent.get("key") else None)


async def _read_folder(work: WriteContext, fleet: FleetRow, folder: str) -> CheckedPair:
    if work.certificate_folder is None:
        message = "this control plane has no folder of certificates"
        hint = "set EXITPLANE_CERTIFICATE_FOLDER where `exitplane serve` runs"
        raise Problem(422, "no_certificate_folder", message, errors=[FieldError("/folder", message, hint, folder)])
    return await asyncio.to_thread(CertificateFolder(work.certificate_folder, fleet.name, folder).read, work.now)


@contextmanager
def _problems() -> Iterator[None]:
    """Turn errors of certificates into problems of the fields that are at fault."""
    try:
        yield
    except BadServerCertificate as error:
        raise _bad("bad_certificate", f"/{error.part}", error.message, error.hint) from error
    except BadServerNames as error:
        raise _bad(error.code, "/chain", error.message, error.hint) from error
    except UnusableFiles as error:
        raise _bad("bad_certificate", "/folder", error.message, error.hint) from error


def _bad(code: str, field: str, message: str, hint: str) -> Problem:
    return Problem(422, code, message, errors=[FieldError(field, message, hint)])


def _bad_source(message: str) -> Problem:
    return _bad("certificate_source", "/chain", message, "send one of them, and null or nothing for the others")


def _conflicts(name: str) -> dict[str, Problem]:
    message = "another certificate of the fleet has this name"
    return {"uq_server_certificate_fleet_id_name": duplicate("/name", name, message)}
