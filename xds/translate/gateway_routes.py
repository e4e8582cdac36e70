"""RDS for gateways: which wish goes to which pool.

One hash look-up by country (`xds.type.matcher.v3` tree), however many pools there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache, lru_cache
from typing import Final

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    HeaderMatcher,
    RetryPolicy,
    RetryPolicyRetryBackOff,
    RetryPolicyRetryHostPredicate,
    RetryPolicyRetryPriority,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteList,
    RouteMatch,
    RouteMatchConnectMatcher,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate
from envoy_data_plane.envoy.extensions.retry.priority.previous_priorities.v3 import PreviousPrioritiesConfig
from envoy_data_plane.envoy.type.matcher.v3 import HttpRequestHeaderMatchInput, RegexMatcher, StringMatcher
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig
from envoy_data_plane.xds.type.matcher.v3 import (
    Matcher,
    MatcherMatcherTree,
    MatcherMatcherTreeMatchMap,
    MatcherOnMatch,
)

from model.world import Pool
from xds.translate import names
from xds.translate.encoding import encode, metadata, overwrite, pack
from xds.translate.http import PROXY_HEADERS
from xds.translate.template import ANY_POOL, name_pool
from xds.wire import template_pb2 as wire

BEFORE_ANYTHING_WAS_SENT: Final = "connect-failure,refused-stream,reset-before-request,retriable-headers"
"""Failures after which no target can have seen the request, so that any method may be tried on another exit."""
SAFE_TO_REPEAT: Final = f"{BEFORE_ANYTHING_WAS_SENT},reset"
"""For tunnels and safe methods, which may be tried again even if the exit died while it handled them."""
_SAFE_METHODS: Final = "GET|HEAD|OPTIONS"
_TUNNEL_IS_DOWN: Final = ".*(unreachable|Cannot_assign|No_such_device|timeout|Permission_denied|Operation_not).*"
"""In an exit's own words (`names.FAILURE_HEADER`): what befalls it when its tunnel is down. A refused connection is none of
these: then the target is down, and another exit would fare no better."""
_CLUSTER_IS_NEW: Final = "no_healthy_upstream"
"""Likewise: for a moment, between the exit's new cluster of targets and the addresses that it knew before."""

_TRIES_NEARBY: Final = 2
"""After so many attempts at exits of one priority, the next is at those of another, if there is one."""


def translate_gateway_routes(pools: Sequence[Pool]) -> wire.RouteConfiguration:
    """The route configuration of a fleet with these pools."""
    by_country = {pool.country: _pool_entry(pool) for pool in pools}
    configuration = wire.RouteConfiguration.FromString(_any_gateway_routes())
    matcher = configuration.virtual_hosts[0].matcher
    if by_country:
        entries = matcher.matcher_tree.exact_match_map.map
        del entries[ANY_POOL.country]
        entries.update(by_country)
    else:
        matcher.ClearField("matcher_tree")
    served = _listed(sorted(by_country))

    def say_what_is_served(route: wire.Route) -> None:
        body = route.direct_response.body
        body.inline_string = body.inline_string.replace(ANY_POOL.country, served)

    _change_routes(matcher.on_no_match, say_what_is_served)
    return configuration


@lru_cache(maxsize=10_000)
def _pool_entry(pool: Pool) -> bytes:
    """Where the wish for a pool leads: an OnMatch."""
    configuration = wire.RouteConfiguration.FromString(_any_gateway_routes())
    tree = configuration.virtual_hosts[0].matcher.matcher_tree
    entry = wire.Matcher.OnMatch.FromString(tree.exact_match_map.map[ANY_POOL.country])

    def lead_to_pool(route: wire.Route) -> None:
        route.route.cluster = names.pool_cluster(pool)
        name_pool(route, pool.name)

    _change_routes(entry, lead_to_pool)
    return encode(entry)


def _change_routes(on_match: wire.Matcher.OnMatch, change: Callable[[wire.Route], None]) -> None:
    packed = on_match.action.typed_config
    routes = wire.RouteList.FromString(packed.value)
    for route in routes.routes:
        change(route)
    packed.value = encode(routes)


@cache
def _any_gateway_routes() -> bytes:
    return encode(define_gateway_routes([ANY_POOL]))


