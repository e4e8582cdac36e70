"""Enrolment: a join token and a signing request become a certificate.

See docs/architecture.md#identity-from-certificate.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from cryptography.exceptions import UnsupportedAlgorithm

from api.features.enrolment.schemas import EnrolmentIn, ExitEnrolmentIn, ProxyEnrolmentIn
from api.features.exits import service as exits
from api.features.exits.parent_proxy import parent_columns
from api.features.exits.schemas import ParentIn
from api.features.pools import service as pools
from api.http.field_errors import FieldError
from api.http.problems import Problem, clashes, duplicate
from model.authority import BadSigningRequest, CertificateAuthority, sign_request
from model.entities import Role
from model.exit_states import TAKEN_OUT, ExitState
from model.identity import Identity
from model.repositories import declared, enrolment
from model.request_signature import public_key_of
from model.tables import ExitRow, JoinTokenRow, PoolRow, ProxyRow
from model.unit_of_work import UnitOfWork

ENROLLED = "enrolled, no heartbeat yet"
MOVED = "enrolled again with another address or parent, no heartbeat since"
_ADDRESS_FIELDS = {"address", "port", "bind_address", "egress_address"}


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A proxy and its new certificate (PEM)."""

    identity: Identity
    certificate: str


async def enrol_exit(
    unit: UnitOfWork, authority: CertificateAuthority, body: ExitEnrolmentIn, now: datetime
) -> Enrolled:
    """Enrol an exit.

    Raises Problem: 401, 403 for the token, 422 for pool or CSR, 409 when another pool has the name.
    """
    token = await _check_token(unit, body.join_token, Role.EXIT, now)
    pool, _ = await pools.refer(unit.session, body.pool, str(token.fleet_id))
    _check_name(token, body)
    exit_id = await _save_exit(unit, pool, body, now)
    enrolled = await _certify(unit, authority, body.csr, Identity(token.fleet_id, Role.EXIT, exit_id), now)
    await _use_token(unit, token, enrolled)
    return enrolled


async def enrol_gateway(
    unit: UnitOfWork, authority: CertificateAuthority, body: ProxyEnrolmentIn, now: datetime
) -> Enrolled:
    """Enrol a gateway. Raises Problem: 401 and 403 for the token, 422 for the CSR."""
    token = await _check_token(unit, body.join_token, Role.GATEWAY, now)
    _check_name(token, body)
    found = await declared.find_proxy_named(unit.session, token.fleet_id, Role.GATEWAY, body.name)
    proxy = found and await declared.lock(unit.session, ProxyRow, found.id)
    locality = _known_locality(body)
    if proxy is None:
        proxy = ProxyRow(fleet_id=token.fleet_id, name=body.name, role=Role.GATEWAY, created_at=now, **locality)
        taken = duplicate("/name", body.name, "another gateway is taking this name right now", "try again")
        with clashes({"uq_proxy_fleet_id_role_name": taken}):
            await declared.save(unit, proxy)
    else:
        await declared.save_changes(unit, proxy, locality)
    enrolled = await _certify(unit, authority, body.csr, Identity(token.fleet_id, Role.GATEWAY, proxy.id), now)
    await _use_token(unit, token, enrolled)
    return enrolled


async def _check_token(unit: UnitOfWork, token: str, role: Role, now: datetime) -> JoinTokenRow:
    row = await enrolment.find_token(unit.session, token, now)
    if row is None:
        message, hint = "the join token is unknown or has expired", "ask an operator for a new token"
        headers = {"WWW-Authenticate": 'Bearer realm="join token"'}
        errors = [FieldError("/join_token", message, hint)]
        raise Problem(401, "bad_join_token", message, errors=errors, headers=headers)
    if row.role != role:
        message = f"the join token is for the role {row.role}, not {role}"
        errors = [FieldError("/join_token", message, f"ask an operator for a token for the role {role}")]
        raise Problem(403, "join_token_of_another_role", message, errors=errors)
    return row


def _check_name(token: JoinTokenRow, body: EnrolmentIn) -> None:
    if token.name not in (None, body.name):
        message = f"the join token is for a proxy of another name, not {body.name}"
        errors = [FieldError("/name", message, "use the name that the token was created for", body.name)]
        raise Problem(403, "join_token_of_another_name", message, errors=errors)


async def _use_token(unit: UnitOfWork, token: JoinTokenRow, enrolled: Enrolled) -> None:
    if not await enrolment.use_token(unit.session, token, public_key_of(enrolled.certificate)):
        message = "the join token was used already, with another key; it works for one proxy only"
        errors = [FieldError("/join_token", message, "ask an operator for a new token")]
        raise Problem(403, "join_token_used", message, errors=errors)


async def _save_exit(unit: UnitOfWork, pool: PoolRow, body: ExitEnrolmentIn, now: datetime) -> UUID:
    fields: dict[str, Any] = body.model_dump(include=_ADDRESS_FIELDS)
    found = await declared.find_exit_named(unit.session, pool.id, body.name)
    row = found and await declared.lock(unit.session, ExitRow, found.id)
    if body.parent is not None:
        fields |= _parent_changes(body.parent, row)
    if row is None:
        fields |= {"name": body.name, "locality": body.locality}
        return (await exits.add(unit, pool, fields, state=ExitState.REGISTERING, reason=ENROLLED, now=now)).id
    moved = any(getattr(row, name) != value for name, value in fields.items())
    if moved and row.state not in TAKEN_OUT:
        # fail closed: no heartbeat has come from the new address yet
        fields |= {"state": ExitState.REGISTERING, "state_reason": MOVED, "state_since": now}
    await exits.update(unit, row, pool, fields | _known_locality(body))
    return row.id


def _parent_changes(parent: ParentIn, row: ExitRow | None) -> dict[str, Any]:
    """Return the changed parent columns. Declared credentials stay when the agent sends none for the same proxy."""
    if row and parent.username is None and (row.parent_address, row.parent_port) == (parent.address, parent.port):
        return {}
    return parent_columns(parent.model_dump(), row)


def _known_locality(body: EnrolmentIn) -> dict[str, Any]:
    """Return the locality to store; nothing when the proxy states none, so that a known one stays."""
    return {} if body.locality is None else {"locality": body.locality}


async def _certify(
    unit: UnitOfWork, authority: CertificateAuthority, csr: str, identity: Identity, now: datetime
) -> Enrolled:
    try:
        # a P-384 signature takes milliseconds, which would block the event loop
        certificate = await asyncio.to_thread(sign_request, authority, csr, identity, now)
    except BadSigningRequest as error:
        raise _bad_csr(error.message, error.hint) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _bad_csr("the CSR's key or signature is of an unsupported type", "generate a P-256 key") from error
    await enrolment.record_certificate(unit, identity.proxy_id, certificate, now)
    return Enrolled(identity, certificate)


def _bad_csr(message: str, hint: str) -> Problem:
    return Problem(422, "bad_csr", message, errors=[FieldError("/csr", message, hint)])
