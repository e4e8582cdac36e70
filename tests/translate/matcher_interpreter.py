"""A small interpreter of Envoy's generic matchers, after the behaviour that was observed on a real Envoy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network

from envoy_data_plane.envoy.config.route.v3 import Route, RouteConfiguration, RouteList
from envoy_data_plane.envoy.extensions.matching.input_matchers.ip.v3 import Ip
from envoy_data_plane.envoy.type.matcher.v3 import HttpRequestHeaderMatchInput
from envoy_data_plane.google.protobuf import Any
from envoy_data_plane.xds.type.matcher.v3 import (
    Matcher,
    MatcherMatcherListPredicate,
    MatcherMatcherTree,
    MatcherOnMatch,
    StringMatcher,
)

from xds.translate import names
from xds.wire import template_pb2 as wire

Headers = Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """The clusters of a request with their weights, or the direct response."""

    clusters: tuple[tuple[str, int], ...] = ()
    status: int = 0
    text: str = ""


def decide(body: bytes, headers: Headers, *, tunnel: bool) -> Outcome:
    """Decide on a request with these intent headers, as a gateway does."""
    (host,) = _parse(body).virtual_hosts
    route = _route(host.matcher, headers, tunnel=tunnel)
    if route.metadata and names.ALLOW_FILTER in route.metadata.filter_metadata:
        route = _route(host.matcher, {**headers, names.ALLOWED: "1"}, tunnel=tunnel)
    if route.direct_response:
        return Outcome(status=route.direct_response.status, text=route.direct_response.body.inline_string)
    weighted = route.route.weighted_clusters
    if weighted:
        return Outcome(tuple((each.name, each.weight) for each in weighted.clusters))
    return Outcome(((route.route.cluster, 1),))


@lru_cache(maxsize=1)
def _parse(body: bytes) -> RouteConfiguration:
    return RouteConfiguration.parse(body)


@lru_cache(maxsize=10_000)
def _unpack(type_url: str, value: bytes):
    return Any(type_url=type_url, value=value).unpack()


def _read(given):
    return _unpack(given.typed_config.type_url, given.typed_config.value)


def _route(matcher: Matcher, headers: Headers, *, tunnel: bool) -> Route:
    found = _match(matcher, headers)
    assert found is not None
    return next(each for each in found.routes if (each.match.connect_matcher is not None) == tunnel)


def _match(matcher: Matcher, headers: Headers) -> RouteList | None:
    found = None
    if matcher.matcher_list:
        for each in matcher.matcher_list.matchers:
            if _holds(each.predicate, headers):
                found = _follow(each.on_match, headers)
                if found is not None:
                    return found
    elif matcher.matcher_tree:
        for on_match in _found(matcher.matcher_tree, headers):
            found = _follow(on_match, headers)
            if found is not None:
                return found
    return _follow(matcher.on_no_match, headers) if matcher.on_no_match else None


def _follow(on_match: MatcherOnMatch, headers: Headers) -> RouteList | None:
    if on_match.matcher:
        return _match(on_match.matcher, headers)
    return _read(on_match.action)


def _found(tree: MatcherMatcherTree, headers: Headers) -> list[MatcherOnMatch]:
    """Return the matching entries of a tree, in the order in which Envoy tries them."""
    value = _header(tree.input, headers)
    if value is None:
        return []
    if tree.exact_match_map:
        return [tree.exact_match_map.map[value]] if value in tree.exact_match_map.map else []
    if tree.prefix_match_map:
        prefixes = sorted((each for each in tree.prefix_match_map.map if value.startswith(each)), key=len)
        return [tree.prefix_match_map.map[each] for each in reversed(prefixes)]
    ranges = wire.IPMatcher.FromString(tree.custom_match.typed_config.value)
    address = _address(value)
    found = [
        (each.prefix_len.value, MatcherOnMatch.parse(given.on_match))
        for given in ranges.range_matchers
        for each in given.ranges
        if address and address in ip_network(f"{each.address_prefix}/{each.prefix_len.value}")
    ]
    return [on_match for _, on_match in sorted(found, key=lambda each: -each[0])]


def _holds(predicate: MatcherMatcherListPredicate, headers: Headers) -> bool:
    if predicate.or_matcher:
        return any(_holds(each, headers) for each in predicate.or_matcher.predicate)
    if predicate.and_matcher:
        return all(_holds(each, headers) for each in predicate.and_matcher.predicate)
    if predicate.not_matcher:
        return not _holds(predicate.not_matcher, headers)
    single = predicate.single_predicate
    value = _header(single.input, headers)
    if value is None:
        return False
    if single.custom_match:
        config = _read(single.custom_match)
        assert isinstance(config, Ip)
        address = _address(value)
        networks = (ip_network(f"{each.address_prefix}/{each.prefix_len}") for each in config.cidr_ranges)
        return address is not None and any(address in network for network in networks)
    return _fits(single.value_match, value)


def _fits(matcher: StringMatcher, value: str) -> bool:
    if matcher.exact:
        return value == matcher.exact
    if matcher.prefix:
        return value.startswith(matcher.prefix)
    return re.fullmatch(matcher.safe_regex.regex, value) is not None


def _header(given, headers: Headers) -> str | None:
    wanted = _read(given)
    assert isinstance(wanted, HttpRequestHeaderMatchInput)
    return {":method": "GET", **headers}.get(wanted.header_name)


def _address(text: str):
    try:
        return ip_address(text)
    except ValueError:
        return None
