"""Exits that run in containers: start, stop and restart them, and read their logs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from api.features.containers import service
from api.features.containers.schemas import ContainerCommandsOut, ContainersOut, LogsOut, Verb
from api.features.exits.service import EXITS
from api.features.pools.container_states import read_container_states
from api.features.pools.service import POOLS
from api.http.limits import CONTAINER_LOG_LINES_MAX
from api.http.openapi import document_operator_errors
from api.http.parameters import Ref
from api.http.request_body import JsonRoute
from api.kernel.caller import Caller, Permission
from api.kernel.collections.router import OfFleet
from api.kernel.context import Context
from api.kernel.dry_run import DryRunOut
from api.kernel.writes import OperatorWrite, WriteContext, WriteReply, require_write
from model.repositories import containers, declared

router = APIRouter(tags=["containers"], route_class=JsonRoute)
WritingExits = Annotated[OperatorWrite, require_write("exits")]
WritingPools = Annotated[OperatorWrite, require_write("pools")]
Lines = Annotated[int, Query(ge=1, le=CONTAINER_LOG_LINES_MAX, description="The largest number of lines.")]
_RESPONSES = {**document_operator_errors(404, 409, 422), 200: {"model": DryRunOut, "description": "With `dry_run`."}}


@router.post("/exits/{exit_id}/start", status_code=202, response_model=ContainerCommandsOut, responses=_RESPONSES)
async def start_exit(exit_id: Ref, write: WritingExits, of_fleet: OfFleet = None) -> Response:
    """Start the stopped container of an exit."""
    return await _command_exit(write, exit_id, of_fleet, "start")


@router.post("/exits/{exit_id}/stop", status_code=202, response_model=ContainerCommandsOut, responses=_RESPONSES)
async def stop_exit(exit_id: Ref, write: WritingExits, of_fleet: OfFleet = None) -> Response:
    """Stop the container of an exit until it is started. Nothing replaces it meanwhile."""
    return await _command_exit(write, exit_id, of_fleet, "stop")


@router.post("/exits/{exit_id}/restart", status_code=202, response_model=ContainerCommandsOut, responses=_RESPONSES)
async def restart_exit(exit_id: Ref, write: WritingExits, of_fleet: OfFleet = None) -> Response:
    """Restart the container of an exit."""
    return await _command_exit(write, exit_id, of_fleet, "restart")


@router.post(
    "/pools/{pool}/containers/start", status_code=202, response_model=ContainerCommandsOut, responses=_RESPONSES
)
async def start_containers(pool: Ref, write: WritingPools, of_fleet: OfFleet = None) -> Response:
    """Start all stopped containers of a pool."""
    return await _command_pool(write, pool, of_fleet, "start")


@router.post(
    "/pools/{pool}/containers/stop", status_code=202, response_model=ContainerCommandsOut, responses=_RESPONSES
)
async def stop_containers(pool: Ref, write: WritingPools, of_fleet: OfFleet = None) -> Response:
    """Stop all containers of a pool until they are started."""
    return await _command_pool(write, pool, of_fleet, "stop")


@router.post(
    "/pools/{pool}/containers/restart", status_code=202, response_model=ContainerCommandsOut, responses=_RESPONSES
)
async def restart_containers(pool: Ref, write: WritingPools, of_fleet: OfFleet = None) -> Response:
    """Restart all containers of a pool one after the other. Each waits until the previous one serves again."""
    return await _command_pool(write, pool, of_fleet, "restart")


@router.get("/pools/{pool}/containers", responses=document_operator_errors(404, 409, 422))
async def list_containers(
    pool: Ref, context: Context, caller: Annotated[Caller, Depends(Permission("pools"))], of_fleet: OfFleet = None
) -> ContainersOut:
    """Show the containers of a pool, as the keeper last saw them."""
    async with context.database.snapshot() as session:
        row = await POOLS.find(session, caller, pool, of_fleet)
        state = (await read_container_states(context.begin_read(session), [row])).get(row.id)
        return ContainersOut(state=state, containers=await service.show_containers(session, row))


@router.get("/exits/{exit_id}/container/logs", responses=document_operator_errors(404, 409, 422))
async def read_container_logs(
    exit_id: Ref,
    context: Context,
    caller: Annotated[Caller, Depends(Permission("exits"))],
    lines: Lines = 100,
    of_fleet: OfFleet = None,
) -> LogsOut:
    """Read the last lines of the log of an exit's container."""
    async with context.database.session() as session:
        row = await EXITS.find(session, caller, exit_id, of_fleet)
        container = await service.find_container(session, row)
    return LogsOut(container=container.name, text=await service.read_logs(context, container.name, lines))


async def _command_exit(write: OperatorWrite, ref: str, fleet: str | None, verb: Verb) -> Response:
    async def do(work: WriteContext) -> WriteReply:
        row = await EXITS.lock(work, ref, fleet)
        container = await service.find_container(work.session, row)
        _, owner = (await declared.pools_by_id(work.session, [row.pool_id]))[row.pool_id]
        return await service.request_commands(work, [container], verb, owner.id, in_turn=False)

    return await write.run(do)


async def _command_pool(write: OperatorWrite, ref: str, fleet: str | None, verb: Verb) -> Response:
    async def do(work: WriteContext) -> WriteReply:
        row = await POOLS.lock(work, ref, fleet)
        rows = (await containers.of_pools(work.session, [row.id])).get(row.id, [])
        return await service.request_commands(work, rows, verb, row.fleet_id, in_turn=verb == "restart")

    return await write.run(do)
