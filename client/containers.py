"""Exits that run in containers, and commands to their containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Unpack

from api.features.containers.schemas import ContainerCommandsOut, ContainersOut, LogsOut, Verb
from api.http.paths import BASE_PATH
from api.kernel.dry_run import DryRunOut
from client.collection import ItemWriteOptions, split_options
from client.transport import Operation, Transport

_VERBS: Final[tuple[Verb, ...]] = ("start", "stop", "restart")
_OF_POOL: Final = f"{BASE_PATH}/pools/{{pool}}/containers"
_EXIT: Final = f"{BASE_PATH}/exits/{{exit_id}}"
_LIST = Operation("list_containers", "GET", _OF_POOL, None, ContainersOut)
_LOGS = Operation("read_container_logs", "GET", f"{_EXIT}/container/logs", None, LogsOut)
_POOLS: Final[Mapping[str, Operation[ContainerCommandsOut]]] = {
    verb: Operation(
        f"{verb}_containers", "POST", f"{_OF_POOL}/{verb}", None, ContainerCommandsOut, takes_idempotency_key=True
    )
    for verb in _VERBS
}
_EXITS: Final[Mapping[str, Operation[ContainerCommandsOut]]] = {
    verb: Operation(f"{verb}_exit", "POST", f"{_EXIT}/{verb}", None, ContainerCommandsOut, takes_idempotency_key=True)
    for verb in _VERBS
}


class ContainersClient:
    """The containers of pools. The replica that has the container engine executes commands within seconds."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def operations(self) -> Iterator[Operation[Any]]:
        """Yield the operations of the OpenAPI document that this client implements."""
        yield _LIST
        yield _LOGS
        yield from _POOLS.values()
        yield from _EXITS.values()

    async def list(self, pool: object, *, fleet: str | None = None) -> ContainersOut:
        """Read the containers of a pool, as last reported."""
        return (await self._transport.send(_LIST, str(pool), query={"fleet": fleet})).value

    async def logs(self, exit_id: object, *, lines: int = 100, fleet: str | None = None) -> LogsOut:
        """Read the last lines that the container of an exit logged."""
        return (await self._transport.send(_LOGS, str(exit_id), query={"lines": lines, "fleet": fleet})).value

    async def command_pool(self, verb: Verb, pool: object, **options: Unpack[ItemWriteOptions]) -> ContainerCommandsOut:
        """Start, stop or restart the containers of a pool."""
        return await self._send(_POOLS[verb], pool, options)

    async def command_exit(
        self, verb: Verb, exit_id: object, **options: Unpack[ItemWriteOptions]
    ) -> ContainerCommandsOut:
        """Start, stop or restart the container of an exit."""
        return await self._send(_EXITS[verb], exit_id, options)

    async def try_command_pool(self, verb: Verb, pool: object, **options: Unpack[ItemWriteOptions]) -> DryRunOut:
        """Return what `command_pool` would do, without doing it."""
        query, headers = split_options(options)
        return await self._transport.dry_run(_POOLS[verb], str(pool), query=query, headers=headers)

    async def try_command_exit(self, verb: Verb, exit_id: object, **options: Unpack[ItemWriteOptions]) -> DryRunOut:
        """Return what `command_exit` would do, without doing it."""
        query, headers = split_options(options)
        return await self._transport.dry_run(_EXITS[verb], str(exit_id), query=query, headers=headers)

    async def _send(
        self, operation: Operation[ContainerCommandsOut], ref: object, options: ItemWriteOptions
    ) -> ContainerCommandsOut:
        query, headers = split_options(options)
        return (await self._transport.send(operation, str(ref), query=query, headers=headers)).value
