"""Explanations of requests: the intent and its source, the tried routes, and the exits that would serve."""

from __future__ import annotations

from uuid import UUID

import pytest

from model.entities import (
    Allow,
    Deny,
    Exit,
    Fleet,
    Listener,
    Match,
    Pool,
    Route,
    ServerCertificate,
    ToPools,
    User,
    Window,
)
from model.exit_states import ExitState
from model.locality import Locality
from model.world import World, put
from xds.translate.client_intent import IntentSource, RequestedLocation
from xds.translate.explain import ExplainRequest, explain
from xds.translate.match_failures import MatchFailure

FLEET = UUID(int=1)
US = Pool(UUID(int=11), FLEET, "us", "us")
BERLIN = Pool(UUID(int=12), FLEET, "berlin", "de", "berlin")
MUNICH = Pool(UUID(int=13), FLEET, "munich", "de", "munich")
FIRST, SECOND = UUID(int=2), UUID(int=3)


def make(*routes: Route, exits: list[Exit] = ()) -> World:
    listeners = [
        Listener(FIRST, FLEET, "127.0.0.1", 1),
        Listener(
            *(SECOND, FLEET, "127.0.0.1", 2, "second", "us"),
            certificate_id=UUID(int=4),
            countries_by_server_name=(("de.example.com", "de"),),
        ),
    ]
    certificate = ServerCertificate(UUID(int=4), FLEET, "c", "chain", "key")
    users = [User(UUID(int=41), FLEET, "alice", "staff")]
    given = [Fleet(FLEET, "x"), *listeners, certificate, US, BERLIN, MUNICH, *users, *routes, *exits]
    return World().changed(1, map(put, given))


def route(number: int, match: Match, action=None) -> Route:
    return Route(UUID(int=20 + number), FLEET, f"r{number}", number, True, match, action or Deny(403, "no"))


def explain_request(world: World, **given):
    return explain(world, FLEET, ExplainRequest("www.example.com", 443, **given))


@pytest.mark.parametrize(
    ("given", "source", "place"),
    [
        ({}, IntentSource.NOTHING, RequestedLocation()),
        ({"listener_id": SECOND}, IntentSource.LISTENER, RequestedLocation("us")),
        ({"listener_id": SECOND, "server_name": "DE.example.com"}, IntentSource.SERVER_NAME, RequestedLocation("de")),
        ({"listener_id": SECOND, "server_name": "x.example.com"}, IntentSource.LISTENER, RequestedLocation("us")),
        ({"listener_id": FIRST, "server_name": "de.example.com"}, IntentSource.NOTHING, RequestedLocation()),
        (
            {"listener_id": SECOND, "server_name": "de.example.com", "user_name": "alice-pool-us"},
            IntentSource.USER_NAME,
            RequestedLocation(pool="us"),
        ),
        (
            {"user_name": "alice-country-de", "location": RequestedLocation("UK")},
            IntentSource.HEADERS,
            RequestedLocation("gb"),
        ),
    ],
)
def test_first_source_with_a_location_decides(given, source, place):
    explained = explain_request(make(), **given)
    assert (explained.intent.source, explained.intent.location) == (source, place)


@pytest.mark.parametrize(
    ("match", "failed"),
    [
        (Match(countries=frozenset({"de"}), users=frozenset({"bob"})), MatchFailure.COUNTRY),
        (Match(cities=frozenset({"berlin"})), MatchFailure.CITY),
        (Match(pools=frozenset({"us"})), MatchFailure.POOL),
        (Match(sessions=frozenset({"*"})), MatchFailure.SESSION),
        (Match(users=frozenset({"bob"})), MatchFailure.USER),
        (Match(groups=frozenset({"guests"})), MatchFailure.GROUP),
        (Match(domains=frozenset({"w.example.com", "ww.example.com"})), MatchFailure.DOMAIN),
        (Match(networks=frozenset({"0.0.0.0/0"})), MatchFailure.NETWORK),
        (Match(ports=frozenset({(80, 442), (444, 65535)})), MatchFailure.PORT),
        (Match(times=frozenset({Window(frozenset({1}), 0, 1440)})), MatchFailure.TIME),
        (Match(times=frozenset({Window(frozenset({6}), 1380, 0)})), MatchFailure.TIME),
        (Match(times=frozenset({Window(frozenset({6}), 1380, 1)})), None),
        (Match(users=frozenset({"alice"}), groups=frozenset({"staff", "guests"}), domains=frozenset({"com"})), None),
    ],
)
def test_tried_route_reports_its_first_failed_condition(match, failed):
    (tried,) = explain_request(
        make(route(1, match)), user_name="alice", location=RequestedLocation("us"), day=0, minute=0
    ).tried
    assert tried.failed == failed


