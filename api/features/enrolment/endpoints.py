"""POST /exits/register and POST /proxies/register, and the renewal of certificates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request

from api.features.enrolment import renewal, service
from api.features.enrolment.issuer import Issuer
from api.features.enrolment.join_token import RegistrationRequest, TokenRefused
from api.features.enrolment.schemas import (
    EnrolmentIn,
    EnrolmentOut,
    ExitEnrolmentIn,
    HeartbeatSettingsOut,
    ProxyEnrolmentIn,
    RenewalIn,
    RenewalOut,
    XdsOut,
)
from api.features.enrolment.service import Enrolled
from api.http.connections import note_authenticated
from api.http.openapi import document_errors
from api.http.parameters import Id
from api.http.problems import DUPLICATE, Problem
from api.http.request_body import JsonRoute
from api.kernel.context import ApiContext, Context
from api.kernel.writes import RequestWrite, Write
from model.unit_of_work import UnitOfWork
from model.unit_of_work import write as begin

router = APIRouter(tags=["enrolment"], route_class=JsonRoute)
_PROBLEMS = document_errors(400, 401, 403, 409, 413, 415, 422)
_RENEWAL_PROBLEMS = document_errors(400, 401, 404, 410, 413, 415, 422)
_SIGNED: dict[str, Any] = {"security": [{"signature": []}]}


@router.post("/exits/register", status_code=201, responses=_PROBLEMS)
async def register_exit(body: ExitEnrolmentIn, request: Request, context: Context, write: RequestWrite) -> EnrolmentOut:
    """Enrol an exit: create it unless it exists, and sign a certificate for its key.

    A name that another key has needs a token that takes it over (409 otherwise). An agent that repeats its registration signs
    the request with its key, as a heartbeat, and uses up nothing.
    """
    sent = await _read_request(request)
    enrolled = await _enrol(
        write, body, sent, lambda unit: service.enrol_exit(unit, _issuer(context), body, sent, context.clock())
    )
    write.locate(f"exits/{enrolled.identity.proxy_id}")
    return _show(context, enrolled)


@router.post("/proxies/register", status_code=201, responses=_PROBLEMS)
async def register_proxy(
    body: ProxyEnrolmentIn, request: Request, context: Context, write: RequestWrite
) -> EnrolmentOut:
    """Enrol a gateway in the fleet of its join token, and sign a certificate for its key. Names are as for exits."""
    sent = await _read_request(request)
    enrolled = await _enrol(
        write, body, sent, lambda unit: service.enrol_gateway(unit, _issuer(context), body, sent, context.clock())
    )
    write.locate(f"proxies/{enrolled.identity.proxy_id}")
    return _show(context, enrolled)


@router.post("/exits/{exit_id}/certificate", status_code=201, responses=_RENEWAL_PROBLEMS, openapi_extra=_SIGNED)
async def renew_exit_certificate(exit_id: Id, body: RenewalIn, request: Request, context: Context) -> RenewalOut:
    """Renew the certificate of an exit, for hours. The former one is valid until it expires.

    The Bearer token is signed as for a heartbeat, with the key of any certificate of the exit, also an expired one. Its `iat` is
    later than that of the last renewal (401 `stale_signature` otherwise).
    """
    return await _renew("exit", exit_id, body, request, context)


@router.post("/proxies/{proxy_id}/certificate", status_code=201, responses=_RENEWAL_PROBLEMS, openapi_extra=_SIGNED)
async def renew_proxy_certificate(proxy_id: Id, body: RenewalIn, request: Request, context: Context) -> RenewalOut:
    """Renew the certificate of a proxy, as that of an exit."""
    return await _renew("proxy", proxy_id, body, request, context)


async def _renew(kind: str, ref: str, body: RenewalIn, request: Request, context: ApiContext) -> RenewalOut:
    sent, now = await _read_request(request), context.clock()
    async with context.database.session() as session:
        proxy_id = await renewal.authenticate(session, kind, ref, sent, now)
    note_authenticated(request.scope)
    issuer = _issuer(context)
    async with begin(context.database) as unit:
        certificate = await renewal.renew(unit, issuer, body.csr, proxy_id, sent, now)
    return RenewalOut(
        certificate=certificate, authority=issuer.authority.certificate_pem, authority_version=issuer.authority.version
    )


def _issuer(context: ApiContext) -> Issuer:
    return Issuer(context.authority.value, context.leaf_lifetime)


async def _read_request(request: Request) -> RegistrationRequest:
    peer = request.client.host if request.client else ""
    authorization = request.headers.get("authorization")
    return RegistrationRequest(request.scope["path"], await request.body(), authorization, peer)


async def _enrol(
    write: Write, body: EnrolmentIn, sent: RegistrationRequest, enrol: Callable[[UnitOfWork], Awaitable[Enrolled]]
) -> Enrolled:
    try:
        enrolled = await _enrol_or_retry(write, enrol)
    except TokenRefused as refusal:
        await service.record_refusal(write, refusal, body.name, sent.peer)
        raise
    if enrolled.took_over:  # at this replica at once; the others follow the change log
        write.context.certificate_cache.forget(enrolled.identity.proxy_id)
        write.context.heartbeat_sink.forget(enrolled.identity.proxy_id)
    return enrolled


async def _enrol_or_retry(write: Write, enrol: Callable[[UnitOfWork], Awaitable[Enrolled]]) -> Enrolled:
    try:
        async with write.unit() as unit:
            return await enrol(unit)
    except Problem as problem:
        if problem.code != DUPLICATE:
            raise
    # a concurrent registration may have taken the name: the second attempt finds its row
    async with write.unit() as unit:
        return await enrol(unit)


def _show(context: ApiContext, enrolled: Enrolled) -> EnrolmentOut:
    return EnrolmentOut(
        id=enrolled.identity.proxy_id,
        fleet_id=enrolled.identity.fleet_id,
        certificate=enrolled.certificate,
        authority=enrolled.authority.certificate_pem,
        authority_version=enrolled.authority.version,
        xds=XdsOut(address=context.xds_address, port=context.xds_port),
        heartbeat=HeartbeatSettingsOut(interval_s=context.heartbeat_interval_s),
    )
