"""Server certificates: what listeners show to clients that speak TLS to them."""

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

    async def create(self, work: WriteContext, wish: CertificateIn) -> ServerCertificateRow:
        """Raises Problem: 422 for an unknown fleet or what is no good certificate, 409 when the name is taken."""
        fleet = await fleets.refer(work.session, wish.fleet, caller=work.caller)
        read = read_pair(wish.chain, wish.key, work.now)
        row = ServerCertificateRow(
            fleet_id=fleet.id,
            name=wish.name,
            chain=wish.chain,
            key=wish.key,
            server_names=read.server_names,
            expires_at=read.expires_at,
            created_at=work.now,
        )
        gone = {"fk_server_certificate_fleet_id_fleet": unknown("fleet", "/fleet", wish.fleet)}
        with clashes(_taken(wish.name) | gone):
            return await declared.save(work.unit, row)

    async def change(self, work: WriteContext, row: ServerCertificateRow, fields: dict[str, Any]) -> None:
        """Raises Problem: 422 for what is no good certificate, 409 when the name is taken."""
        await self.reject_fleet_change(work, row, fields)
        if fields.keys() & {"chain", "key"}:
            read = read_pair(fields.get("chain", row.chain), fields.get("key", row.key), work.now)
            fields |= {"server_names": read.server_names, "expires_at": read.expires_at}
        with clashes(_taken(fields.get("name", ""))):
            await declared.save_changes(work.unit, row, fields)

    async def remove(self, work: WriteContext, row: ServerCertificateRow) -> None:
        """Raises Problem: 409 while a listener shows it."""
        hint = "give it another first: GET /api/v1/listeners"
        used = in_use("certificate", row.name, "a listener shows the certificate", hint)
        with clashes({"fk_listener_certificate_id_server_certificate": used}):
            await declared.remove(work.unit, row)

    async def show(self, look: ReadContext, rows: Sequence[ServerCertificateRow]) -> list[CertificateOut]:
        owners = await declared.fleet_names(look.session, {row.fleet_id for row in rows})
        return [CertificateOut.of(row, fleet=owners[row.fleet_id]) for row in rows]


CERTIFICATES = CertificateCollection()


@dataclass(frozen=True, slots=True)
class ParsedCertificate:
    """What a chain says of itself."""

    server_names: list[str]
    expires_at: datetime


def read_pair(chain: str, key: str, now: datetime) -> ParsedCertificate:
    """Check a chain and its key. Raises Problem (422)."""
    try:
        certificates = x509.load_pem_x509_certificates(chain.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _bad("/chain", "this is no chain of certificates in PEM", "send the server's own first") from error
    try:
        private = load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad("/key", "this is no unencrypted private key in PEM", "send the key of the certificate") from error
    first = certificates[0]
    _check_key(private)
    if _public(private.public_key()) != _public(first.public_key()):
        raise _bad("/key", "the key is not that of the first certificate", "send the two that belong together")
    if first.not_valid_after_utc <= now:
        raise _bad("/chain", f"it expired at {first.not_valid_after_utc.isoformat()}", "send one that is valid")
    return ParsedCertificate(_server_names(first), first.not_valid_after_utc)


def _check_key(private: Any) -> None:
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size >= _RSA_MIN_BITS:
        return
    if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1 | ec.SECP384R1):
        return
    hint = f"use P-256, P-384, or RSA of at least {_RSA_MIN_BITS} bits"
    raise _bad("/key", "the key is of a kind that gateways do not take", hint)


def _public(key: Any) -> bytes:
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


def _taken(name: str) -> dict[str, Problem]:
    message = "another certificate of the fleet has this name"
    return {"uq_server_certificate_fleet_id_name": duplicate("/name", name, message)}
