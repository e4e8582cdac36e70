"""Compiled routes decide on random requests as the declared routes do one by one."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from tests.translate.matcher_interpreter import Outcome, decide
from tests.translate.random_worlds import FLEET, Now, intent_headers, make_request, make_world
from xds.translate import names
from xds.translate.encoding import encode
from xds.translate.explain import Explanation, explain
from xds.translate.references import references
from xds.translate.resource_ids import ResourceId
from xds.translate.scopes import GatewayGroup

nows = st.builds(Now, st.integers(0, 6), st.integers(0, 24 * 60 - 1))


def outcome(explained: Explanation) -> Outcome:
    if explained.refusal:
        return Outcome(status=explained.refusal.status, text=explained.refusal.text)
    found = []
    for way in explained.paths:
        pools = [each.pool for each in way.pools]
        aggregate = names.aggregate_cluster(pool.id for pool in pools)
        found.append((names.pool_cluster(pools[0]) if len(pools) == 1 else aggregate, way.weight))
    return Outcome(((found[0][0], 1),) if len(found) == 1 else tuple(found))


@settings(max_examples=scaled(15), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False), nows)
def test_compiled_routes_decide_as_declared_ones(random, now):
    world = make_world(random, now)
    scope = GatewayGroup(FLEET)
    body = encode(scope.translate(world, ResourceId(names.ROUTE, names.GATEWAY_ROUTES)))
    for _ in range(20):
        request = make_request(random, now)
        explained = explain(world, FLEET, request)
        tunnel = random.random() < 0.5
        assert decide(body, intent_headers(explained, request), tunnel=tunnel) == outcome(explained)


@settings(max_examples=scaled(15), deadline=None)
@given(st.randoms(use_true_random=False), nows)
def test_fleet_has_all_resources_that_it_refers_to(random, now):
    world, scope = make_world(random, now), GatewayGroup(FLEET)
    existing = scope.resources(world)
    for each in existing:
        assert references(each.type_url, each.name, encode(scope.translate(world, each))) <= existing


def test_random_requests_cover_all_cases():
    """Check that the random requests of the first test reach every kind of decision."""
    random, seen = Random(1), Counter()
    for _ in range(150):
        now = Now(random.randrange(7), random.randrange(24 * 60))
        world = make_world(random, now)
        for _ in range(20):
            explained = explain(world, FLEET, make_request(random, now))
            seen[explained.intent.source] += 1
            seen[explained.refusal.text.split(";")[0][:40] if explained.refusal else "goes"] += 1
            if explained.tried and explained.tried[-1].failed is None:
                seen[type(explained.tried[-1].route.action).__name__] += 1
            for tried in explained.tried:
                seen[tried.failed] += 1
    assert min(seen.values()) >= 1, seen
    assert len(seen) >= 30, seen
