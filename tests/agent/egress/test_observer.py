"""When an exit is looked at, what of it is told, and what a service that fails takes away."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from agent.config.option_parsing import BadSetting
from agent.config.status import HealthState, Observation, StatusBoard
from agent.egress.http_sources import BODY_MAX
from agent.egress.observer import NOT_YET, Observer
from agent.egress.speed import SPEED_FIELDS
from agent.net import dns_client
from model.endpoint import Endpoint
from tests.agent.egress.conftest import IPINFO, an_exit, saying
from tests.agent.egress.mmdb import a_country, mmdb
from tests.tasks import running

SEEN = Observation("198.51.100.9", "us", "Ashburn", "AS64500 Example", "America/New_York")


@asynccontextmanager
async def observing(exit_, board, **more):
    async with running(Observer(exit_, board, **more).run()):
        yield


def told(board) -> Observation:
    """What the board has, but for the round-trip time."""
    return replace(board.report.observation, rtt_ms=None)


async def look(exit_, **more) -> Observation:
    return (await Observer(exit_, StatusBoard(), **more).look()).observation


def up() -> StatusBoard:
    board = StatusBoard()
    board.update(tunnel=HealthState.UP)
    return board


async def test_a_source_is_asked_from_the_exits_own_address(source):
    assert await look(an_exit(source.url, egress_address="127.0.0.9")) == SEEN
    assert source.asked == ["127.0.0.9"]


async def test_an_interface_that_is_not_there_reaches_no_source(source):
    seen = await look(an_exit(source.url, tunnel_interface="nowhere0"), route=lambda *_: "nowhere0")
    assert (seen.country, seen.trouble) == (None, "127.0.0.1: it cannot be reached")
    assert source.asked == []


@pytest.mark.parametrize(
    ("said", "trouble"),
    [
        (web.Response(status=500), "it answers 500"),
        (web.Response(status=302, headers={"Location": "/json"}), "it answers 302"),
        (web.Response(body=b" " * (BODY_MAX + 1)), "it answers too much"),
        (web.Response(body=b"<html>"), "it answers what is no JSON"),
    ],
)
async def test_a_source_that_says_nothing_of_use_is_no_crash(source, said, trouble):
    source.say(said)
    assert (await look(an_exit(source.url))).trouble == f"127.0.0.1: {trouble}"


async def test_an_exit_is_looked_at_when_its_tunnel_comes_up_and_not_before(source, until):
    board = StatusBoard()
    async with observing(an_exit(source.url), board):
        await until(lambda: board.report.observation == NOT_YET)
        assert source.asked == []
        board.update(tunnel=HealthState.UP)
        await until(lambda: told(board) == SEEN)
        assert 0 < board.report.observation.rtt_ms < 1000
        board.update(tunnel=HealthState.DOWN)
        await until(lambda: board.report.observation == NOT_YET)
        asked = len(source.asked)
        board.update(tunnel=HealthState.UP)
        await until(lambda: told(board) == SEEN)
        assert len(source.asked) == asked + 1


async def test_an_address_that_changes_is_told_with_its_time_and_the_one_before(source, until):
    board, now = up(), datetime(2026, 1, 1, 12, tzinfo=UTC)
    exit_ = an_exit(source.url, observe_every_s=0.01)
    with capture_logs() as logs:
        async with observing(exit_, board, clock=lambda: now):
            await until(lambda: told(board) == SEEN)
            source.say(IPINFO | {"ip": "198.51.100.10"})
            await until(lambda: board.report.observation.address == "198.51.100.10")
            changed = board.report.observation
            # also where the tunnel was down in between
            board.update(tunnel=HealthState.DOWN)
            source.say(IPINFO | {"ip": "198.51.100.11"})
            board.update(tunnel=HealthState.UP)
            await until(lambda: board.report.observation.address == "198.51.100.11")
    assert (changed.previous_address, changed.changed_at) == ("198.51.100.9", now)
    assert board.report.observation.previous_address == "198.51.100.10"
    changes = [(each["previous"], each["address"]) for each in logs if each["event"] == "observation.address_changed"]
    assert changes == [("198.51.100.9", "198.51.100.10"), ("198.51.100.10", "198.51.100.11")]


async def test_a_source_that_fails_while_the_tunnel_stays_up_is_borne(source, until):
    board = up()
    with capture_logs() as logs:
        async with observing(an_exit(source.url, observe_every_s=0.01), board, again_s=0.01):
            await until(lambda: told(board) == SEEN)
            source.say(web.Response(status=503))
            asked = len(source.asked)
            await until(lambda: len(source.asked) > asked + 2)
            assert told(board) == SEEN
            source.say(IPINFO | {"country": "FR"})
            await until(lambda: board.report.observation.country == "fr")
    assert [each["event"] for each in logs].count("observation") == 2
    assert any(each["event"] == "observation.failed" for each in logs)


async def test_another_address_that_nobody_can_place_is_not_borne(source, until):
    board = up()
    async with observing(an_exit(source.url, observe_every_s=0.01), board, again_s=0.01):
        await until(lambda: told(board) == SEEN)
        source.say({"ip": "198.51.100.9"})
        asked = len(source.asked)
        await until(lambda: len(source.asked) > asked + 2)
        assert told(board) == SEEN
        source.say({"ip": "203.0.113.5"})
        await until(lambda: board.report.observation.country is None)
        assert board.report.observation.trouble == "127.0.0.1: nobody says where 203.0.113.5 is"


async def test_until_a_source_is_of_use_it_is_asked_again_soon(source, until):
    board = up()
    source.say(web.Response(status=503))
    async with observing(an_exit(source.url), board, again_s=0.01):
        await until(lambda: len(source.asked) > 3)
        assert board.report.observation.trouble == "127.0.0.1: it answers 503"
        source.say(IPINFO)
        await until(lambda: told(board) == SEEN)


async def test_change_of_the_network_ends_the_rest(source, until):
    """A leak may have begun with it; the next look would be in five minutes."""
    board = up()
    async with observing(an_exit(source.url, observe_every_s=300), board):
        await until(lambda: told(board) == SEEN)
        assert len(source.asked) == 1
        source.say(IPINFO | {"country": "FR"})
        board.update(network_changes=board.report.network_changes + 1)
        await until(lambda: board.report.observation.country == "fr", timeout_s=60)
    assert len(source.asked) == 2


async def test_news_that_are_no_change_of_the_network_do_not_end_the_rest(source, until):
    board = up()
    async with observing(an_exit(source.url, observe_every_s=300), board):
        await until(lambda: told(board) == SEEN)
        for settled in range(1, 20):
            board.update(orders_settled=settled)
            await asyncio.sleep(0)
        asked = source.asked.copy()
        board.update(network_changes=board.report.network_changes + 1)
        await until(lambda: len(source.asked) == 2, timeout_s=60)
    assert len(asked) == 1


async def test_noise_in_the_round_trip_is_no_news(source, until, monkeypatch):
    board, times = up(), iter([20.0, 23.0, 18.0, *[90.0] * 9_999])
    heard = []

    async def measure(*_):
        return next(times)

    monkeypatch.setattr("agent.egress.observer.measure_rtt_ms", measure)
    update = board.update
    monkeypatch.setattr(board, "update", lambda **changes: (heard.append(changes), update(**changes)))
    async with observing(an_exit(source.url, observe_every_s=0.01), board):
        await until(lambda: board.report.observation.rtt_ms == 90)
    assert {each["observation"].rtt_ms for each in heard} == {None, 20.0, 90.0}


async def test_a_speed_that_was_measured_stays_with_what_is_seen_later(source, until):
    board = up()
    async with observing(an_exit(source.url, observe_every_s=0.01), board):
        await until(lambda: told(board) == SEEN)
        measured = {"download_mbps": 9.5, "upload_mbps": 1.5, "speed_measured_at": datetime(2026, 1, 1, tzinfo=UTC)}
        assert set(measured) == SPEED_FIELDS
        board.update(observation=replace(board.report.observation, **measured))
        source.say(IPINFO | {"country": "FR"})
        await until(lambda: board.report.observation.country == "fr")
    assert board.report.observation.download_mbps == 9.5


# -- the Geo-IP file and the service for addresses ---------------------------------------------------------------------


async def test_a_file_names_the_country_where_no_source_does(source, tmp_path):
    path = tmp_path / "geo.mmdb"
    path.write_bytes(mmdb({"198.51.100.0/24": a_country("US")}))
    source.say({"ip": "198.51.100.9"})
    observer = Observer(an_exit(source.url, geoip=path), StatusBoard())
    seen = (await observer.look()).observation
    assert (seen.country, seen.city, seen.trouble) == ("us", "US City", "")
    path.write_bytes(mmdb({"198.51.100.0/24": a_country("FR")}))
    source.say(IPINFO)
    seen = (await observer.look()).observation
    assert (seen.country, seen.disagreement) == (
        "us",
        "127.0.0.1 sees 198.51.100.9 in us, the Geo-IP file has it in fr",
    )
    observer._locator.close()


async def test_a_file_of_no_use_is_a_bad_setting(source, tmp_path):
    with pytest.raises(BadSetting, match="--geoip"):
        Observer(an_exit(source.url, geoip=tmp_path / "none"), StatusBoard())


async def test_a_service_for_addresses_is_asked_where_nobody_else_knows(source, make_source):
    service = await make_source("127.0.0.2", IPINFO | {"country": "JP"})
    source.say({"ip": "198.51.100.9"})
    assert (await look(an_exit(source.url, locate=service.url))).country == "jp"
    assert service.paths == ["/json/198.51.100.9"]
    service.say(IPINFO | {"ip": "198.51.100.1"})
    assert (
        await look(an_exit(source.url, locate=service.url))
    ).trouble == "127.0.0.1: nobody says where 198.51.100.9 is"


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    """Resolvers that say nothing are not waited for long."""
    monkeypatch.setattr(dns_client, "WAITS_S", (0.1, 0.1))


async def test_resolvers_in_the_exits_country_verify_it(source, make_resolver):
    resolver = await make_resolver(saying('TXT "ip=198.51.100.53" "country=us"'))
    seen = await look(an_exit(source.url, dns_zone="who.example.net"), resolvers=lambda _: [resolver.endpoint])
    assert seen == replace(SEEN, resolver="198.51.100.53 in us")


async def test_a_resolver_elsewhere_is_a_leak(source, make_resolver):
    resolver = await make_resolver(saying('TXT "ip=192.0.2.53" "country=jp" "network=AS1 ISP"'))
    seen = await look(an_exit(source.url, dns_zone="who.example.net"), resolvers=lambda _: [resolver.endpoint])
    assert (
        seen.leak == "its names are resolved by 192.0.2.53 (AS1 ISP) in jp, outside the tunnel, which comes out in us"
    )


async def test_the_service_for_addresses_places_a_resolver(source, make_source, make_resolver):
    service = await make_source("127.0.0.2", {"query": "192.0.2.53", "countryCode": "JP"})
    resolver = await make_resolver(saying("TXT 192.0.2.53"))
    exit_ = an_exit(source.url, dns_zone="who.example.net", locate=service.url)
    assert "192.0.2.53 in jp" in (await look(exit_, resolvers=lambda _: [resolver.endpoint])).leak


@pytest.mark.usefixtures("impatient")
async def test_an_exit_whose_zone_cannot_be_asked_is_not_verified(source, make_resolver):
    resolver = await make_resolver(lambda _: [])
    seen = await look(an_exit(source.url, dns_zone="who.example.net"), resolvers=lambda _: [resolver.endpoint])
    assert (seen.address, seen.country) == ("198.51.100.9", None)
    assert seen.trouble == "resolver 127.0.0.1: it does not answer in time"


@pytest.mark.usefixtures("impatient")
async def test_a_zone_that_fails_is_borne_until_other_resolvers_are_asked(source, make_resolver, until):
    good = saying('TXT "ip=198.51.100.53" "country=us"')
    resolver, board = await make_resolver(good), up()
    asked = [resolver.endpoint]
    exit_ = an_exit(source.url, dns_zone="who.example.net", observe_every_s=0.01)
    async with observing(exit_, board, again_s=0.01, resolvers=lambda _: asked):
        await until(lambda: board.report.observation.country == "us")
        resolver.reply = lambda _: [b"garbage"]
        looks = len(source.asked)
        await until(lambda: len(source.asked) > looks + 2)
        assert board.report.observation.country == "us"
        asked[:] = [Endpoint("127.0.0.1", 1)]
        await until(lambda: board.report.observation.country is None)
        assert board.report.observation.trouble == "resolver 127.0.0.1: it cannot be reached"


@pytest.mark.usefixtures("impatient")
async def test_a_leak_is_told_until_it_is_seen_to_be_mended(source, make_resolver, until):
    leaking, board = saying('TXT "ip=192.0.2.53" "country=jp"'), up()
    resolver = await make_resolver(leaking)
    exit_ = an_exit(source.url, dns_zone="who.example.net", observe_every_s=0.01)
    async with observing(exit_, board, again_s=0.01, resolvers=lambda _: [resolver.endpoint]):
        await until(lambda: board.report.observation.leak)
        resolver.reply = lambda _: []
        looks = len(source.asked)
        await until(lambda: len(source.asked) > looks + 2)
        assert board.report.observation.leak
        resolver.reply = saying('TXT "ip=198.51.100.53" "country=us"')
        await until(lambda: not board.report.observation.leak)
