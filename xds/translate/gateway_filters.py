"""The HTTP filters of a gateway's listener, in order.

An inline filter is part of the listener, so that its inputs are the listener and the listener's default pool. Everything else
reaches a filter by a resource of its own (ECDS): a changed listener would drain, and cut its open tunnels
(docs/architecture.md#open-tunnels-survive-configuration).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final, TypeAlias
from uuid import UUID

import betterproto2
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    ExtensionConfigSource,
    SubstitutionFormatString,
)
from envoy_data_plane.envoy.extensions.filters.common.set_filter_state.v3 import FilterStateValue
from envoy_data_plane.envoy.extensions.filters.http.composite.v3 import Composite
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac
from envoy_data_plane.envoy.extensions.filters.http.set_filter_state.v3 import Config as SetFilterState
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter

from model.entities import Entity, Listener, Pool, User
from model.world import World
from xds.translate import names
from xds.translate.encoding import Message
from xds.translate.http import ads_source, http_filter
from xds.translate.lua import quote, read_script
from xds.translate.resource_ids import USER_GROUPS, USERS, ResourceId
from xds.translate.user_groups_filter import affects_user_groups, translate_user_groups
from xds.translate.users import CHALLENGE_SCRIPT, choose_part, require_admission, translate_users

CLIENT_INTENT_SCRIPT: Final = read_script("client_intent")
ALLOW_SCRIPT: Final = read_script("allow")
_LUA: Final = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"


@dataclass(frozen=True, slots=True)
class InlineFilter:
    """A filter that is configured in the listener."""

    name: str
    configure: Callable[[Listener, Pool | None], betterproto2.Message]
    """Its configuration as a function of its inputs: the listener, and the pool that the listener defaults to."""
    references: frozenset[ResourceId] = frozenset()
    authenticates: bool = False
    """True for a filter of listeners that authenticate their clients, and of no other."""

    def build(self, listener: Listener, default_pool: Pool | None) -> HttpFilter:
        return http_filter(self.name, self.configure(listener, default_pool))


@dataclass(frozen=True, slots=True)
class EcdsResource:
    """The configuration of a filter as a resource of its own (ECDS)."""

    id: ResourceId
    is_input: Callable[[Entity, World, World], bool]
    """Tells if an entity is an input, so that its change may change the configuration; called for its old and its new value."""
    translate: Callable[[World, UUID], Message]
    """The resource for the gateways of a fleet."""


@dataclass(frozen=True, slots=True)
class EcdsFilter:
    """A filter whose whole configuration is a resource of its own (ECDS)."""

    resource: ResourceId
    type_url: str
    """The type of its configuration."""
    authenticates: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return self.resource.name

    @property
    def references(self) -> frozenset[ResourceId]:
        return frozenset({self.resource})

    def build(self, _listener: Listener, _default_pool: Pool | None) -> HttpFilter:
        source = ExtensionConfigSource(config_source=ads_source(), type_urls=[self.type_url])
        return HttpFilter(name=self.name, config_discovery=source)


GatewayFilter: TypeAlias = InlineFilter | EcdsFilter


def filters_of(listener: Listener) -> list[GatewayFilter]:
    """List the filters of a listener, in the order in which a request passes them; the router comes after them."""
    return [each for each in GATEWAY_FILTERS if listener.authentication or not each.authenticates]


def _client_intent(listener: Listener, default_pool: Pool | None) -> Lua:
    return _lua(_listener_defaults(listener, default_pool) + CLIENT_INTENT_SCRIPT)


def _allow(_listener: Listener, _default_pool: Pool | None) -> Lua:
    return _lua(ALLOW_SCRIPT)


def _challenge(_listener: Listener, _default_pool: Pool | None) -> Lua:
    return _lua(CHALLENGE_SCRIPT)


def _users(_listener: Listener, _default_pool: Pool | None) -> Composite:
    return choose_part()


def _admitted(_listener: Listener, _default_pool: Pool | None) -> Rbac:
    return require_admission()


def _lua(text: str) -> Lua:
    return Lua(default_source_code=DataSource(inline_string=text))


def _session(_listener: Listener, _default_pool: Pool | None) -> SetFilterState:
    """Copy the session to filter state, which pools with session balancing hash (route_actions.py)."""
    periods = [(ttl, f"%DYNAMIC_METADATA({names.SESSION_STATE}:{ttl})%") for ttl in names.SESSION_TTLS]
    return SetFilterState(
        on_request_headers=[
            FilterStateValue(
                object_key=names.session_state(ttl),
                factory_key="envoy.hashable_string",
                format_string=SubstitutionFormatString(
                    text_format_source=DataSource(inline_string=text), omit_empty_values=True
                ),
                skip_if_empty=True,
            )
            for ttl, text in [(None, f"%REQ({names.SESSION})%"), *periods]
        ]
    )


def _listener_defaults(listener: Listener, default_pool: Pool | None) -> str:
    """Write the Lua table of the listener's defaults, for clients that ask for nothing themselves."""
    by_name = "".join(
        f"[{quote(server_name.lower())}]={quote(country)},"
        for server_name, country in listener.countries_by_server_name
    )
    entries = [f"countries={{{by_name}}}"]
    if default_pool:
        entries.append(f"pool={quote(default_pool.name)}")
    elif listener.country:
        entries.append(f"country={quote(listener.country)}")
    if listener.authentication:
        entries.append("authenticates=true")
    return f"local LISTENER = {{{', '.join(entries)}}}\n"


GATEWAY_FILTERS: Final[tuple[GatewayFilter, ...]] = (
    InlineFilter("envoy.filters.http.lua", _client_intent),
    InlineFilter(names.CHALLENGE_FILTER, _challenge, authenticates=True),
    InlineFilter(names.USERS_FILTER, _users, frozenset(USERS), authenticates=True),
    InlineFilter(names.ADMITTED_FILTER, _admitted, authenticates=True),
    EcdsFilter(USER_GROUPS, _LUA),
    InlineFilter(names.ALLOW_FILTER, _allow),
    InlineFilter("envoy.filters.http.set_filter_state", _session),
)
"""The filters of all listeners, in the order in which a request passes them."""


def _is_in(shard: int, entity: Entity, _old: World, _new: World) -> bool:
    return isinstance(entity, User) and entity.shard == shard


ECDS_RESOURCES: Final = {
    each.id: each
    for each in (
        EcdsResource(USER_GROUPS, affects_user_groups, translate_user_groups),
        *(
            EcdsResource(resource, partial(_is_in, shard), partial(translate_users, shard))
            for shard, resource in enumerate(USERS)
        ),
    )
}
"""The resources of filters that every fleet has: whether a listener uses them or not, they never come or go (rule 29)."""
