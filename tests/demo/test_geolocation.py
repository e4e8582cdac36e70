"""The demo's geolocation: in three formats, for whoever asks or for any address, true or not."""

import json
from ipaddress import IPv4Network

import pytest
from aiohttp import ClientSession, ClientTimeout
from aiohttp.test_utils import TestServer

from agent.egress.answer_formats import parse_answer
from agent.egress.types import Location, SeenAddress, UnusableAnswer
from demo.geo_map import HOST_COUNTRY, GeoMap, atlas_of
from demo.internet import create_app
from demo.plan import PAGE_NAME, plan_loopback, plan_tunnels

ATLAS = GeoMap({"127.0.0.1": "us", "198.51.100.1": "jp"})


@pytest.fixture
async def ask():
    """`await ask(path)`: what the service answers; with `told`, what it is told there."""
    async with TestServer(create_app(ATLAS), host="127.0.0.1") as server, ClientSession() as session:

        async def asking(path, told=None, timeout_s=60):
            async with session.request(
                "GET" if told is None else "PUT", server.make_url(path), data=told, timeout=ClientTimeout(timeout_s)
            ) as response:
                return await response.read()

        yield asking


@pytest.mark.parametrize("path", ["/ipinfo", "/ip-api"])
async def test_json_says_where_the_caller_and_any_address_is(ask, path):
    seen = parse_answer(await ask(path))
    assert seen == SeenAddress("127.0.0.1", Location("us", "US City", "AS64500 US Network", "Etc/UTC"))
    assert parse_answer(await ask(f"{path}/198.51.100.1")).location.country == "jp"


async def test_a_trace_says_where_the_caller_is(ask):
    assert parse_answer(await ask("/trace")) == SeenAddress("127.0.0.1", Location("us"))


async def test_an_unknown_address_is_answered_as_the_services_do(ask):
    assert json.loads(await ask("/ipinfo/10.0.0.1")) == {"ip": "10.0.0.1", "bogon": True}
    with pytest.raises(UnusableAnswer, match="reserved range"):
        parse_answer(await ask("/ip-api/10.0.0.1"))


async def test_it_lies_when_it_is_told_to_and_each_format_for_itself(ask):
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


async def test_an_address_can_move(ask):
    await ask("/ipinfo/198.51.100.1", "gb")
    assert parse_answer(await ask("/ip-api/198.51.100.1")).location.country == "gb"


async def test_who_asks_where_he_is_is_not_counted(ask):
    for path in ("/ipinfo", "/ip-api/198.51.100.1", "/trace", "/seen"):
        await ask(path)
    assert json.loads(await ask("/seen")) == {}


def test_every_address_of_a_demo_has_its_place():
    plan = plan_tunnels(3, ("us", "us", "jp"), IPv4Network("192.0.2.0/24"))
    atlas = atlas_of(plan)
    assert [atlas.places[str(site.egress_address)] for site in plan.sites] == ["us", "us", "jp"]
    assert [atlas.places[resolver] for resolver in atlas.resolvers] == ["us", "jp"]
    # whatever is beside the tunnels is where no exit is
    for address in (plan.host_address, *(site.address for site in plan.sites)):
        assert atlas.places[str(address)] == HOST_COUNTRY
    assert atlas.hosts == {PAGE_NAME: str(plan.page_address)}
    assert GeoMap.from_json(atlas.to_json()) == atlas


def test_twelve_countries_have_a_resolver_each_on_the_pages_network():
    plan = plan_tunnels(15, tuple(f"a{letter}" for letter in "abcdefghijkl"), IPv4Network("192.0.2.0/24"))
    addresses = [plan.page_address, plan.name_server, *(plan.resolver_of(site.country) for site in plan.sites)]
    assert len(set(addresses)) == 14
    assert all(address in plan.page_network for address in addresses)


def test_without_tunnels_names_are_this_hosts_business():
    atlas = atlas_of(plan_loopback(0, ("us", "jp")))
    assert (atlas.authority, atlas.resolvers, atlas.hosts) == (None, (), {})
    assert set(atlas.places.values()) == {"us", "jp", HOST_COUNTRY}
