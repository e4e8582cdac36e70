"""Exits that run in containers: what there is, and what is asked of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Unpack

from api.features.containers.schemas import ContainerCommandsOut, ContainersOut, LogsOut, Verb
from api.http.paths import BASE_PATH
from api.kernel.dry_run import DryRunOut
from client.collection import GivenOne, sort_out
from client.transport import Operation, Transport

_VERBS: Final[tuple[Verb, ...]] = ("start", "stop", "restart")
_OF_POOL: Final = f"{BASE_PATH}/pools/{{pool}}/containers"
_EXIT: Final = f"{BASE_PATH}/exits/{{exit_id}}"
_LIST = Operation("list_containers", "GET", _OF_POOL, None, ContainersOut)
_LOGS = Operation("read_container_logs", "GET", f"{_EXIT}/container/logs", None, LogsOut)
_POOLS: Final[Mapping[str, Operation[ContainerCommandsOut]]] = {
    verb: Operation(f"{verb}_containers", "POST", f"{_OF_POOL}/{verb}", None, ContainerCommandsOut, keyed=True)
    for verb in _VERBS
}
_EXITS: Final[Mapping[str, Operation[ContainerCommandsOut]]] = {
    verb: Operation(f"{verb}_exit", "POST", f"{_EXIT}/{verb}", None, ContainerCommandsOut, keyed=True)
    for verb in _VERBS
}


class ContainersClient:
    """The containers of pools. What is asked of them is done within seconds by whoever has the engine."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def operations(self) -> Iterator[Operation[Any]]:
        """Those of the OpenAPI document."""
        yield _LIST
        yield _LOGS
        yield from _POOLS.values()
        yield from _EXITS.values()

    async def of_pool(self, pool: object, *, fleet: str | None = None) -> ContainersOut:
        """The containers of a pool, as they were seen last."""
        return (await self._transport.send(_LIST, str(pool), query={"fleet": fleet})).value

    async def logs(self, exit_id: object, *, lines: int = 100, fleet: str | None = None) -> LogsOut:
        """The last lines that the container of an exit wrote."""
        return (await self._transport.send(_LOGS, str(exit_id), query={"lines": lines, "fleet": fleet})).value

    async def ask_pool(self, verb: Verb, pool: object, **given: Unpack[GivenOne]) -> ContainerCommandsOut:
        """Start, stop or restart the containers of a pool."""
        return await self._ask(_POOLS[verb], pool, given)

    async def ask_exit(self, verb: Verb, exit_id: object, **given: Unpack[GivenOne]) -> ContainerCommandsOut:
        """Start, stop or restart the container of an exit."""
        return await self._ask(_EXITS[verb], exit_id, given)

    async def try_ask_pool(self, verb: Verb, pool: object, **given: Unpack[GivenOne]) -> DryRunOut:
        """What `ask_pool` would do."""
        query, headers = sort_out(given)
        return await self._transport.dry_run(_POOLS[verb], str(pool), query=query, headers=headers)

    async def try_ask_exit(self, verb: Verb, exit_id: object, **given: Unpack[GivenOne]) -> DryRunOut:
        """What `ask_exit` would do."""
        query, headers = sort_out(given)
        return await self._transport.dry_run(_EXITS[verb], str(exit_id), query=query, headers=headers)

    async def _ask(
        self, operation: Operation[ContainerCommandsOut], ref: object, given: GivenOne
    ) -> ContainerCommandsOut:
        query, headers = sort_out(given)
        return (await self._transport.send(operation, str(ref), query=query, headers=headers)).value
