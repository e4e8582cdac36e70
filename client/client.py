"""The API as a typed Python client: `async with Client(url, authorization) as api: await api.pools.create(PoolIn(…))`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Literal, Self, Unpack

from api.api_keys.schemas import ApiKeyIn, ApiKeyOut, ApiKeyPatch
from api.audit_events.schemas import AuditEventOut
from api.certificates.schemas import CertificateIn, CertificateOut, CertificatePatch
from api.dry_run import DryRunOut
from api.exits.schemas import ExitIn, ExitOut, ExitPatch, HistoryOut
from api.explain.schemas import ExplainOut
from api.fleets.schemas import FleetIn, FleetOut, FleetPatch
from api.health.schemas import HealthOut
from api.listeners.schemas import ListenerIn, ListenerOut, ListenerPatch
from api.operators.schemas import OperatorIn, OperatorOut, OperatorPatch
from api.orders.schemas import OrderKind, OrderOut
from api.paths import BASE_PATH
from api.plans.schemas import PlanIn, PlanOut, PlanPatch
from api.pools.schemas import PoolIn, PoolOut, PoolPatch
from api.proxies.schemas import ConfigOut, ProxyIn, ProxyOut, ProxyPatch
from api.rollouts.schemas import RolloutOut
from api.routes.schemas import RouteIn, RouteOut, RoutePatch
from api.users.schemas import UserIn, UserOut, UserPatch
from client.auth import Auth
from client.collection import Changeable, Collection, Creatable, Given, GivenOne, Readable, sort_out
from client.containers import Containers
from client.declared import Declaring
from client.events import Events
from client.neighbours import Neighbours
from client.transport import Operation, Transport, Value

Switch = Literal["drain", "enable", "disable"]
_APPROVAL = f"{BASE_PATH}/fleets/{{fleet}}/rollout/approval"
_ROLLOUT = Operation("read_rollout", "GET", f"{BASE_PATH}/fleets/{{fleet}}/rollout", None, RolloutOut)
_APPROVE = Operation("approve_shrink", "PUT", _APPROVAL, None, RolloutOut)
_WITHDRAW = Operation("withdraw_approval", "DELETE", _APPROVAL, None, RolloutOut)
_CONFIG = Operation("read_config", "GET", f"{BASE_PATH}/proxies/{{proxy_id}}/config", None, ConfigOut)
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
_EXPLAIN = Operation("explain_request", "GET", f"{BASE_PATH}/explain", None, ExplainOut)
_HEALTH = {
    part: Operation(f"show_{word}", "GET", f"/health{path}", None, HealthOut)
    for part, word, path in [
        ("live", "health", ""),
        ("ready", "readiness", "/ready"),
        ("startup", "startup", "/startup"),
    ]
}


class Fleets(Collection[FleetIn, FleetPatch, FleetOut]):
    """Fleets, and what of them is being rolled out."""

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield from (_ROLLOUT, _APPROVE, _WITHDRAW)

    async def rollout(self, fleet: object) -> RolloutOut:
        """What of a fleet is not with everybody yet, and why."""
        return (await self._transport.send(_ROLLOUT, str(fleet))).value

    async def approve_shrink(self, fleet: object, **given: Unpack[Given]) -> RolloutOut:
        """Let the next change through that takes more than half."""
        return await self._decide(_APPROVE, fleet, given)

    async def withdraw_approval(self, fleet: object, **given: Unpack[Given]) -> RolloutOut:
        """Take an approval back."""
        return await self._decide(_WITHDRAW, fleet, given)

    async def try_approve_shrink(self, fleet: object) -> DryRunOut:
        """What `approve_shrink` would do."""
        return await self._transport.dry_run(_APPROVE, str(fleet))

    async def try_withdraw_approval(self, fleet: object) -> DryRunOut:
        """What `withdraw_approval` would do."""
        return await self._transport.dry_run(_WITHDRAW, str(fleet))

    async def _decide(self, operation: Operation[RolloutOut], fleet: object, given: Given) -> RolloutOut:
        query, headers = sort_out(given)
        return (await self._transport.send(operation, str(fleet), query=query, headers=headers)).value


class Exits(Collection[ExitIn, ExitPatch, ExitOut]):
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


class Proxies(Changeable[ProxyIn, ProxyPatch, ProxyOut]):
    """Proxies, and what they hold."""

    def operations(self) -> Iterator[Operation[Any]]:
        yield from super().operations()
        yield _CONFIG

    async def config(self, proxy_id: object, *, resource: str | None = None, differences: bool = False) -> ConfigOut:
        """What a proxy holds, and what it should hold, as of now."""
        query: dict[str, Value] = {"resource": resource, "differences": differences}
        return (await self._transport.send(_CONFIG, str(proxy_id), query=query)).value


class Client:
    """One API, on behalf of whoever the Authorization header's value stands for. All methods raise ApiRefused, ApiUnreachable.

    What is changed can be tried first (`try_create`, …). What is read with an ETag can be changed only if nobody else did
    meanwhile (`if_match`). `sleep` is what it does between two attempts.
    """

    def __init__(
        self, url: str, authorization: str | None = None, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._transport = transport = Transport(url, authorization, sleep)
        self.fleets = Fleets(transport, "fleets", "fleet", (FleetIn, FleetPatch, FleetOut))
        self.pools = Collection(transport, "pools", "pool", (PoolIn, PoolPatch, PoolOut))
        self.exits = Exits(transport, "exits", "exit", (ExitIn, ExitPatch, ExitOut))
        self.proxies = Proxies(transport, "proxies", "proxy", (ProxyIn, ProxyPatch, ProxyOut))
        self.listeners = Collection(transport, "listeners", "listener", (ListenerIn, ListenerPatch, ListenerOut))
        self.routes = Collection(transport, "routes", "route", (RouteIn, RoutePatch, RouteOut))
        self.users = Collection(transport, "users", "user", (UserIn, UserPatch, UserOut))
        self.plans = Collection(transport, "plans", "plan", (PlanIn, PlanPatch, PlanOut))
        self.certificates = Collection(
            transport, "certificates", "certificate", (CertificateIn, CertificatePatch, CertificateOut)
        )
        self.operators = Collection(transport, "operators", "operator", (OperatorIn, OperatorPatch, OperatorOut))
        self.api_keys = Creatable(transport, "api-keys", "api-key", (ApiKeyIn, ApiKeyPatch, ApiKeyOut))
        self.audit_events = Readable(transport, "audit-events", "audit-event", AuditEventOut)
        self.containers = Containers(transport)
        self.declared = Declaring(transport)
        self.events = Events(transport)
        self.auth = Auth(transport)
        self.neighbours = Neighbours(transport)

    @property
    def url(self) -> str:
        return self._transport.url

    @property
    def collections(self) -> dict[str, Readable[Any]]:
        """Those that can be listed and read, by the names that they have in the API."""
        parts = (part for part in vars(self).values() if isinstance(part, Readable))
        return {part.path.removeprefix(f"{BASE_PATH}/"): part for part in parts}

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._transport.__aexit__(*failure)

    def operations(self) -> Iterator[Operation[Any]]:
        """Those of the OpenAPI document that this client asks for."""
        for part in vars(self).values():
            if not isinstance(part, Transport):
                yield from part.operations()
        yield _EXPLAIN
        yield from _HEALTH.values()

    async def explain(self, target: str, **query: Value) -> ExplainOut:
        """What a gateway would make of a request for `target`, and why."""
        return (await self._transport.send(_EXPLAIN, query={"target": target, **query})).value

    async def health(self, part: Literal["live", "ready", "startup"] = "live") -> HealthOut:
        """How the parts of the process are."""
        return (await self._transport.send(_HEALTH[part])).value


async def collect(items: AsyncIterator[Any]) -> list[Any]:
    """All of what a list gives."""
    return [item async for item in items]
