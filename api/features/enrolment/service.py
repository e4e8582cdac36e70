"""Enrolment: a join token and a signing request become a certificate.

See docs/architecture.md#identity-from-certificate.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from api.features.enrolment.issuer import Issuer
from api.features.enrolment.join_token import (
    Claim,
    RegistrationRequest,
    TokenRefused,
    check_token,
    claim_name,
    id_of,
    use_token,
)
from api.features.enrolment.schemas import EnrolmentIn, ExitEnrolmentIn, ProxyEnrolmentIn
from api.features.exits import service as exits
from api.features.exits.parent_proxy import parent_columns
from api.features.exits.schemas import ParentIn
from api.features.pools import service as pools
from api.http.field_errors import FieldError
from api.http.problems import Problem, clashes, duplicate
from api.kernel.writes import Write
from model.audit_log import AuditEntry
from model.authority import CertificateAuthority
from model.entities import Role
from model.exit_states import TAKEN_OUT, ExitState
from model.identity import Identity
from model.repositories import declared, enrolment, join_tokens
from model.tables import ExitRow, JoinTokenRow, PoolRow, ProxyRow
from model.unit_of_work import UnitOfWork
from model.unit_of_work import write as begin

log = structlog.get_logger()

ENROLLED = "enrolled, no heartbeat yet"
TAKEN_OVER = "taken over by a registration with another key, no heartbeat since"
MOVED = "enrolled again with another address or parent, no heartbeat since"
_ADDRESS_FIELDS = {"address", "port", "bind_address", "egress_address"}


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A proxy and its new certificate (PEM), with the authority that signed it. `took_over` tells that the certificates of another key ended."""

    identity: Identity
    certificate: str
    authority: CertificateAuthority
    took_over: bool


@dataclass(frozen=True, slots=True)
class Registration:
    """A registration that may be carried out. `proxy` is the proxy that had the name before; None: nobody."""

    token: JoinTokenRow
    claim: Claim
    proxy: ProxyRow | None
    request: RegistrationRequest
    identity: Identity


async def enrol_exit(
    unit: UnitOfWork,
    issuer: Issuer,
    body: ExitEnrolmentIn,
    request: RegistrationRequest,
    now: datetime,
) -> Enrolled:
    """Enrol an exit.

    Raises Problem: 401 and 403 for the token, 422 for the CSR, 409 for a token that is used up, a name that another key or
    another pool has.
    """
    token = await check_token(unit.session, body.join_token, Role.EXIT, body.name, now)
    pool = await _pool_of(unit.session, token, body.pool)
    found = await declared.find_exit_named(unit.session, pool.id, body.name)
    row = found and await declared.lock(unit.session, ExitRow, found.id)
    proxy = None if row is None else await declared.find_proxy(unit.session, row.id)
    claim = await claim_name(unit.session, token, proxy, request, now)
    exit_id = await _save_exit(unit, pool, row, body, claim, now)
    identity = Identity(token.fleet_id, Role.EXIT, exit_id)
    return await _finish(unit, issuer, body, Registration(token, claim, proxy, request, identity), now)


async def enrol_gateway(
    unit: UnitOfWork,
    issuer: Issuer,
    body: ProxyEnrolmentIn,
    request: RegistrationRequest,
    now: datetime,
) -> Enrolled:
    """Enrol a gateway.

    Raises Problem: 401 and 403 for the token, 422 for the CSR, 409 for a token that is used up or a name that another key has.
    """
    token = await check_token(unit.session, body.join_token, Role.GATEWAY, body.name, now)
    found = await declared.find_proxy_named(unit.session, token.fleet_id, Role.GATEWAY, body.name)
    proxy = found and await declared.lock(unit.session, ProxyRow, found.id)
    claim = await claim_name(unit.session, token, proxy, request, now)
    locality = _known_locality(body)
    if proxy is None:
        row = ProxyRow(fleet_id=token.fleet_id, name=body.name, role=Role.GATEWAY, created_at=now, **locality)
        taken = duplicate("/name", body.name, "another gateway is taking this name right now", "try again")
        with clashes({"uq_proxy_fleet_id_role_name": taken}):
            await declared.save(unit, row)
    else:
        row = proxy
        await declared.save_changes(unit, row, locality)
    identity = Identity(token.fleet_id, Role.GATEWAY, row.id)
    return await _finish(unit, issuer, body, Registration(token, claim, proxy, request, identity), now)


