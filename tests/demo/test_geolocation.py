"""Tests of the demo's geolocation service and of its map."""

import json
from ipaddress import IPv4Network

import pytest
from aiohttp import ClientSession, ClientTimeout
from aiohttp.test_utils import TestServer

from agent.egress.answer_formats import parse_answer
from agent.egress.types import Location, SeenAddress, UnusableAnswer
from demo.geo_map import HOST_COUNTRY, GeoMap, build_geo_map
from demo.internet import create_app
from demo.plan import PAGE_NAME, plan_loopback, plan_tunnels

GEO_MAP = GeoMap({"127.0.0.1": "us", "198.51.100.1": "jp"})


@pytest.fixture
async def ask():
    """Request a path of the service: `await ask(path)`; with `override`, PUT it there."""
    async with TestServer(create_app(GEO_MAP), host="127.0.0.1") as server, ClientSession() as session:

        async def send(path, override=None, timeout_s=60):
            async with session.request(
                "GET" if override is None else "PUT",
                server.make_url(path),
                data=override,
                timeout=ClientTimeout(timeout_s),
            ) as response:
                return await response.read()

        yield send


@pytest.mark.parametrize("path", ["/ipinfo", "/ip-api"])
async def test_json_formats_locate_the_caller_and_any_address(ask, path):
    seen = parse_answer(await ask(path))
    assert seen == SeenAddress("127.0.0.1", Location("us", "US City", "AS64500 US Network", "Etc/UTC"))
    assert parse_answer(await ask(f"{path}/198.51.100.1")).location.country == "jp"


async def test_trace_locates_the_caller(ask):
    assert parse_answer(await ask("/trace")) == SeenAddress("127.0.0.1", Location("us"))


async def test_unknown_address_is_answered_as_the_real_services_do(ask):
    assert json.loads(await ask("/ipinfo/10.0.0.1")) == {"ip": "10.0.0.1", "bogon": True}
    with pytest.raises(UnusableAnswer, match="reserved range"):
        parse_answer(await ask("/ip-api/10.0.0.1"))


async def test_override_changes_one_format_only(ask):
    await ask("/ipinfo", "fr")
    assert parse_answer(await ask("/ipinfo")).location.country == "fr"
    assert parse_answer(await ask("/ip-api")).location.country == "us"
    await ask("/ipinfo", "html")
    with pytest.raises(UnusableAnswer, match="not JSON"):
        parse_answer(await ask("/ipinfo"))
    await ask("/ipinfo", "silent")
    with pytest.raises(TimeoutError):
        await ask("/ipinfo", timeout_s=0.5)
    await ask("/ipinfo", "")
    assert parse_answer(await ask("/ipinfo")).location.country == "us"


async def test_address_can_move_to_another_country(ask):
    await ask("/ipinfo/198.51.100.1", "gb")
    assert parse_answer(await ask("/ip-api/198.51.100.1")).location.country == "gb"


async def test_geolocation_requests_are_not_counted(ask):
    for path in ("/ipinfo", "/ip-api/198.51.100.1", "/trace", "/seen"):
        await ask(path)
    assert json.loads(await ask("/seen")) == {}


def test_geo_map_has_every_address_of_a_plan():
    plan = plan_tunnels(3, ("us", "us", "jp"), IPv4Network("192.0.2.0/24"))
    geo_map = build_geo_map(plan)
    assert [geo_map.countries[str(site.egress_address)] for site in plan.sites] == ["us", "us", "jp"]
    assert [geo_map.countries[resolver] for resolver in geo_map.resolvers] == ["us", "jp"]
    # everything outside the tunnels is in a country without exits
    for address in (plan.host_address, *(site.address for site in plan.sites)):
        assert geo_map.countries[str(address)] == HOST_COUNTRY
    assert geo_map.hosts == {PAGE_NAME: str(plan.page_address)}
    assert GeoMap.from_json(geo_map.to_json()) == geo_map


def test_twelve_countries_have_resolvers_on_the_pages_network():
    plan = plan_tunnels(15, tuple(f"a{letter}" for letter in "abcdefghijkl"), IPv4Network("192.0.2.0/24"))
    addresses = [plan.page_address, plan.name_server, *(plan.resolver_of(site.country) for site in plan.sites)]
    assert len(set(addresses)) == 14
    assert all(address in plan.page_network for address in addresses)


def test_plan_without_tunnels_has_no_name_servers():
    geo_map = build_geo_map(plan_loopback(0, ("us", "jp")))
    assert (geo_map.authority, geo_map.resolvers, geo_map.hosts) == (None, (), {})
    assert set(geo_map.countries.values()) == {"us", "jp", HOST_COUNTRY}
