"""The observer: its schedule, its reports, and services that fail."""

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
from agent.egress.http_sources import BODY_MAX_BYTES
from agent.egress.observer import NOT_OBSERVED, Observer
from agent.egress.speed import SPEED_FIELDS
from agent.net import dns_client
from model.endpoint import Endpoint
from tests.agent.egress.conftest import IPINFO, an_exit, answering
from tests.agent.egress.mmdb import a_country, mmdb
from tests.tasks import running

SEEN = Observation("198.51.100.9", "us", "Ashburn", "AS64500 Example", "America/New_York")


@asynccontextmanager
async def observing(exit_, board, **more):
    async with running(Observer(exit_, board, **more).run()):
        yield


def observed(board) -> Observation:
    """Return the board's observation without its round-trip time."""
    return replace(board.report.observation, rtt_ms=None)


async def observe(exit_, **more) -> Observation:
    return (await Observer(exit_, StatusBoard(), **more).observe()).observation


def up() -> StatusBoard:
    board = StatusBoard()
    board.update(tunnel=HealthState.UP)
    return board


async def test_source_is_queried_from_egress_address(source):
    assert await observe(an_exit(source.url, egress_address="127.0.0.9")) == SEEN
    assert source.clients == ["127.0.0.9"]


async def test_missing_interface_reaches_no_source(source):
    seen = await observe(an_exit(source.url, tunnel_interface="nowhere0"), route=lambda *_: "nowhere0")
    assert (seen.country, seen.error) == (None, "127.0.0.1: it cannot be reached")
    assert source.clients == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (web.Response(status=500), "it answers 500"),
        (web.Response(status=302, headers={"Location": "/json"}), "it answers 302"),
        (web.Response(body=b" " * (BODY_MAX_BYTES + 1)), f"its answer exceeds {BODY_MAX_BYTES} bytes"),
        (web.Response(body=b"<html>"), "its answer is not JSON"),
    ],
)
async def test_unusable_answer_is_error(source, answer, error):
    source.respond(answer)
    assert (await observe(an_exit(source.url))).error == f"127.0.0.1: {error}"


async def test_observation_starts_when_tunnel_comes_up(source, until):
    board = StatusBoard()
    async with observing(an_exit(source.url), board):
        await until(lambda: board.report.observation == NOT_OBSERVED)
        assert source.clients == []
        board.update(tunnel=HealthState.UP)
        await until(lambda: observed(board) == SEEN)
        assert 0 < board.report.observation.rtt_ms < 1000
        board.update(tunnel=HealthState.DOWN)
        await until(lambda: board.report.observation == NOT_OBSERVED)
        count = len(source.clients)
        board.update(tunnel=HealthState.UP)
        await until(lambda: observed(board) == SEEN)
        assert len(source.clients) == count + 1


async def test_changed_address_is_reported_with_time_and_previous_one(source, until):
    board, now = up(), datetime(2026, 1, 1, 12, tzinfo=UTC)
    exit_ = an_exit(source.url, observe_every_s=0.01)
    with capture_logs() as logs:
        async with observing(exit_, board, clock=lambda: now):
            await until(lambda: observed(board) == SEEN)
            source.respond(IPINFO | {"ip": "198.51.100.10"})
            await until(lambda: board.report.observation.address == "198.51.100.10")
            changed = board.report.observation
            # also after the tunnel was down
            board.update(tunnel=HealthState.DOWN)
            source.respond(IPINFO | {"ip": "198.51.100.11"})
            board.update(tunnel=HealthState.UP)
            await until(lambda: board.report.observation.address == "198.51.100.11")
    assert (changed.previous_address, changed.changed_at) == ("198.51.100.9", now)
    assert board.report.observation.previous_address == "198.51.100.10"
    changes = [(each["previous"], each["address"]) for each in logs if each["event"] == "observation.address_changed"]
    assert changes == [("198.51.100.9", "198.51.100.10"), ("198.51.100.10", "198.51.100.11")]


async def test_failing_source_keeps_observation_while_tunnel_is_up(source, until):
    board = up()
    with capture_logs() as logs:
        async with observing(an_exit(source.url, observe_every_s=0.01), board, retry_s=0.01):
            await until(lambda: observed(board) == SEEN)
            source.respond(web.Response(status=503))
            count = len(source.clients)
            await until(lambda: len(source.clients) > count + 2)
            assert observed(board) == SEEN
            source.respond(IPINFO | {"country": "FR"})
            await until(lambda: board.report.observation.country == "fr")
    assert [each["event"] for each in logs].count("observation.changed") == 2
    assert any(each["event"] == "observation.failed" for each in logs)


