"""Exits, how they are operated, and their history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Unpack

from api.features.exits.schemas import ExitIn, ExitOut, ExitPatch, HistoryOut
from api.features.orders.schemas import OrderKind, OrderOut
from api.http.paths import BASE_PATH
from api.kernel.dry_run import DryRunOut
from client.collection import CollectionClient, GivenOne, sort_out
from client.transport import Operation, Value

Switch = Literal["drain", "enable", "disable"]
_EXIT = f"{BASE_PATH}/exits/{{exit_id}}"
_ORDER_NAMES: dict[OrderKind, str] = {
    "rotate": "rotate_exit",
    "speed-test": "measure_exit_speed",
    "logs": "read_exit_logs",
}
_SWITCHES: dict[str, Operation[ExitOut]] = {
    word: Operation(f"{word}_exit", "POST", f"{_EXIT}/{word}", None, ExitOut, keyed=True)
    for word in ("drain", "enable", "disable")
}
_ORDERS: dict[OrderKind, Operation[OrderOut]] = {
    kind: Operation(name, "POST", f"{_EXIT}/{kind}", None, OrderOut, keyed=True) for kind, name in _ORDER_NAMES.items()
}
_ORDER = Operation("read_exit_order", "GET", f"{_EXIT}/orders/{{order_id}}", None, OrderOut)
_BEST = Operation("find_best_exit", "GET", f"{BASE_PATH}/exits/best", None, ExitOut)
_HISTORY = Operation("read_exit_history", "GET", f"{_EXIT}/history", None, HistoryOut)


class ExitsClient(CollectionClient[ExitIn, ExitPatch, ExitOut]):
    """Exits, how they are operated, and what they went through."""

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield from _SWITCHES.values()
        yield from (_HISTORY, _BEST)
        yield from _ORDERS.values()
        yield _ORDER

    async def switch(self, word: Switch, ref: object, **given: Unpack[GivenOne]) -> ExitOut:
        """Drain, enable or disable one."""
        query, headers = sort_out(given)
        return (await self._transport.send(_SWITCHES[word], str(ref), query=query, headers=headers)).value

    async def try_switch(self, word: Switch, ref: object, **given: Unpack[GivenOne]) -> DryRunOut:
        """What `switch` would do."""
        query, headers = sort_out(given)
        return await self._transport.dry_run(_SWITCHES[word], str(ref), query=query, headers=headers)

    async def order(
        self, kind: OrderKind, ref: object, *, lines: int | None = None, **given: Unpack[GivenOne]
    ) -> OrderOut:
        """Ask the agent of one to do something; `lines` of `logs`."""
        query, headers = sort_out(given)
        query = query if lines is None else {**query, "lines": lines}
        return (await self._transport.send(_ORDERS[kind], str(ref), query=query, headers=headers)).value

    async def try_order(self, kind: OrderKind, ref: object, **given: Unpack[GivenOne]) -> DryRunOut:
        """What `order` would do."""
        query, headers = sort_out(given)
        return await self._transport.dry_run(_ORDERS[kind], str(ref), query=query, headers=headers)

    async def outcome(self, ref: object, order_id: object, *, wait: float = 0, fleet: str | None = None) -> OrderOut:
        """What came of an order, as soon as it is settled or after `wait` seconds."""
        query: dict[str, Value] = {"wait": wait, "fleet": fleet}
        return (await self._transport.send(_ORDER, str(ref), str(order_id), query=query)).value

    async def best(self, country: str, *, fleet: str | None = None) -> ExitOut:
        """The one of a country that is the best now."""
        return (await self._transport.send(_BEST, query={"country": country, "fleet": fleet})).value

    async def history(self, ref: object, *, hours: int = 24, fleet: str | None = None) -> HistoryOut:
        """What one went through."""
        return (await self._transport.send(_HISTORY, str(ref), query={"hours": hours, "fleet": fleet})).value
