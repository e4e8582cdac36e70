"""Blocks of routes: their look-ups, and the order that routes keep."""

from __future__ import annotations

from uuid import UUID

import pytest

from model.entities import Deny, Match, Pool, Route, ToPools
from tests.translate.matcher_interpreter import decide
from xds.translate import names
from xds.translate.aggregate_clusters import translate_aggregate_cluster
from xds.translate.direct_responses import DirectResponse
from xds.translate.encoding import encode
from xds.translate.gateway_routes import translate_gateway_routes
from xds.translate.matchers import OnMatch
from xds.translate.references import references
from xds.translate.resource_ids import ResourceId
from xds.translate.route_actions import respond
from xds.translate.route_blocks import RouteRule, compile_rules

FLEET = UUID(int=1)
NOTHING: OnMatch = respond(DirectResponse(403, "no"))


def blocks(*matches: Match) -> int:
    return len(compile_rules([RouteRule(match, NOTHING) for match in matches]))


def match(**conditions) -> Match:
    return Match(**{name: frozenset(values) for name, values in conditions.items()})


@pytest.mark.parametrize(
    "make",
    [
        lambda number: match(domains=[f"d{number}.example.com"]),
        lambda number: match(users=[f"u{number}", f"v{number}"]),
        lambda number: match(networks=[f"10.{number // 256}.{number % 256}.0/24"]),
        lambda number: match(sessions=[f"batch-{number}-*"]),
        lambda number: match(ports=[(number + 1, number + 1)], times=[]),
        lambda number: match(domains=[f"d{number}.example.com"], groups=[f"g{number}"]),
        lambda number: (
            match(countries=[f"{number:03}"]) if number % 2 else match(countries=[f"{number:03}"], users=["a"])
        ),
    ],
    ids=["domains", "users", "networks", "sessions", "ports", "two conditions", "one of two conditions"],
)
def test_routes_with_a_common_condition_are_one_block(make):
    assert blocks(*map(make, range(1000))) == 1


def test_routes_without_a_common_condition_are_separate_blocks():
    assert blocks(match(users=["a"]), match(domains=["x.com"]), match(countries=["de"]), match()) == 4


def test_route_joins_earlier_block_past_disjoint_ones():
    german = match(countries=["de"], users=["a"])
    american = match(countries=["us"], domains=["x.com"])
    assert blocks(german, american, match(countries=["de"], users=["b"])) == 1
    assert blocks(match(users=["a"]), match(domains=["x.com"]), match(users=["b"])) == 3


def test_route_behind_less_specific_one_begins_a_block():
    assert blocks(match(domains=["example.com"]), match(domains=["www.example.com"])) == 2
    assert blocks(match(domains=["www.example.com"]), match(domains=["example.com"])) == 1
    assert blocks(match(networks=["10.0.0.0/8"]), match(networks=["10.1.0.0/16"])) == 2
    assert blocks(match(sessions=["b*"]), match(sessions=["batch*"])) == 2


def test_compiled_size_grows_linearly_with_routes():
    def size(count: int) -> int:
        routes = [
            Route(
                UUID(int=number), FLEET, f"r{number}", number, True, match(domains=[f"d{number}.com"]), Deny(403, "no")
            )
            for number in range(count)
        ]
        return len(encode(translate_gateway_routes([], routes)))

    assert size(1000) - size(0) < 11 * (size(100) - size(0))


def routed(*routes: Route, **headers: str):
    pool = Pool(UUID(int=9), FLEET, "us", "us")
    intent = {getattr(names, name): value for name, value in headers.items()}
    return decide(encode(translate_gateway_routes([pool], routes)), intent, tunnel=True)


def route(position: int, name: str, action=None, *, enabled: bool = True, **conditions) -> Route:
    given = action or Deny(403, name)
    return Route(UUID(int=100 + position), FLEET, name, position, enabled, match(**conditions), given)


def test_first_route_by_position_then_name_decides():
    assert routed(route(2, "c"), route(1, "b"), route(1, "a")).text == "a"


def test_disabled_route_decides_nothing():
    assert routed(route(1, "a", enabled=False), route(2, "b")).text == "b"


def test_less_specific_route_ahead_decides():
    general, special = route(1, "general", domains=["example.com"]), route(2, "special", domains=["www.example.com"])
    assert routed(general, special, TARGET_DOMAIN="com.example.www.").text == "general"


def test_domain_matches_whole_labels_only():
    assert routed(route(1, "a", domains=["ample.com"]), TARGET_DOMAIN="com.example.").status == 400


@pytest.mark.parametrize("others", [0, 1, 20], ids=["alone", "beside another", "in a table"])
def test_exact_session_matches_itself_and_no_longer_one(others):
    exact = route(1, "exact", sessions=["batch-1"])
    rest = [
        *(route(2 + each, f"other-{each}", sessions=[f"other-{each}"]) for each in range(others)),
        route(99, "rest"),
    ]
    assert routed(exact, *rest, SESSION="batch-1").text == "exact"
    assert routed(exact, *rest, SESSION="batch-10").text == "rest"
    assert routed(exact, *rest, SESSION="batch").text == "rest"


def test_route_to_missing_pools_answers_503():
    there = ToPools(((UUID(int=404), 1),), (UUID(int=405),))
    outcome = routed(route(1, "lost", there))
    assert (outcome.status, outcome.text) == (503, "exitplane: the pools that route lost leads to are gone\n")


def test_route_to_missing_pools_uses_its_fallback():
    outcome = routed(route(1, "lost", ToPools(((UUID(int=404), 1),), (UUID(int=9),))))
    assert outcome.clusters == ((f"pool/{UUID(int=9)}", 1),)


@pytest.mark.slow
@pytest.mark.parametrize("many", [60, 5_000])
def test_list_of_served_locations_is_bounded(many):
    pools = [Pool(UUID(int=number), FLEET, f"pool-{number:04}", "de", f"city{number:04}" * 5) for number in range(many)]
    body = encode(translate_gateway_routes(pools))
    for headers in ({"REQUESTED_POOL": "none"}, {"REQUESTED_COUNTRY": "de", "REQUESTED_CITY": "none"}):
        outcome = decide(body, {getattr(names, name): value for name, value in headers.items()}, tunnel=False)
        assert outcome.status == 404
        assert len(outcome.text) < 3_000
        assert " more\n" in outcome.text
        assert outcome.text.count(",") < 50


def test_routes_refer_to_aggregate_clusters_and_those_to_pools():
    pools = [Pool(UUID(int=number), FLEET, f"p{number}", f"c{number}") for number in (7, 8)]
    there = route(1, "there", ToPools(((pools[0].id, 1),), (pools[1].id,)))
    aggregate = ResourceId(names.CLUSTER, names.aggregate_cluster(pool.id for pool in pools))
    assert aggregate in references(names.ROUTE, names.GATEWAY_ROUTES, encode(translate_gateway_routes(pools, [there])))
    body = encode(translate_aggregate_cluster(pools))
    assert references(*(aggregate.type_url, aggregate.name), body) == {
        ResourceId(names.CLUSTER, names.pool_cluster(pool)) for pool in pools
    }