async def test_new_address_without_country_replaces_observation(source, until):
    board = up()
    async with observing(an_exit(source.url, observe_every_s=0.01), board, retry_s=0.01):
        await until(lambda: observed(board) == SEEN)
        source.respond({"ip": "198.51.100.9"})
        count = len(source.clients)
        await until(lambda: len(source.clients) > count + 2)
        assert observed(board) == SEEN
        source.respond({"ip": "203.0.113.5"})
        await until(lambda: board.report.observation.country is None)
        assert board.report.observation.error == "127.0.0.1: the country of 203.0.113.5 is unknown"


async def test_failing_source_is_retried_soon(source, until):
    board = up()
    source.respond(web.Response(status=503))
    async with observing(an_exit(source.url), board, retry_s=0.01):
        await until(lambda: len(source.clients) > 3)
        assert board.report.observation.error == "127.0.0.1: it answers 503"
        source.respond(IPINFO)
        await until(lambda: observed(board) == SEEN)


async def test_network_change_ends_pause(source, until):
    """A leak may begin with it, and the next scheduled observation is five minutes away."""
    board = up()
    async with observing(an_exit(source.url, observe_every_s=300), board):
        await until(lambda: observed(board) == SEEN)
        assert len(source.clients) == 1
        source.respond(IPINFO | {"country": "FR"})
        board.update(network_changes=board.report.network_changes + 1)
        await until(lambda: board.report.observation.country == "fr", timeout_s=60)
    assert len(source.clients) == 2


async def test_other_status_changes_do_not_end_pause(source, until):
    board = up()
    async with observing(an_exit(source.url, observe_every_s=300), board):
        await until(lambda: observed(board) == SEEN)
        for settled in range(1, 20):
            board.update(orders_settled=settled)
            await asyncio.sleep(0)
        clients = source.clients.copy()
        board.update(network_changes=board.report.network_changes + 1)
        await until(lambda: len(source.clients) == 2, timeout_s=60)
    assert len(clients) == 1


async def test_rtt_noise_makes_no_report(source, until, monkeypatch):
    board, times = up(), iter([20.0, 23.0, 18.0, *[90.0] * 9_999])
    updates = []

    async def measure(*_):
        return next(times)

    monkeypatch.setattr("agent.egress.observer.measure_rtt_ms", measure)
    update = board.update
    monkeypatch.setattr(board, "update", lambda **changes: (updates.append(changes), update(**changes)))
    async with observing(an_exit(source.url, observe_every_s=0.01), board):
        await until(lambda: board.report.observation.rtt_ms == 90)
    assert {each["observation"].rtt_ms for each in updates} == {None, 20.0, 90.0}


async def test_measured_speed_stays_in_later_observations(source, until):
    board = up()
    async with observing(an_exit(source.url, observe_every_s=0.01), board):
        await until(lambda: observed(board) == SEEN)
        measured = {"download_mbps": 9.5, "upload_mbps": 1.5, "speed_measured_at": datetime(2026, 1, 1, tzinfo=UTC)}
        assert set(measured) == SPEED_FIELDS
        board.update(observation=replace(board.report.observation, **measured))
        source.respond(IPINFO | {"country": "FR"})
        await until(lambda: board.report.observation.country == "fr")
    assert board.report.observation.download_mbps == 9.5


# -- the Geo-IP file and the geolocation service -----------------------------------------------------------------------


async def test_geo_file_adds_country_that_no_source_states(source, tmp_path):
    path = tmp_path / "geo.mmdb"
    path.write_bytes(mmdb({"198.51.100.0/24": a_country("US")}))
    source.respond({"ip": "198.51.100.9"})
    observer = Observer(an_exit(source.url, geoip=path), StatusBoard())
    seen = (await observer.observe()).observation
    assert (seen.country, seen.city, seen.error) == ("us", "US City", "")
    path.write_bytes(mmdb({"198.51.100.0/24": a_country("FR")}))
    source.respond(IPINFO)
    seen = (await observer.observe()).observation
    assert (seen.country, seen.conflict) == (
        "us",
        "127.0.0.1 sees 198.51.100.9 in us, the Geo-IP file has it in fr",
    )
    observer._locator.close()


