"""RDS for gateways: which wish goes where.

First what the fleet's routes decide, in blocks of which each is one look-up (route_blocks.py), then where the wish leads by
itself (default_routes.py), which are hash look-ups by pool, or by country and city, however many there are.
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
from xds.translate.default_routes import default_way, refuse_city_alone, what_is_served
from xds.translate.destinations import destinations
from xds.translate.direct_responses import denied, pools_are_gone
from xds.translate.encoding import encode, pack
from xds.translate.http import PROXY_HEADERS
from xds.translate.matchers import OnMatch, first_of, go_into, is_there, unless
from xds.translate.route_actions import forward, look_up_again, refuse
from xds.translate.route_blocks import RouteRule, compile_rules
from xds.wire import template_pb2 as wire

BEFORE_ANYTHING_WAS_SENT: Final = "connect-failure,refused-stream,reset-before-request,retriable-headers"
"""Failures after which no target can have seen the request, so that any method may be tried on another exit. For tunnels and
safe methods the gateway's script adds to them that the exit died while it handled the request (envoy/wish.lua)."""
_TUNNEL_IS_DOWN: Final = ".*(unreachable|Cannot_assign|No_such_device|timeout|Permission_denied|Operation_not).*"
"""In an exit's own words (`names.FAILURE_HEADER`): what befalls it when its tunnel is down. A refused connection is none of
these: then the target is down, and another exit would fare no better."""
_CLUSTER_IS_NEW: Final = "no_healthy_upstream"
"""Likewise: for a moment, between the exit's new cluster of targets and the addresses that it knew before."""

_TRIES_NEARBY: Final = 2
"""After so many attempts at exits of one priority, the next is at those of another, if there is one."""


def translate_gateway_routes(pools: Sequence[Pool], routes: Sequence[Route] = ()) -> wire.RouteConfiguration:
    """The route configuration of a fleet with these pools and, in any order, these routes."""
    served = what_is_served(pools)
    by_id = {pool.id: pool for pool in pools}
    rules = [RouteRule(route.match, _action(route, by_id)) for route in in_order(routes)]
    entries = [refuse_city_alone()]
    if rules:
        entries.append((unless(is_there(names.ALLOWED)), go_into(first_of(compile_rules(rules)))))
    by_itself, otherwise = default_way(served)
    entries += by_itself
    configuration = wire.RouteConfiguration.FromString(_any_gateway_routes())
    configuration.virtual_hosts[0].matcher = first_of(entries, otherwise)
    return configuration


def in_order(routes: Sequence[Route]) -> Sequence[Route]:
    """The routes that are tried, as they are tried."""
    return sorted(
        (route for route in routes if route.enabled), key=lambda route: (route.position, route.name, route.id.int)
    )


def _action(route: Route, pools: Mapping[UUID, Pool]) -> OnMatch:
    match route.action:
        case Allow():
            return look_up_again()
        case Deny(status, text):
            return refuse(denied(status, text))
        case ToPools() as action:
            found = destinations(action, pools.get)
            return forward(found) if found else refuse(pools_are_gone(route.name))


@cache
def _any_gateway_routes() -> bytes:
    return encode(define_gateway_routes())


def define_gateway_routes() -> RouteConfiguration:
    """All but the matcher, in Envoy's own types."""
    return RouteConfiguration(
        name=names.GATEWAY_ROUTES,
        virtual_hosts=[VirtualHost(name="any", domains=["*"], retry_policy=_retry_policy())],
        request_headers_to_remove=[*names.UNDERSTOOD, *PROXY_HEADERS],
        response_headers_to_remove=[names.FAILURE_HEADER, "x-envoy-upstream-service-time"],
    )


def _retry_policy() -> RetryPolicy:
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
            StringMatcher(prefix=names.PARENT_FAILED),
        )
    ]
    return RetryPolicy(
        retry_on=BEFORE_ANYTHING_WAS_SENT,
        num_retries=3,
        retriable_headers=its_own_failures,
        retry_host_predicate=[elsewhere],
        retry_priority=farther,
        host_selection_retry_max_attempts=8,
        retry_back_off=RetryPolicyRetryBackOff(
            base_interval=timedelta(milliseconds=10), max_interval=timedelta(milliseconds=100)
        ),
    )
