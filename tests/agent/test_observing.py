"""Where an exit's traffic comes out: what services say of it, and what of that is believed."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from structlog.testing import capture_logs
from yarl import URL

from agent.observing import BODY_MAX, NOT_YET, Observer, Useless, combine, read_answer
from agent.report import Board, Observation, State
from agent.settings import Exit

IPINFO = {
    "ip": "198.51.100.9",
    "country": "US",
    "city": "Ashburn",
    "org": "AS64500 Example",
    "timezone": "America/New_York",
}
IP_API = {
    "status": "success",
    "query": "198.51.100.9",
    "country": "United States",
    "countryCode": "US",
    "city": "Ashburn",
    "isp": "AS64500 Example",
    "timezone": "America/New_York",
}
SEEN = Observation("198.51.100.9", "us", "Ashburn", "AS64500 Example", "America/New_York")


@pytest.mark.parametrize("said", [IPINFO, IP_API], ids=["ipinfo", "ip-api"])
def test_both_formats_say_the_same(said):
    assert read_answer(json.dumps(said).encode()) == SEEN


@pytest.mark.parametrize(
    ("written", "form"), [("2001:DB8:0:0::1", "2001:db8::1"), ("::ffff:198.51.100.9", "198.51.100.9")]
)
def test_an_address_has_one_form(written, form):
    assert read_answer(json.dumps(IPINFO | {"ip": written}).encode()).address == form


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<html>blocked</html>", "no JSON"),
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no JSON object"),
        (b'"US"', "no JSON object"),
        (json.dumps({"status": "fail", "message": "reserved range"}).encode(), "it failed: reserved range"),
        (json.dumps({"status": "fail", "message": "a\x1bb"}).encode(), "it failed: it does not say why"),
        (json.dumps({"status": 7}).encode(), "it failed: it does not say why"),
        (json.dumps(IPINFO | {"ip": "somewhere"}).encode(), "no IP address"),
        (json.dumps(IPINFO | {"ip": 3232235777}).encode(), "no IP address"),
        (json.dumps({"country": "US"}).encode(), "no IP address"),
        (json.dumps(IPINFO | {"country": "United States"}).encode(), "no country"),
        (json.dumps(IPINFO | {"country": "Ü1"}).encode(), "no country"),
        (json.dumps(IPINFO | {"country": None}).encode(), "no country"),
    ],
)
def test_what_is_of_no_use_is_named(body, why):
    with pytest.raises(Useless, match=why):
        read_answer(body)


def test_what_is_no_text_is_left_out_and_the_rest_is_believed():
    found = read_answer(json.dumps(IPINFO | {"city": ["x"], "org": "a\nb", "timezone": ""}).encode())
    assert (found.address, found.city, found.network, found.time_zone) == ("198.51.100.9", None, None, None)


def test_sources_that_disagree_are_told_of_and_the_first_counts():
    abroad = Observation("203.0.113.5", "fr")
    found = combine([("a", "it cannot be reached"), ("b", SEEN), ("c", abroad), ("d", SEEN)], frozenset())
    assert (found.country, found.trouble) == ("us", "")
    assert found.disagreement == "b sees 198.51.100.9 in us, c sees 203.0.113.5 in fr"


def test_without_any_source_the_trouble_is_that_of_each():
    found = combine([("a", "it answers 500"), ("b", "it names no IP address")], frozenset())
    assert found == Observation(trouble="a: it answers 500; b: it names no IP address")


def test_no_sentence_is_longer_than_the_control_plane_takes():
    names = [f"{number}.{'x' * 60}.example" for number in range(20)]
    assert len(combine([(name, "it cannot be reached") for name in names], frozenset()).trouble) == 500
    others = [(name, Observation("203.0.113.5", "fr")) for name in names]
    assert len(combine([("a", SEEN), *others], frozenset()).disagreement) == 500


def test_the_hosts_own_address_is_a_leak_whoever_saw_it():
    host = Observation("192.0.2.7", "us")
    found = combine([("a", SEEN), ("b", host)], frozenset({"192.0.2.7"}))
    assert found.leak == "its traffic leaves from the host's own address 192.0.2.7"
    assert combine([("a", SEEN)], frozenset({"192.0.2.7"})).leak == ""


# -- asking ------------------------------------------------------------------------------------------------------------


class Source:
    """A service on loopback, which says what the test wants."""

    def __init__(self) -> None:
        self.answers: list[web.Response | None] = []
        self.asked = 0
        self.url = URL()

    def say(self, said: object) -> None:
        self.answers = [web.json_response(said)] if not isinstance(said, web.Response) else [said]

    async def answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        given = self.answers[0]
        return web.Response(status=given.status, body=given.body, headers=given.headers)


@pytest.fixture
async def source():
    made = Source()
    app = web.Application()
    app.router.add_get("/json", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = URL(f"http://127.0.0.1:{runner.addresses[0][1]}/json")
    made.say(IPINFO)
    yield made
    await runner.cleanup()


def an_exit(*sources: URL, **more) -> Exit:
    return Exit("us", "192.0.2.1", 8443, sources=sources, **more)


@asynccontextmanager
async def observing(exit_: Exit, board: Board, **more):
    task = asyncio.create_task(Observer(exit_, board, **more).run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_source_is_asked_from_the_exits_own_address(source):
    seen = await Observer(an_exit(source.url, egress_address="127.0.0.9"), Board()).look()
    assert seen == SEEN


async def test_an_interface_that_is_not_there_reaches_no_source(source):
    seen = await Observer(an_exit(source.url, tunnel_interface="nowhere0"), Board()).look()
    assert (seen.country, seen.trouble) == (None, "127.0.0.1: it cannot be reached")
    assert source.asked == 0


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
    assert (await Observer(an_exit(source.url), Board()).look()).trouble == f"127.0.0.1: {trouble}"


async def test_an_exit_is_looked_at_when_its_tunnel_comes_up_and_not_before(source, until):
    board = Board()
    async with observing(an_exit(source.url), board):
        await until(lambda: board.report.observation == NOT_YET)
        assert source.asked == 0
        board.update(tunnel=State.UP)
        await until(lambda: board.report.observation == SEEN)
        board.update(tunnel=State.DOWN)
        await until(lambda: board.report.observation == NOT_YET)
        asked = source.asked
        board.update(tunnel=State.UP)
        await until(lambda: board.report.observation == SEEN)
        assert source.asked == asked + 1


async def test_an_address_that_changes_is_noticed_and_a_source_that_fails_meanwhile_is_borne(source, until):
    board = Board()
    board.update(tunnel=State.UP)
    with capture_logs() as logs:
        async with observing(an_exit(source.url), board, every_s=0.01, again_s=0.01):
            await until(lambda: board.report.observation == SEEN)
            source.say(web.Response(status=503))
            asked = source.asked
            await until(lambda: source.asked > asked + 2)
            assert board.report.observation == SEEN
            source.say(IPINFO | {"country": "FR"})
            await until(lambda: board.report.observation.country == "fr")
    assert [each["event"] for each in logs].count("observation") == 2
    assert any(each["event"] == "observation.failed" for each in logs)


async def test_until_a_source_is_of_use_it_is_asked_again_soon(source, until):
    board = Board()
    board.update(tunnel=State.UP)
    source.say(web.Response(status=503))
    async with observing(an_exit(source.url), board, every_s=300, again_s=0.01):
        await until(lambda: source.asked > 3)
        assert board.report.observation.trouble == "127.0.0.1: it answers 503"
        source.say(IPINFO)
        await until(lambda: board.report.observation == SEEN)
