"""RDS for gateways: the destination of each request.

The fleet's routes come first, in blocks of one look-up each (route_blocks.py). Then come the default routes (default_routes.py):
hash look-ups by pool, or by country and city, however many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Final
from uuid import UUID

from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    RetryPolicy,
    RetryPolicyRetryBackOff,
    RetryPolicyRetryHostPredicate,
    RetryPolicyRetryPriority,
    RouteConfiguration,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate
from envoy_data_plane.envoy.extensions.retry.priority.previous_priorities.v3 import PreviousPrioritiesConfig
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher

from model.entities import Allow, Deny, Pool, Route, ToPools
from xds.translate import names
from xds.translate.default_routes import compile_default_routes, find_served_locations, reject_malformed
from xds.translate.destinations import destinations
from xds.translate.direct_responses import denied_by_route, missing_pools
from xds.translate.encoding import encode, pack
from xds.translate.http import PROXY_HEADERS
from xds.translate.matchers import OnMatch, first_of, is_present, negate, nest
from xds.translate.route_actions import forward, match_again, respond, sample
from xds.translate.route_blocks import RouteRule, compile_rules
from xds.wire import template_pb2 as wire

RETRY_ON: Final = "connect-failure,refused-stream,reset-before-request,retriable-headers"
"""Failures after which no target has seen the request, so that any method may be retried on another exit. For tunnels and safe
methods the gateway's script adds the failure of an exit while it handles the request (envoy/client_intent.lua)."""
_TUNNEL_IS_DOWN: Final = ".*(unreachable|Cannot_assign|No_such_device|timeout|Permission_denied|Operation_not).*"
"""Failure details of an exit (`names.FAILURE_HEADER`) whose tunnel is down. A refused connection is not among them: then the
target is down, and another exit would fail too."""
_CLUSTER_IS_NEW: Final = "no_healthy_upstream"
"""Failure detail of an exit whose cluster of targets was just replaced and has no resolved addresses yet."""

_TRIES_NEARBY: Final = 2
"""Attempts at exits of one priority before the next attempt goes to another priority."""


def translate_gateway_routes(
    pools: Sequence[Pool], routes: Sequence[Route] = (), traced_share: float | None = None
) -> wire.RouteConfiguration:
    """Build the route configuration of a fleet with these pools and routes, in any order.

    Envoy matches a request before the listener's filters see it, and then decides if it is traced; `traced_share` of them are.
    """
    served = find_served_locations(pools)
    by_id = {pool.id: pool for pool in pools}
    rules = [RouteRule(route.match, _action(route, by_id)) for route in sort_routes(routes)]
    entries = [*reject_malformed()]
    if traced_share is not None:
        entries.insert(0, (negate(is_present(names.TARGET_HOST)), sample(traced_share)))
    if rules:
        entries.append((negate(is_present(names.ALLOWED)), nest(first_of(compile_rules(rules)))))
    by_itself, otherwise = compile_default_routes(served)
    entries += by_itself
    configuration = wire.RouteConfiguration.FromString(_any_gateway_routes())
    configuration.virtual_hosts[0].matcher = first_of(entries, otherwise)
    return configuration


def sort_routes(routes: Sequence[Route]) -> Sequence[Route]:
    """Return the enabled routes in the order in which they are tried."""
    return sorted(
        (route for route in routes if route.enabled), key=lambda route: (route.position, route.name, route.id.int)
    )


def _action(route: Route, pools: Mapping[UUID, Pool]) -> OnMatch:
    match route.action:
        case Allow():
            return match_again()
        case Deny(status, text):
            return respond(denied_by_route(status, text))
        case ToPools() as action:
            found = destinations(action, pools.get)
            return forward(found) if found else respond(missing_pools(route.name))


@cache
def _any_gateway_routes() -> bytes:
    return encode(define_gateway_routes())


def define_gateway_routes() -> RouteConfiguration:
    """Build the route configuration without its matcher."""
    return RouteConfiguration(
        name=names.GATEWAY_ROUTES,
        virtual_hosts=[VirtualHost(name="any", domains=["*"], retry_policy=_retry_policy())],
        request_headers_to_remove=[*names.INTENT_HEADERS, *PROXY_HEADERS],
        response_headers_to_remove=[names.FAILURE_HEADER, names.HEALTH_FAILURE_HEADER],
    )


def _retry_policy() -> RetryPolicy:
    other_host = RetryPolicyRetryHostPredicate(
        name="envoy.retry_host_predicates.previous_hosts", typed_config=pack(PreviousHostsPredicate())
    )
    other_priority = RetryPolicyRetryPriority(  # otherwise retries go to a lone near exit that just died
        name="envoy.retry_priorities.previous_priorities",
        typed_config=pack(PreviousPrioritiesConfig(update_frequency=_TRIES_NEARBY)),
    )
    exit_failures = [
        HeaderMatcher(name=names.FAILURE_HEADER, string_match=detail)
        for detail in (
            StringMatcher(safe_regex=RegexMatcher(regex=_TUNNEL_IS_DOWN)),
            StringMatcher(exact=_CLUSTER_IS_NEW),
            StringMatcher(prefix=names.PARENT_FAILED),
        )
    ]
    return RetryPolicy(
        retry_on=RETRY_ON,
        num_retries=3,
        retriable_headers=exit_failures,
        retry_host_predicate=[other_host],
        retry_priority=other_priority,
        host_selection_retry_max_attempts=8,
        retry_back_off=RetryPolicyRetryBackOff(
            base_interval=timedelta(milliseconds=10), max_interval=timedelta(milliseconds=100)
        ),
    )
