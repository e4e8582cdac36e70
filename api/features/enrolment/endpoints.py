"""POST /exits/register and POST /proxies/register."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter

from api.features.enrolment import service
from api.features.enrolment.schemas import EnrolmentOut, ExitEnrolmentIn, HeartbeatSettingsOut, ProxyEnrolmentIn, XdsOut
from api.features.enrolment.service import Enrolled
from api.http.openapi import document_errors
from api.http.problems import DUPLICATE, Problem
from api.http.request_body import JsonRoute
from api.kernel.context import ApiContext, Context
from api.kernel.writes import RequestWrite, Write
from model.unit_of_work import UnitOfWork

router = APIRouter(tags=["enrolment"], route_class=JsonRoute)
_PROBLEMS = document_errors(400, 401, 403, 409, 413, 415, 422)


@router.post("/exits/register", status_code=201, responses=_PROBLEMS)
async def register_exit(body: ExitEnrolmentIn, context: Context, write: RequestWrite) -> EnrolmentOut:
    """Enrol an exit: create it unless it exists, and sign a certificate for its key."""
    enrolled = await _enrol(write, lambda unit: service.enrol_exit(unit, context.authority, body, context.clock()))
    write.locate(f"exits/{enrolled.identity.proxy_id}")
    return _show(context, enrolled)


@router.post("/proxies/register", status_code=201, responses=_PROBLEMS)
async def register_proxy(body: ProxyEnrolmentIn, context: Context, write: RequestWrite) -> EnrolmentOut:
    """Enrol a gateway in the fleet of its join token, and sign a certificate for its key."""
    enrolled = await _enrol(write, lambda unit: service.enrol_gateway(unit, context.authority, body, context.clock()))
    write.locate(f"proxies/{enrolled.identity.proxy_id}")
    return _show(context, enrolled)


async def _enrol(write: Write, enrol: Callable[[UnitOfWork], Awaitable[Enrolled]]) -> Enrolled:
    try:
        async with write.unit() as unit:
            return await enrol(unit)
    except Problem as problem:
        if problem.code != DUPLICATE:
            raise
    # a concurrent attempt of the same proxy may have created it: the second attempt finds that row
    async with write.unit() as unit:
        return await enrol(unit)


def _show(context: ApiContext, enrolled: Enrolled) -> EnrolmentOut:
    return EnrolmentOut(
        id=enrolled.identity.proxy_id,
        fleet_id=enrolled.identity.fleet_id,
        certificate=enrolled.certificate,
        authority=context.authority.certificate_pem,
        xds=XdsOut(address=context.xds_address, port=context.xds_port),
        heartbeat=HeartbeatSettingsOut(interval_s=context.heartbeat_interval_s),
    )