def define_gateway_routes(pools: Sequence[Pool]) -> RouteConfiguration:
    """The same in Envoy's own types."""
    by_country = {pool.country: MatcherOnMatch(action=_action(_pool_routes(pool))) for pool in pools}
    wish = TypedExtensionConfig(
        name="wish", typed_config=pack(HttpRequestHeaderMatchInput(header_name=names.WISHED_COUNTRY))
    )
    nobody = MatcherOnMatch(action=_action(_no_pool_routes(sorted(by_country))))
    tree = MatcherMatcherTree(input=wish, exact_match_map=MatcherMatcherTreeMatchMap(map=by_country))
    matcher = Matcher(matcher_tree=tree, on_no_match=nobody) if by_country else Matcher(on_no_match=nobody)
    return RouteConfiguration(
        name=names.GATEWAY_ROUTES,
        virtual_hosts=[
            VirtualHost(name="any", domains=["*"], matcher=matcher, retry_policy=_retry_policy(SAFE_TO_REPEAT))
        ],
        request_headers_to_remove=[*names.UNDERSTOOD, *PROXY_HEADERS],
        response_headers_to_remove=[names.FAILURE_HEADER, "x-envoy-upstream-service-time"],
    )


def _action(routes: list[Route]) -> TypedExtensionConfig:
    return TypedExtensionConfig(name="routes", typed_config=pack(RouteList(routes=routes)))


def _pool_routes(pool: Pool) -> list[Route]:
    safe = HeaderMatcher(name=":method", string_match=StringMatcher(safe_regex=RegexMatcher(regex=_SAFE_METHODS)))
    return [
        _forward(pool, RouteMatch(connect_matcher=RouteMatchConnectMatcher())),
        _forward(pool, RouteMatch(prefix="/", headers=[safe])),
        _forward(pool, RouteMatch(prefix="/"), _retry_policy(BEFORE_ANYTHING_WAS_SENT)),
    ]


def _forward(pool: Pool, match: RouteMatch, retry_policy: RetryPolicy | None = None) -> Route:
    action = RouteAction(cluster=names.pool_cluster(pool), timeout=timedelta(0), retry_policy=retry_policy)
    return Route(match=match, route=action, metadata=metadata(names.METADATA, **{names.POOL_METADATA: pool.name}))


def _retry_policy(retry_on: str) -> RetryPolicy:
    elsewhere = RetryPolicyRetryHostPredicate(
        name="envoy.retry_host_predicates.previous_hosts", typed_config=pack(PreviousHostsPredicate())
    )
    farther = RetryPolicyRetryPriority(  # a near exit that is alone and just died is still what is preferred
        name="envoy.retry_priorities.previous_priorities",
        typed_config=pack(PreviousPrioritiesConfig(update_frequency=_TRIES_NEARBY)),
    )
    its_own_failures = [
        HeaderMatcher(name=names.FAILURE_HEADER, string_match=words)
        for words in (
            StringMatcher(safe_regex=RegexMatcher(regex=_TUNNEL_IS_DOWN)),
            StringMatcher(exact=_CLUSTER_IS_NEW),
        )
    ]
    return RetryPolicy(
        retry_on=retry_on,
        num_retries=3,
        retriable_headers=its_own_failures,
        retry_host_predicate=[elsewhere],
        retry_priority=farther,
        host_selection_retry_max_attempts=8,
        retry_back_off=RetryPolicyRetryBackOff(
            base_interval=timedelta(milliseconds=10), max_interval=timedelta(milliseconds=100)
        ),
    )


def _no_pool_routes(countries: Sequence[str]) -> list[Route]:
    served = _listed(countries)
    wished = HeaderMatcher(name=names.WISHED_COUNTRY, present_match=True)
    return [
        *_refuse(404, f"exitplane: no pool serves the country asked for; served are: {served}\n", [wished]),
        *_refuse(
            400,
            "exitplane: no country was asked for; say it in the user name (NAME-country-de) "
            f"or in the header {names.COUNTRY_HEADER}; served are: {served}\n",
            [],
        ),
    ]


def _listed(countries: Sequence[str]) -> str:
    return ", ".join(countries) or "none yet"


def _refuse(status: int, text: str, headers: list[HeaderMatcher]) -> list[Route]:
    reply = DirectResponseAction(status=status, body=DataSource(inline_string=text))
    status_header = overwrite("proxy-status", "exitplane; error=http_request_denied")
    matches = [
        RouteMatch(connect_matcher=RouteMatchConnectMatcher(), headers=headers),
        RouteMatch(prefix="/", headers=headers),
    ]
    return [Route(match=match, direct_response=reply, response_headers_to_add=[status_header]) for match in matches]
