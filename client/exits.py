"""Exits: their collection, orders to their agents, and their history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Unpack

from api.features.exits.schemas import ExitIn, ExitOut, ExitPatch, HistoryOut
from api.features.orders.schemas import OrderKind, OrderOut
from api.http.paths import BASE_PATH
from api.kernel.dry_run import DryRunOut
from client.collection import CollectionClient, ItemWriteOptions, split_options
from client.transport import Operation, QueryValue

Switch = Literal["drain", "enable", "disable"]
_EXIT = f"{BASE_PATH}/exits/{{exit_id}}"
_ORDER_NAMES: dict[OrderKind, str] = {
    "rotate": "rotate_exit",
    "speed-test": "measure_exit_speed",
    "logs": "read_exit_logs",
}
_SWITCHES: dict[str, Operation[ExitOut]] = {
    word: Operation(f"{word}_exit", "POST", f"{_EXIT}/{word}", None, ExitOut, takes_idempotency_key=True)
    for word in ("drain", "enable", "disable")
}
_ORDERS: dict[OrderKind, Operation[OrderOut]] = {
    kind: Operation(name, "POST", f"{_EXIT}/{kind}", None, OrderOut, takes_idempotency_key=True)
    for kind, name in _ORDER_NAMES.items()
}
_ORDER = Operation("read_exit_order", "GET", f"{_EXIT}/orders/{{order_id}}", None, OrderOut)
_BEST = Operation("find_best_exit", "GET", f"{BASE_PATH}/exits/best", None, ExitOut)
_HISTORY = Operation("read_exit_history", "GET", f"{_EXIT}/history", None, HistoryOut)


class ExitsClient(CollectionClient[ExitIn, ExitPatch, ExitOut]):
    """The collection of exits, with the operations that only exits have."""

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield from _SWITCHES.values()
        yield from (_HISTORY, _BEST)
        yield from _ORDERS.values()
        yield _ORDER

    async def switch(self, word: Switch, ref: object, **options: Unpack[ItemWriteOptions]) -> ExitOut:
        """Drain, enable or disable one exit."""
        query, headers = split_options(options)
        return (await self._transport.send(_SWITCHES[word], str(ref), query=query, headers=headers)).value

    async def try_switch(self, word: Switch, ref: object, **options: Unpack[ItemWriteOptions]) -> DryRunOut:
        """Return what `switch` would do, without doing it."""
        query, headers = split_options(options)
        return await self._transport.dry_run(_SWITCHES[word], str(ref), query=query, headers=headers)

    async def order(
        self, kind: OrderKind, ref: object, *, lines: int | None = None, **options: Unpack[ItemWriteOptions]
    ) -> OrderOut:
        """Send an order to the agent of one exit; `lines` is for `logs`. Poll its outcome with `read_order`."""
        query, headers = split_options(options)
        query = query if lines is None else {**query, "lines": lines}
        return (await self._transport.send(_ORDERS[kind], str(ref), query=query, headers=headers)).value

    async def try_order(self, kind: OrderKind, ref: object, **options: Unpack[ItemWriteOptions]) -> DryRunOut:
        """Return what `order` would do, without doing it."""
        query, headers = split_options(options)
        return await self._transport.dry_run(_ORDERS[kind], str(ref), query=query, headers=headers)

    async def read_order(self, ref: object, order_id: object, *, wait: float = 0, fleet: str | None = None) -> OrderOut:
        """Read an order as soon as it is done or has failed, or after `wait` seconds."""
        query: dict[str, QueryValue] = {"wait": wait, "fleet": fleet}
        return (await self._transport.send(_ORDER, str(ref), str(order_id), query=query)).value

    async def best(self, country: str, *, fleet: str | None = None) -> ExitOut:
        """Read the best exit of a country at the moment."""
        return (await self._transport.send(_BEST, query={"country": country, "fleet": fleet})).value

    async def history(self, ref: object, *, hours: int = 24, fleet: str | None = None) -> HistoryOut:
        """Read the states that one exit went through."""
        return (await self._transport.send(_HISTORY, str(ref), query={"hours": hours, "fleet": fleet})).value
