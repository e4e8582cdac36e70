"""The entry point of the typed client. Each part of the API is imported on first use, with its schemas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

from api.http.paths import BASE_PATH
from client.transport import Operation, QueryValue, Transport

if TYPE_CHECKING:
    from api.features.api_keys.schemas import ApiKeyIn, ApiKeyOut, ApiKeyPatch
    from api.features.audit_events.schemas import AuditEventOut
    from api.features.certificates.schemas import CertificateIn, CertificateOut, CertificatePatch
    from api.features.discovery.schemas import TargetGroupOut
    from api.features.explain.schemas import ExplainOut
    from api.features.health.schemas import HealthOut
    from api.features.listeners.schemas import ListenerIn, ListenerOut, ListenerPatch
    from api.features.message_rules.schemas import MessageRuleIn, MessageRuleOut, MessageRulePatch
    from api.features.messages.schemas import MessageOut
    from api.features.operators.schemas import OperatorIn, OperatorOut, OperatorPatch
    from api.features.plans.schemas import PlanIn, PlanOut, PlanPatch
    from api.features.pools.schemas import PoolIn, PoolOut, PoolPatch
    from api.features.routes.schemas import RouteIn, RouteOut, RoutePatch
    from client.auth import AuthClient
    from client.channels import ChannelsClient
    from client.collection import CollectionClient, CreatableCollection, In, Out, Patch, ReadableCollection
    from client.containers import ContainersClient
    from client.declared import DeclaredClient
    from client.events import EventsClient
    from client.exits import ExitsClient
    from client.fleets import FleetsClient
    from client.join_tokens import JoinTokensClient
    from client.json_client import JsonClient
    from client.proxies import ProxiesClient
    from client.users import UsersClient
    from client.vpn_sentinel import VpnSentinelClient

COLLECTIONS: Final = (
    "fleets",
    "pools",
    "exits",
    "proxies",
    "listeners",
    "routes",
    "users",
    "plans",
    "certificates",
    "channels",
    "message-rules",
    "messages",
    "operators",
    "api-keys",
    "join-tokens",
    "audit-events",
)
"""The collections that can be listed and read, by their names in the API."""
_OTHER_PARTS: Final = ("containers", "declared", "events", "auth", "vpn_sentinel")
_REVOCATION_LIST: Final = Operation("read_revocation_list", "GET", f"{BASE_PATH}/authority/crl", None, bytes)
HealthPart = Literal["live", "ready", "startup"]
_HEALTH_OPERATIONS: Final[dict[HealthPart, tuple[str, str]]] = {
    "live": ("show_health", "/health"),
    "ready": ("show_readiness", "/health/ready"),
    "startup": ("show_startup", "/health/startup"),
}
T = TypeVar("T")


class Client:
    """A client of the API at `url`. `authorization` is the value of the Authorization header. Methods raise ApiRefused, ApiUnreachable.

        async with Client("http://127.0.0.1:8000", f"Bearer {key}") as api:
            async for exit in api.exits.list(state="healthy"):
                print(exit.name)

    Each write has a dry run (`try_create`, …). With `if_match` a write is refused if somebody else changed the object since it
    was read (`read_with_etag`). `ca` is a file with the authority of an `https://` URL, in PEM; None: the system's. `sleep` is called between two attempts.
    """

    def __init__(
        self,
        url: str,
        authorization: str | None = None,
        *,
        ca: Path | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._transport = Transport(url, authorization, sleep, ca)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._transport.__aexit__(*failure)

    @property
    def url(self) -> str:
        return self._transport.url

    @cached_property
    def fleets(self) -> FleetsClient:
        from api.features.fleets.schemas import FleetIn, FleetOut, FleetPatch
        from client.fleets import FleetsClient

        return FleetsClient(self._transport, "fleets", "fleet", (FleetIn, FleetPatch, FleetOut))

    @cached_property
    def exits(self) -> ExitsClient:
        from api.features.exits.schemas import ExitIn, ExitOut, ExitPatch
        from client.exits import ExitsClient

        return ExitsClient(self._transport, "exits", "exit", (ExitIn, ExitPatch, ExitOut))

    @cached_property
    def proxies(self) -> ProxiesClient:
        from api.features.proxies.schemas import ProxyIn, ProxyOut, ProxyPatch
        from client.proxies import ProxiesClient

        return ProxiesClient(self._transport, "proxies", "proxy", (ProxyIn, ProxyPatch, ProxyOut))

    @cached_property
    def pools(self) -> CollectionClient[PoolIn, PoolPatch, PoolOut]:
        from api.features.pools.schemas import PoolIn, PoolOut, PoolPatch

        return self._collection("pools", "pool", (PoolIn, PoolPatch, PoolOut))

    @cached_property
    def listeners(self) -> CollectionClient[ListenerIn, ListenerPatch, ListenerOut]:
        from api.features.listeners.schemas import ListenerIn, ListenerOut, ListenerPatch

        return self._collection("listeners", "listener", (ListenerIn, ListenerPatch, ListenerOut))

    @cached_property
    def routes(self) -> CollectionClient[RouteIn, RoutePatch, RouteOut]:
        from api.features.routes.schemas import RouteIn, RouteOut, RoutePatch

        return self._collection("routes", "route", (RouteIn, RoutePatch, RouteOut))

    @cached_property
    def users(self) -> UsersClient:
        from api.features.users.schemas import UserIn, UserOut, UserPatch
        from client.users import UsersClient

        return UsersClient(self._transport, "users", "user", (UserIn, UserPatch, UserOut))

    @cached_property
    def plans(self) -> CollectionClient[PlanIn, PlanPatch, PlanOut]:
        from api.features.plans.schemas import PlanIn, PlanOut, PlanPatch

        return self._collection("plans", "plan", (PlanIn, PlanPatch, PlanOut))

    @cached_property
    def certificates(self) -> CollectionClient[CertificateIn, CertificatePatch, CertificateOut]:
        from api.features.certificates.schemas import CertificateIn, CertificateOut, CertificatePatch

        return self._collection("certificates", "certificate", (CertificateIn, CertificatePatch, CertificateOut))

    @cached_property
    def channels(self) -> ChannelsClient:
        from api.features.channels.schemas import ChannelIn, ChannelOut, ChannelPatch
        from client.channels import ChannelsClient

        return ChannelsClient(self._transport, "channels", "channel", (ChannelIn, ChannelPatch, ChannelOut))

    @cached_property
    def message_rules(self) -> CollectionClient[MessageRuleIn, MessageRulePatch, MessageRuleOut]:
        from api.features.message_rules.schemas import MessageRuleIn, MessageRuleOut, MessageRulePatch

        return self._collection("message-rules", "message-rule", (MessageRuleIn, MessageRulePatch, MessageRuleOut))

    @cached_property
    def messages(self) -> ReadableCollection[MessageOut]:
        from api.features.messages.schemas import MessageOut
        from client.collection import ReadableCollection

        return ReadableCollection(self._transport, "messages", "message", MessageOut)

    @cached_property
    def operators(self) -> CollectionClient[OperatorIn, OperatorPatch, OperatorOut]:
        from api.features.operators.schemas import OperatorIn, OperatorOut, OperatorPatch

        return self._collection("operators", "operator", (OperatorIn, OperatorPatch, OperatorOut))

    @cached_property
    def api_keys(self) -> CreatableCollection[ApiKeyIn, ApiKeyPatch, ApiKeyOut]:
        from api.features.api_keys.schemas import ApiKeyIn, ApiKeyOut, ApiKeyPatch
        from client.collection import CreatableCollection

        return CreatableCollection(self._transport, "api-keys", "api-key", (ApiKeyIn, ApiKeyPatch, ApiKeyOut))

    @cached_property
    def join_tokens(self) -> JoinTokensClient:
        from client.join_tokens import JoinTokensClient

        return JoinTokensClient(self._transport)

    @cached_property
    def audit_events(self) -> ReadableCollection[AuditEventOut]:
        from api.features.audit_events.schemas import AuditEventOut
        from client.collection import ReadableCollection

        return ReadableCollection(self._transport, "audit-events", "audit-event", AuditEventOut)

    @cached_property
    def json(self) -> JsonClient:
        """The API as plain JSON values, without schemas, for programs that only show them."""
        from client.json_client import JsonClient

        return JsonClient(self._transport)

    @cached_property
    def containers(self) -> ContainersClient:
        from client.containers import ContainersClient

        return ContainersClient(self._transport)

    @cached_property
    def declared(self) -> DeclaredClient:
        from client.declared import DeclaredClient

        return DeclaredClient(self._transport)

    @cached_property
    def events(self) -> EventsClient:
        from client.events import EventsClient

        return EventsClient(self._transport)

    @cached_property
    def auth(self) -> AuthClient:
        from client.auth import AuthClient

        return AuthClient(self._transport)

    @cached_property
    def vpn_sentinel(self) -> VpnSentinelClient:
        from client.vpn_sentinel import VpnSentinelClient

        return VpnSentinelClient(self._transport)

    def collection(self, name: str) -> ReadableCollection[Any]:
        """Return the collection of this name, one of COLLECTIONS. Raises KeyError."""
        if name not in COLLECTIONS:
            raise KeyError(name)
        found: ReadableCollection[Any] = getattr(self, name.replace("-", "_"))
        return found

    def _collection(
        self, name: str, kind: str, schemas: tuple[type[In], type[Patch], type[Out]]
    ) -> CollectionClient[In, Patch, Out]:
        from client.collection import CollectionClient

        return CollectionClient(self._transport, name, kind, schemas)

    def operations(self) -> Iterator[Operation[Any]]:
        """Yield the operations of the OpenAPI document that this client implements."""
        for part in (*COLLECTIONS, *_OTHER_PARTS):
            yield from getattr(self, part.replace("-", "_")).operations()
        yield self._explain
        yield self._discovery
        yield _REVOCATION_LIST
        yield from (self._health(part) for part in _HEALTH_OPERATIONS)

    async def explain(self, target: str, **query: QueryValue) -> ExplainOut:
        """Read how a gateway would route a request for `target`, and why."""
        return (await self._transport.send(self._explain, query={"target": target, **query})).value

    async def discover_targets(self) -> list[TargetGroupOut]:
        """Read what Prometheus should scrape."""
        return (await self._transport.send(self._discovery)).value

    async def revocation_list(self, *, der: bool = False) -> bytes:
        """Read the authority's list of revoked certificates, in PEM or DER."""
        headers = {"Accept": "application/pkix-crl"} if der else None
        return (await self._transport.send(_REVOCATION_LIST, headers=headers)).value

    async def health(self, part: HealthPart = "live") -> HealthOut:
        """Read the health of the process: `live`, `ready` or `startup`."""
        return (await self._transport.send(self._health(part))).value

    @cached_property
    def _explain(self) -> Operation[ExplainOut]:
        from api.features.explain.schemas import ExplainOut

        return Operation("explain_request", "GET", f"{BASE_PATH}/explain", None, ExplainOut)

    @cached_property
    def _discovery(self) -> Operation[list[TargetGroupOut]]:
        from api.features.discovery.schemas import TargetGroupOut

        return Operation("discover_targets", "GET", f"{BASE_PATH}/discovery/prometheus", None, list[TargetGroupOut])

    def _health(self, part: HealthPart) -> Operation[HealthOut]:
        from api.features.health.schemas import HealthOut

        name, path = _HEALTH_OPERATIONS[part]
        return Operation(name, "GET", path, None, HealthOut)


async def collect(items: AsyncIterator[T]) -> list[T]:
    """Return all items of a list.

    pools = await collect(api.pools.list(fleet="demo"))
    """
    return [item async for item in items]