async def test_unusable_geo_file_is_bad_setting(source, tmp_path):
    with pytest.raises(BadSetting, match="--geoip"):
        Observer(an_exit(source.url, geoip=tmp_path / "none"), StatusBoard())


async def test_geolocation_service_is_queried_last(source, make_source):
    service = await make_source("127.0.0.2", IPINFO | {"country": "JP"})
    source.respond({"ip": "198.51.100.9"})
    assert (await observe(an_exit(source.url, locate=service.url))).country == "jp"
    assert service.paths == ["/json/198.51.100.9"]
    service.respond(IPINFO | {"ip": "198.51.100.1"})
    assert (
        await observe(an_exit(source.url, locate=service.url))
    ).error == "127.0.0.1: the country of 198.51.100.9 is unknown"


# -- DNS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def short_dns_timeouts(monkeypatch):
    """Shorten the wait for silent resolvers."""
    monkeypatch.setattr(dns_client, "WAITS_S", (0.1, 0.1))


async def test_resolver_in_exit_country_verifies_exit(source, make_resolver):
    resolver = await make_resolver(answering('TXT "ip=198.51.100.53" "country=us"'))
    seen = await observe(an_exit(source.url, dns_zone="who.example.net"), resolvers=lambda _: [resolver.endpoint])
    assert seen == replace(SEEN, resolver="198.51.100.53 in us")


async def test_resolver_elsewhere_is_leak(source, make_resolver):
    resolver = await make_resolver(answering('TXT "ip=192.0.2.53" "country=jp" "network=AS1 ISP"'))
    seen = await observe(an_exit(source.url, dns_zone="who.example.net"), resolvers=lambda _: [resolver.endpoint])
    assert (
        seen.leak == "its names are resolved by 192.0.2.53 (AS1 ISP) in jp, outside the tunnel, which comes out in us"
    )


async def test_geolocation_service_locates_resolver(source, make_source, make_resolver):
    service = await make_source("127.0.0.2", {"query": "192.0.2.53", "countryCode": "JP"})
    resolver = await make_resolver(answering("TXT 192.0.2.53"))
    exit_ = an_exit(source.url, dns_zone="who.example.net", locate=service.url)
    assert "192.0.2.53 in jp" in (await observe(exit_, resolvers=lambda _: [resolver.endpoint])).leak


@pytest.mark.usefixtures("short_dns_timeouts")
async def test_silent_zone_leaves_exit_unverified(source, make_resolver):
    resolver = await make_resolver(lambda _: [])
    seen = await observe(an_exit(source.url, dns_zone="who.example.net"), resolvers=lambda _: [resolver.endpoint])
    assert (seen.address, seen.country) == ("198.51.100.9", None)
    assert seen.error == "resolver 127.0.0.1: it does not answer in time"


@pytest.mark.usefixtures("short_dns_timeouts")
async def test_failing_zone_keeps_result_until_resolvers_change(source, make_resolver, until):
    good = answering('TXT "ip=198.51.100.53" "country=us"')
    resolver, board = await make_resolver(good), up()
    resolvers = [resolver.endpoint]
    exit_ = an_exit(source.url, dns_zone="who.example.net", observe_every_s=0.01)
    async with observing(exit_, board, retry_s=0.01, resolvers=lambda _: resolvers):
        await until(lambda: board.report.observation.country == "us")
        resolver.reply = lambda _: [b"garbage"]
        queries = len(source.clients)
        await until(lambda: len(source.clients) > queries + 2)
        assert board.report.observation.country == "us"
        resolvers[:] = [Endpoint("127.0.0.1", 1)]
        await until(lambda: board.report.observation.country is None)
        assert board.report.observation.error == "resolver 127.0.0.1: it cannot be reached"


@pytest.mark.usefixtures("short_dns_timeouts")
async def test_leak_is_reported_until_seen_to_be_fixed(source, make_resolver, until):
    leaking, board = answering('TXT "ip=192.0.2.53" "country=jp"'), up()
    resolver = await make_resolver(leaking)
    exit_ = an_exit(source.url, dns_zone="who.example.net", observe_every_s=0.01)
    async with observing(exit_, board, retry_s=0.01, resolvers=lambda _: [resolver.endpoint]):
        await until(lambda: board.report.observation.leak)
        resolver.reply = lambda _: []
        queries = len(source.clients)
        await until(lambda: len(source.clients) > queries + 2)
        assert board.report.observation.leak
        resolver.reply = answering('TXT "ip=198.51.100.53" "country=us"')
        await until(lambda: not board.report.observation.leak)
