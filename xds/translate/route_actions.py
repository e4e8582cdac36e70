"""What the routes of gateways do in the end: forward to clusters, refuse, or have the wish looked up past the routes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cache, lru_cache
from typing import Final

from envoy_data_plane.envoy.config.core.v3 import DataSource, Metadata
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    HeaderMatcher,
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

from model.entities import Balancing, Pool
from xds.translate import names
from xds.translate.destinations import Destination
from xds.translate.direct_responses import NOT_LOOKED_UP_AGAIN, DirectResponse
from xds.translate.encoding import encode, metadata, overwrite, pack
from xds.translate.matchers import OnMatch
from xds.translate.template import ANY_POOL, name_pool
from xds.wire import template_pb2 as wire

_ANY_REFUSAL: Final = DirectResponse(404, "<text>")


@lru_cache(maxsize=20_000)
def forward(destinations: tuple[Destination, ...]) -> OnMatch:
    """Send it to one of these, by weight."""
    entry = wire.Matcher.OnMatch.FromString(_any_forward(_session_ttl(destinations)))
    routes = wire.RouteList.FromString(entry.action.typed_config.value)
    pool_names = ", ".join(dict.fromkeys(destination.pools[0].name for destination in destinations))
    for route in routes.routes:
        name_pool(route, pool_names)
        if len(destinations) == 1:
            route.route.cluster = destinations[0].cluster
            continue
        for destination in destinations:
            cluster = route.route.weighted_clusters.clusters.add(name=destination.cluster)
            cluster.weight.value = destination.weight
    entry.action.typed_config.value = encode(routes)
    return encode(entry)


def _session_ttl(destinations: tuple[Destination, ...]) -> int | None:
    """How long sessions keep their exit: where pools differ, the shortest holds."""
    ttls = (pool.balancing.session_ttl_s for destination in destinations for pool in destination.pools)
    return min((ttl for ttl in ttls if ttl is not None), default=None)


@lru_cache(maxsize=20_000)
def lead_to(pool: Pool) -> OnMatch:
    """Send it to a pool."""
    return forward((Destination(1, (pool,)),))


@cache
def _any_forward(session_ttl_s: int | None) -> bytes:
    pool = replace(ANY_POOL, balancing=Balancing(session_ttl_s=session_ttl_s))
    return encode(define_forward((Destination(1, (pool,)),)))


def define_forward(destinations: tuple[Destination, ...]) -> MatcherOnMatch:
    """The same in Envoy's own types, for one destination. The pool's name rides along for the words of a failure.

    What is hashed is the session, for pools that send each to one exit; other pools never compute it, and a request without
    one goes to any exit.
    """
    (destination,) = destinations
    state = names.session_state(_session_ttl(destinations))
    session = RouteActionHashPolicy(filter_state=RouteActionHashPolicyFilterState(key=state))
    action = RouteAction(cluster=destination.cluster, timeout=timedelta(0), hash_policy=[session])
    pool_name = metadata(names.METADATA, **{names.POOL_METADATA: destination.pools[0].name})
    return _on_match([Route(match=match, route=action, metadata=pool_name) for match in _everything([])])


@lru_cache(maxsize=20_000)
def refuse(refusal: DirectResponse) -> OnMatch:
    """Answer at once, tunnels too."""
    entry = wire.Matcher.OnMatch.FromString(_any_refusal())
    routes = wire.RouteList.FromString(entry.action.typed_config.value)
    for route in routes.routes:
        route.direct_response.status = refusal.status
        route.direct_response.body.inline_string = refusal.text
    entry.action.typed_config.value = encode(routes)
    return encode(entry)


@cache
def _any_refusal() -> bytes:
    return encode(define_refusal(_ANY_REFUSAL))


def define_refusal(refusal: DirectResponse) -> MatcherOnMatch:
    """The same in Envoy's own types."""
    return _on_match(_refusing(refusal, []))


@cache
def look_up_again() -> OnMatch:
    """Have the routes looked up again past those that are declared: `names.ALLOW_FILTER` sees to it."""
    said = {names.ALLOW: Value(bool_value=True)}
    allowed = Metadata(filter_metadata={names.ALLOW_FILTER: Struct(fields=said)})
    return encode(_on_match(_refusing(NOT_LOOKED_UP_AGAIN, [], allowed)))


def _refusing(refusal: DirectResponse, headers: list[HeaderMatcher], said: Metadata | None = None) -> list[Route]:
    reply = DirectResponseAction(status=refusal.status, body=DataSource(inline_string=refusal.text))
    status_header = overwrite("proxy-status", "exitplane; error=http_request_denied")
    return [
        Route(match=match, direct_response=reply, response_headers_to_add=[status_header], metadata=said)
        for match in _everything(headers)
    ]


def _everything(headers: list[HeaderMatcher]) -> list[RouteMatch]:
    """Tunnels, which have no path, and all else."""
    return [
        RouteMatch(connect_matcher=RouteMatchConnectMatcher(), headers=headers),
        RouteMatch(prefix="/", headers=headers),
    ]


def _on_match(routes: list[Route]) -> MatcherOnMatch:
    return MatcherOnMatch(action=TypedExtensionConfig(name="routes", typed_config=pack(RouteList(routes=routes))))
