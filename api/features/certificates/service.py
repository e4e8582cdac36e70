"""Server certificates that listeners present to clients over TLS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from api.features.certificates.schemas import CertificateIn, CertificateOut, CertificatePatch, CertificateQuery
from api.features.fleets import service as fleets
from api.http.field_errors import FieldError
from api.http.problems import Problem, clashes, duplicate, in_use, unknown
from api.kernel.collections.collection import Collection
from api.kernel.context import ReadContext
from api.kernel.writes import WriteContext
from model.repositories import declared
from model.tables import ServerCertificateRow

_RSA_MIN_BITS = 2048


class CertificateCollection(Collection[ServerCertificateRow, CertificateIn, CertificateOut]):
    name, kind = "certificates", "certificate"
    table, request_model, patch_model, response_model = (
        ServerCertificateRow,
        CertificateIn,
        CertificatePatch,
        CertificateOut,
    )
    query_model = CertificateQuery

    async def create(self, work: WriteContext, body: CertificateIn) -> ServerCertificateRow:
        """Create a certificate.

        Raises Problem: 422 for an unknown fleet or a bad certificate, 409 when the name is taken.
        """
        fleet = await fleets.refer(work.session, body.fleet, caller=work.caller)
        parsed = parse_pair(body.chain, body.key, work.now)
        row = ServerCertificateRow(
            fleet_id=fleet.id,
            name=body.name,
            chain=body.chain,
            key=body.key,
            server_names=parsed.server_names,
            expires_at=parsed.expires_at,
            created_at=work.now,
        )
        missing_fleet = {"fk_server_certificate_fleet_id_fleet": unknown("fleet", "/fleet", body.fleet)}
        with clashes(_conflicts(body.name) | missing_fleet):
            return await declared.save(work.unit, row)

    async def change(self, work: WriteContext, row: ServerCertificateRow, fields: dict[str, Any]) -> None:
        """Update a certificate. Raises Problem: 422 for a bad certificate, 409 when the name is taken."""
        await self.reject_fleet_change(work, row, fields)
        if fields.keys() & {"chain", "key"}:
            parsed = parse_pair(fields.get("chain", row.chain), fields.get("key", row.key), work.now)
            fields |= {"server_names": parsed.server_names, "expires_at": parsed.expires_at}
        with clashes(_conflicts(fields.get("name", ""))):
            await declared.save_changes(work.unit, row, fields)

    async def remove(self, work: WriteContext, row: ServerCertificateRow) -> None:
        """Delete a certificate. Raises Problem: 409 while a listener uses it."""
        hint = "give the listener another certificate first: GET /api/v1/listeners"
        conflict = in_use("certificate", row.name, "a listener uses the certificate", hint)
        with clashes({"fk_listener_certificate_id_server_certificate": conflict}):
            await declared.remove(work.unit, row)

    async def show(self, look: ReadContext, rows: Sequence[ServerCertificateRow]) -> list[CertificateOut]:
        owners = await declared.fleet_names(look.session, {row.fleet_id for row in rows})
        return [CertificateOut.of(row, fleet=owners[row.fleet_id]) for row in rows]


CERTIFICATES = CertificateCollection()


@dataclass(frozen=True, slots=True)
class ParsedCertificate:
    """The parsed fields of a certificate chain."""

    server_names: list[str]
    expires_at: datetime


def parse_pair(chain: str, key: str, now: datetime) -> ParsedCertificate:
    """Parse a chain and check that the key belongs to it. Raises Problem (422)."""
    try:
        certificates = x509.load_pem_x509_certificates(chain.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _bad(
            "/chain", "this is not a chain of certificates in PEM", "send PEM, the server's own certificate first"
        ) from error
    try:
        private = load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad(
            "/key", "this is not an unencrypted private key in PEM", "send the key of the certificate, unencrypted"
        ) from error
    first = certificates[0]
    _check_key(private)
    if _public_der(private.public_key()) != _public_der(first.public_key()):
        raise _bad(
            "/key", "the key does not belong to the first certificate", "send a chain and a key that belong together"
        )
    if first.not_valid_after_utc <= now:
        raise _bad(
            "/chain", f"the certificate expired at {first.not_valid_after_utc.isoformat()}", "send a valid certificate"
        )
    return ParsedCertificate(_server_names(first), first.not_valid_after_utc)


def _check_key(private: Any) -> None:
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size >= _RSA_MIN_BITS:
        return
    if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1 | ec.SECP384R1):
        return
    hint = f"use P-256, P-384, or RSA of at least {_RSA_MIN_BITS} bits"
    raise _bad("/key", "gateways do not support a key of this type", hint)


def _public_der(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _server_names(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return []
    return sorted(extension.value.get_values_for_type(x509.DNSName))


def _bad(field: str, message: str, hint: str) -> Problem:
    return Problem(422, "bad_certificate", message, errors=[FieldError(field, message, hint)])


def _conflicts(name: str) -> dict[str, Problem]:
    message = "another certificate of the fleet has this name"
    return {"uq_server_certificate_fleet_id_name": duplicate("/name", name, message)}