async def record_refusal(write: Write, refusal: TokenRefused, name: str, peer: str) -> None:
    """Log a refused registration, and audit it unless the same token was refused a moment ago."""
    log.warning("enrolment.refused", code=refusal.code, token=str(refusal.token_id), name=name, peer=peer)
    detail = {"code": refusal.code, "proxy": name, "address": peer}
    async with begin(write.context.database, actor=write.actor) as unit:
        if await join_tokens.note_refusal(unit.session, refusal.token_id, write.context.clock()):
            unit.audit(AuditEntry("refused", "join-token", str(refusal.token_id), refusal.fleet_id, detail))


async def _finish(
    unit: UnitOfWork, issuer: Issuer, body: EnrolmentIn, registration: Registration, now: datetime
) -> Enrolled:
    """End the former certificates of a name that is taken over, sign the new one, and count the use of the token."""
    token, proxy, identity = registration.token, registration.proxy, registration.identity
    if registration.claim is Claim.TAKEOVER:
        assert proxy is not None, "only a name in use is taken over"
        await enrolment.replace_certificates(unit, proxy, now)
    certificate = await issuer.sign(body.csr, identity, now, renews=body.renews)
    await enrolment.record_certificate(unit, identity.proxy_id, certificate, issuer.authority, now)
    if registration.claim is not Claim.OWN:  # the repetition of a registration whose reply was lost costs no use
        await use_token(unit.session, token, body.name, now)
    action = "takeover" if registration.claim is Claim.TAKEOVER else "used"
    detail = {"proxy": body.name, "proxy_id": str(identity.proxy_id), "address": registration.request.peer}
    unit.audit(AuditEntry(action, "join-token", str(id_of(token)), token.fleet_id, detail))
    return Enrolled(identity, certificate, issuer.authority, took_over=registration.claim is Claim.TAKEOVER)


async def _pool_of(session: AsyncSession, token: JoinTokenRow, ref: str) -> PoolRow:
    """Find a pool of the token's fleet. Raises Problem (403), also for one that does not exist: other fleets stay unknown."""
    try:
        pool, _ = await pools.refer(session, ref, str(token.fleet_id))
    except Problem as problem:
        hint = "name a pool of the token's fleet, or ask an operator for a token of the pool's fleet"
        error = FieldError("/pool", "the fleet of the join token has no such pool", hint, ref)
        raise TokenRefused(token, 403, "join_token_of_another_fleet", error) from problem
    return pool


async def _save_exit(
    unit: UnitOfWork, pool: PoolRow, row: ExitRow | None, body: ExitEnrolmentIn, claim: Claim, now: datetime
) -> UUID:
    fields: dict[str, Any] = body.model_dump(include=_ADDRESS_FIELDS)
    if body.parent is not None:
        fields |= _parent_changes(body.parent, row)
    if row is None:
        fields |= {"name": body.name, "locality": body.locality}
        return (await exits.add(unit, pool, fields, state=ExitState.REGISTERING, reason=ENROLLED, now=now)).id
    moved = any(getattr(row, name) != value for name, value in fields.items())
    if (moved or claim is Claim.TAKEOVER) and row.state not in TAKEN_OUT:
        # fail closed: no heartbeat has come from the new address, or the new agent, yet
        reason = TAKEN_OVER if claim is Claim.TAKEOVER else MOVED
        fields |= {"state": ExitState.REGISTERING, "state_reason": reason, "state_since": now}
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