def test_routes_after_the_deciding_one_are_not_tried():
    world = make(route(1, Match(countries=frozenset({"de"}))), route(2, Match()), route(3, Match()))
    explained = explain_request(world, location=RequestedLocation("us"))
    assert [(each.route.name, each.failed) for each in explained.tried] == [("r1", MatchFailure.COUNTRY), ("r2", None)]
    assert explained.refusal.status == 403
    assert explained.paths == ()


def test_allowed_request_takes_its_default_route():
    world = make(route(1, Match(groups=frozenset({"staff"})), Allow()), route(2, Match()))
    (way,) = explain_request(world, user_name="alice-country-us").paths
    assert [each.pool for each in way.pools] == [US]
    assert explain_request(world, user_name="bob-country-us").refusal.status == 403
    assert explain_request(world, user_name="alice-country-fr").refusal.status == 404


def test_pools_are_listed_in_order_of_use():
    world = make(route(1, Match(), ToPools(((US.id, 3), (BERLIN.id, 1)), (MUNICH.id, US.id))))
    ways = [(way.weight, [each.pool.name for each in way.pools]) for way in explain_request(world).paths]
    assert ways == [(3, ["us", "berlin", "munich"]), (1, ["berlin", "us", "munich"])]


def test_country_uses_all_its_cities_and_city_never_its_country():
    ways = [
        (way.weight, [each.pool.name for each in way.pools])
        for way in explain_request(make(), location=RequestedLocation("de")).paths
    ]
    assert ways == [(1, ["berlin", "munich"]), (1, ["munich", "berlin"])]
    refusal = explain_request(make(), location=RequestedLocation("de", "hamburg")).refusal
    assert (refusal.status, "served in de are: berlin, munich" in refusal.text) == (404, True)
    assert explain_request(make(), location=RequestedLocation("us", "austin")).refusal.status == 404
    assert explain_request(make(), location=RequestedLocation(city="berlin")).refusal.status == 400


@pytest.mark.parametrize("host", ["203.0.113.002", "0203.0.113.2", "203.0.28930", "3405803778", "0xcb.0.113.2", ""])
def test_address_in_unusual_form_passes_no_route(host):
    world = make(route(1, Match(), Allow()))
    explained = explain(world, FLEET, ExplainRequest(host, 443, user_name="alice-country-us"))
    assert (explained.refusal.status, explained.tried) == (400, ())


def test_exits_are_listed_near_first_with_reasons():
    def exit_(number: int, state=ExitState.HEALTHY, endpoint="192.0.2.1", place=None) -> Exit:
        return Exit(UUID(int=50 + number), US.id, f"e{number}", endpoint, 1, state, locality=place)

    near, far = Locality("eu", "a"), Locality("us")
    exits = [exit_(1, ExitState.LOST), exit_(2, endpoint=None), exit_(3, place=far), exit_(4, place=near)]
    explained = explain(make(exits=exits), FLEET, ExplainRequest("x", 1, location=RequestedLocation("us")), near)
    ((pool,),) = (way.pools for way in explained.paths)
    assert [(each.exit.name, each.distance, each.why_not) for each in pool.exits] == [
        ("e4", 0, ""),
        ("e3", 2, ""),
        ("e1", 2, "it is lost"),
        ("e2", 2, "its address is not resolved yet"),
    ]


def test_unknown_listener_has_no_explanation():
    assert explain_request(make(), listener_id=UUID(int=99)) is None
    assert explain(World(), FLEET, ExplainRequest("x", 1)) is None
