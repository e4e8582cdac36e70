"""The actions of gateways' routes: forward to clusters, answer directly, or match again without the declared routes."""

from __future__ import annotations

from datetime import timedelta
from functools import cache, lru_cache
from typing import Final

from envoy_data_plane.envoy.config.core.v3 import DataSource, Metadata
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    Route,
    RouteAction,
    RouteActionHashPolicy,
    RouteActionHashPolicyFilterState,
    RouteList,
    RouteMatch,
    RouteMatchConnectMatcher,
)
from envoy_data_plane.google.protobuf import Struct, Value
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig
from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch

from model.entities import Pool
from xds.translate import names
from xds.translate.destinations import Destination
from xds.translate.direct_responses import NOT_MATCHED_AGAIN, NOT_READ, DirectResponse
from xds.translate.encoding import encode, metadata, overwrite, pack
from xds.translate.matchers import OnMatch
from xds.translate.spans import sampling_route
from xds.translate.template import ANY_POOL, set_pool_name
from xds.wire import template_pb2 as wire

_ANY_RESPONSE: Final = DirectResponse(404, "<text>")


@lru_cache(maxsize=20_000)
def forward(destinations: tuple[Destination, ...]) -> OnMatch:
    """Forward to one of these clusters, by weight."""
    entry = wire.Matcher.OnMatch.FromString(_forward_template(_session_ttl(destinations)))
    routes = wire.RouteList.FromString(entry.action.typed_config.value)
    pool_names = ", ".join(dict.fromkeys(destination.pools[0].name for destination in destinations))
    for route in routes.routes:
        set_pool_name(route, pool_names)
        if len(destinations) == 1:
            route.route.cluster = destinations[0].cluster
            continue
        for destination in destinations:
            cluster = route.route.weighted_clusters.clusters.add(name=destination.cluster)
            cluster.weight.value = destination.weight
    entry.action.typed_config.value = encode(routes)
    return encode(entry)


def _session_ttl(destinations: tuple[Destination, ...]) -> int | None:
    """Return for how long sessions keep their exit, in seconds: the shortest of the pools' periods."""
    ttls = (pool.balancing.session_ttl_s for destination in destinations for pool in destination.pools)
    return min((ttl for ttl in ttls if ttl is not None), default=None)


@lru_cache(maxsize=20_000)
def forward_to_pool(pool: Pool) -> OnMatch:
    """Forward to one pool."""
    return forward((Destination(1, (pool,)),))


@cache
def _forward_template(session_ttl_s: int | None) -> bytes:
    return encode(define_forward("<cluster>", ANY_POOL.name, session_ttl_s))


def define_forward(cluster: str, pool_name: str, session_ttl_s: int | None) -> MatcherOnMatch:
    """Build the action that forwards to one cluster. Error texts quote the pool's name.

    The hash policy is the session, for pools with a hashing policy. Other pools never compute it, and a request without a
    session goes to any exit.
    """
    state = names.session_state(session_ttl_s)
    session = RouteActionHashPolicy(filter_state=RouteActionHashPolicyFilterState(key=state))
    action = RouteAction(cluster=cluster, timeout=timedelta(0), hash_policy=[session])
    pool = metadata(names.METADATA, **{names.POOL_METADATA: pool_name})
    return _on_match([Route(match=match, route=action, metadata=pool) for match in _match_all()])


@lru_cache(maxsize=20_000)
def respond(response: DirectResponse) -> OnMatch:
    """Answer directly, CONNECT too."""
    entry = wire.Matcher.OnMatch.FromString(_response_template())
    routes = wire.RouteList.FromString(entry.action.typed_config.value)
    for route in routes.routes:
        route.direct_response.status = response.status
        route.direct_response.body.inline_string = response.text
    entry.action.typed_config.value = encode(routes)
    return encode(entry)


@cache
def _response_template() -> bytes:
    return encode(define_response(_ANY_RESPONSE))


def define_response(response: DirectResponse) -> MatcherOnMatch:
    """Build the action that answers directly."""
    return _on_match(_response_routes(response))


@cache
def match_again() -> OnMatch:
    """Have the request matched again without the declared routes, by the filter `names.ALLOW_FILTER`."""
    fields = {names.ALLOW: Value(bool_value=True)}
    allowed = Metadata(filter_metadata={names.ALLOW_FILTER: Struct(fields=fields)})
    return encode(_on_match(_response_routes(NOT_MATCHED_AGAIN, allowed)))


@cache
def sample(share: float) -> OnMatch:
    """Have this share of the requests traced. Nobody gets the response: the request is matched again once its intent is read."""
    return encode(_on_match([sampling_route(each, share) for each in _response_routes(NOT_READ)]))


def _response_routes(response: DirectResponse, route_metadata: Metadata | None = None) -> list[Route]:
    action = DirectResponseAction(status=response.status, body=DataSource(inline_string=response.text))
    status_header = overwrite("proxy-status", "exitplane; error=http_request_denied")
    return [
        Route(match=match, direct_response=action, response_headers_to_add=[status_header], metadata=route_metadata)
        for match in _match_all()
    ]


def _match_all() -> list[RouteMatch]:
    """Match CONNECT, which has no path, and all other requests."""
    return [RouteMatch(connect_matcher=RouteMatchConnectMatcher()), RouteMatch(prefix="/")]


def _on_match(routes: list[Route]) -> MatcherOnMatch:
    return MatcherOnMatch(action=TypedExtensionConfig(name="routes", typed_config=pack(RouteList(routes=routes))))
