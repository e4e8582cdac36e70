"""The HTTP filters of a gateway's listener, in order.

An inline filter is part of the listener, so that its inputs are the listener and the listener's default pool. Everything else
reaches a filter by a resource of its own (ECDS): a changed listener would drain, and cut its open tunnels
(docs/architecture.md#open-tunnels-survive-configuration).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

from betterproto2 import Message
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    ExtensionConfigSource,
    SubstitutionFormatString,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.extensions.filters.common.set_filter_state.v3 import FilterStateValue
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.http.set_filter_state.v3 import Config as SetFilterState
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter

from model.entities import Entity, Listener, Pool
from model.world import World
from xds.translate import names
from xds.translate.http import ads_source, http_filter
from xds.translate.lua import quote, read_script
from xds.translate.resource_ids import USER_GROUPS, ResourceId
from xds.translate.user_groups_filter import affects_user_groups, translate_user_groups

CLIENT_INTENT_SCRIPT: Final = read_script("client_intent")
ALLOW_SCRIPT: Final = read_script("allow")
_LUA: Final = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"


@dataclass(frozen=True, slots=True)
class InlineFilter:
    """A filter that is configured in the listener."""

    name: str
    configure: Callable[[Listener, Pool | None], Message]
    """Its configuration as a function of its inputs: the listener, and the pool that the listener defaults to."""
    references: frozenset[ResourceId] = frozenset()

    def build(self, listener: Listener, default_pool: Pool | None) -> HttpFilter:
        return http_filter(self.name, self.configure(listener, default_pool))


@dataclass(frozen=True, slots=True)
class EcdsFilter:
    """A filter that is configured by a resource of its own (ECDS)."""

    resource: ResourceId
    type_url: str
    """The type of its configuration."""
    is_input: Callable[[Entity, World, World], bool]
    """Tells if an entity is an input, so that its change may change the configuration; called for its old and its new value."""
    translate: Callable[[World, UUID], TypedExtensionConfig]
    """The resource for the gateways of a fleet."""

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


def _client_intent(listener: Listener, default_pool: Pool | None) -> Lua:
    return _lua(_listener_defaults(listener, default_pool) + CLIENT_INTENT_SCRIPT)


def _allow(_listener: Listener, _default_pool: Pool | None) -> Lua:
    return _lua(ALLOW_SCRIPT)


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
    return f"local LISTENER = {{{', '.join(entries)}}}\n"


GATEWAY_FILTERS: Final[tuple[GatewayFilter, ...]] = (
    InlineFilter("envoy.filters.http.lua", _client_intent),
    EcdsFilter(USER_GROUPS, _LUA, affects_user_groups, translate_user_groups),
    InlineFilter(names.ALLOW_FILTER, _allow),
    InlineFilter("envoy.filters.http.set_filter_state", _session),
)
"""In the order in which a request passes them; the router comes after them."""

ECDS_FILTERS: Final = {each.resource: each for each in GATEWAY_FILTERS if isinstance(each, EcdsFilter)}
