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

ENROLLED = "enrolled, not heard of yet"
MOVED = "enrolled again with another address or parent, not heard of since"
_ADDRESS_FIELDS = {"address", "port", "bind_address", "egress_address"}


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A proxy and its new certificate (PEM)."""

    identity: Identity
    certificate: str


async def enrol_exit(
    unit: UnitOfWork, authority: CertificateAuthority, wish: ExitEnrolmentIn, now: datetime
) -> Enrolled:
    """Raises Problem: 401 and 403 for the token, 422 for the pool or the CSR, 409 when another pool has the name."""
    token = await _check_token(unit, wish.join_token, Role.EXIT, now)
    pool, _ = await pools.refer(unit.session, wish.pool, str(token.fleet_id))
    _check_name(token, wish)
    exit_id = await _place_exit(unit, pool, wish, now)
    enrolled = await _certify(unit, authority, wish.csr, Identity(token.fleet_id, Role.EXIT, exit_id), now)
    await _use(unit, token, enrolled)
    return enrolled


async def enrol_gateway(
    unit: UnitOfWork, authority: CertificateAuthority, wish: ProxyEnrolmentIn, now: datetime
) -> Enrolled:
    """Raises Problem: 401 and 403 for the token, 422 for the CSR."""
    token = await _check_token(unit, wish.join_token, Role.GATEWAY, now)
    _check_name(token, wish)
    found = await declared.find_proxy_named(unit.session, token.fleet_id, Role.GATEWAY, wish.name)
    proxy = found and await declared.lock(unit.session, ProxyRow, found.id)
    place = _place(wish)
    if proxy is None:
        proxy = ProxyRow(fleet_id=token.fleet_id, name=wish.name, role=Role.GATEWAY, created_at=now, **place)
        taken = duplicate("/name", wish.name, "another gateway takes this name right now", "try again")
        with clashes({"uq_proxy_fleet_id_role_name": taken}):
            await declared.save(unit, proxy)
    else:
        await declared.save_changes(unit, proxy, place)
    enrolled = await _certify(unit, authority, wish.csr, Identity(token.fleet_id, Role.GATEWAY, proxy.id), now)
    await _use(unit, token, enrolled)
    return enrolled


async def _check_token(unit: UnitOfWork, token: str, role: Role, now: datetime) -> JoinTokenRow:
    row = await enrolment.find_token(unit.session, token, now)
    if row is None:
        message, hint = "the join token is unknown or has expired", "ask an operator for a new one"
        headers = {"WWW-Authenticate": 'Bearer realm="join token"'}
        errors = [FieldError("/join_token", message, hint)]
        raise Problem(401, "bad_join_token", message, errors=errors, headers=headers)
    if row.role != role:
        message = f"the join token is for the role {row.role}"
        errors = [FieldError("/join_token", message, f"ask an operator for one for the role {role}")]
        raise Problem(403, "join_token_of_another_role", message, errors=errors)
    return row


def _check_name(token: JoinTokenRow, wish: EnrolmentIn) -> None:
    if token.name not in (None, wish.name):
        message = "the join token is for a proxy of another name"
        errors = [FieldError("/name", message, "use the name that the token was made for", wish.name)]
        raise Problem(403, "join_token_of_another_name", message, errors=errors)


async def _use(unit: UnitOfWork, token: JoinTokenRow, enrolled: Enrolled) -> None:
    if not await enrolment.use_token(unit.session, token, public_key_of(enrolled.certificate)):
        message = "another key was enrolled with this join token, which is for one alone"
        errors = [FieldError("/join_token", message, "ask an operator for a new one")]
        raise Problem(403, "join_token_used", message, errors=errors)


async def _place_exit(unit: UnitOfWork, pool: PoolRow, wish: ExitEnrolmentIn, now: datetime) -> UUID:
    fields: dict[str, Any] = wish.model_dump(include=_ADDRESS_FIELDS)
    found = await declared.find_exit_named(unit.session, pool.id, wish.name)
    row = found and await declared.lock(unit.session, ExitRow, found.id)
    if wish.parent is not None:
        fields |= _parent(wish.parent, row)
    if row is None:
        fields |= {"name": wish.name, "locality": wish.locality}
        return (await exits.add(unit, pool, fields, state=ExitState.REGISTERING, reason=ENROLLED, now=now)).id
    moved = any(getattr(row, name) != value for name, value in fields.items())
    if moved and row.state not in TAKEN_OUT:
        # fail closed: nothing was heard yet of what is at the new address
        fields |= {"state": ExitState.REGISTERING, "state_reason": MOVED, "state_since": now}
    await exits.update(unit, row, pool, fields | _place(wish))
    return row.id


def _parent(parent: ParentIn, row: ExitRow | None) -> dict[str, Any]:
    """An agent that says nothing of credentials leaves those that operators declared, where the proxy stays the same."""
    if row and parent.username is None and (row.parent_address, row.parent_port) == (parent.address, parent.port):
        return {}
    return parent_columns(parent.model_dump(), row)


def _place(wish: EnrolmentIn) -> dict[str, Any]:
    """Where the proxy says that it stands; one that does not say stays where it is known to be."""
    return {} if wish.locality is None else {"locality": wish.locality}


async def _certify(
    unit: UnitOfWork, authority: CertificateAuthority, csr: str, identity: Identity, now: datetime
) -> Enrolled:
    try:
        # a signature on P-384 takes milliseconds, which others should not wait for
        certificate = await asyncio.to_thread(sign_request, authority, csr, identity, now)
    except BadSigningRequest as error:
        raise _bad_csr(error.message, error.hint) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _bad_csr("the CSR's key or signature is of an unsupported kind", "make the key on P-256") from error
    await enrolment.record_certificate(unit, identity.proxy_id, certificate, now)
    return Enrolled(identity, certificate)


def _bad_csr(message: str, hint: str) -> Problem:
    return Problem(422, "bad_csr", message, errors=[FieldError("/csr", message, hint)])
