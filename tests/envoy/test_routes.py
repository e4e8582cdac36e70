"""Decisions of a real gateway equal those of `explain`, for random fleets and requests, by plain HTTP and CONNECT."""

from __future__ import annotations

import base64
import json
from collections import Counter
from datetime import UTC, datetime
from random import Random

import pytest

from tests.envoy.static_gateway import exits, fetch, running, static_fleet
from tests.translate.random_worlds import FLEET, Now, make_request, make_world
from xds.translate import names
from xds.translate.explain import ExplainRequest, Explanation, explain

pytestmark = pytest.mark.envoy
SEED = 7
REQUESTS = 60


def now() -> Now:
    at = datetime.now(UTC)
    return Now(at.weekday(), at.hour * 60 + at.minute)


def ask(port: int, request: ExplainRequest, *, tunnel: bool) -> tuple[int, str]:
    said = {
        names.COUNTRY_HEADER: request.location.country,
        names.CITY_HEADER: request.location.city,
        names.POOL_HEADER: request.location.pool,
        names.SESSION_HEADER: request.session,
    }
    headers = [(name, value) for name, value in said.items() if value]
    if request.user_name:
        credentials = base64.b64encode(f"{request.user_name}:secret".encode()).decode()
        headers.append(("proxy-authorization", f"Basic {credentials}"))
    host = f"[{request.target_host}]" if ":" in request.target_host else request.target_host
    authority = f"{host}:{request.target_port}"
    target = authority if tunnel else f"http://{authority}/x"
    return fetch(port, target, [("Host", authority), *headers], "CONNECT" if tunnel else "GET")


def expected(explained: Explanation) -> set[tuple[int, str]]:
    if explained.refusal:
        return {(explained.refusal.status, explained.refusal.text)}
    return {(200, str(way.pools[0].pool.id)) for way in explained.paths}


def prefixed(static: dict, prefix: str) -> dict:
    """Return static resources with prefixed names, so that several fleets fit into one Envoy."""
    for listener in static["listeners"]:
        listener["name"] = prefix + listener["name"]
    text = json.dumps(static).replace('"pool/', f'"{prefix}pool/').replace('"pools/', f'"{prefix}pools/')
    return json.loads(text)


@pytest.mark.parametrize("fleets", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_gateway_decision_equals_explanation(tmp_path, fleets):
    random, at = Random(SEED), now()
    worlds = [make_world(random, at) for _ in range(fleets)]
    pool_ids = {pool_id for world in worlds for pool_id in world.pools}
    seen = Counter()
    with exits(pool_ids) as ports:
        static: dict = {"listeners": [], "clusters": []}
        for number, world in enumerate(worlds):
            folder = tmp_path / str(number)
            folder.mkdir()
            fleet = static_fleet(world, FLEET, folder, {pool_id: [port] for pool_id, port in ports.items()})
            for kind, found in prefixed(fleet, f"{number}-").items():
                static[kind] += found
        with running(static, tmp_path) as gateway:
            for number, world in enumerate(worlds):
                first = next(each.id for each in world.listeners.values() if each.name == "clients")
                for _ in range(REQUESTS):
                    request, tunnel = make_request(random, at), random.random() < 0.5
                    explained = explain(world, FLEET, request)
                    listener = names.gateway_listener(world.listeners[request.listener_id or first])
                    answered = ask(gateway.ports[f"{number}-{listener}"], request, tunnel=tunnel)
                    if tunnel and explained.refusal and answered[0] == explained.refusal.status:
                        assert answered[1] == explained.refusal.text
                    assert answered in expected(explained), (request, explained.intent, explained.tried[-1:])
                    seen[answered[0]] += 1
    assert seen[200] > 8 * fleets
    assert seen[403] + seen[451] > 2 * fleets
    assert seen[404] > 2 * fleets
    assert seen[400] > 2 * fleets
