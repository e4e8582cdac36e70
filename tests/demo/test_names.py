"""The demo's names: the authority reveals who asks, and resolvers ask from their own address."""

from contextlib import AsyncExitStack, suppress
from random import Random

import dns.message
import dns.rcode
import pytest

from agent.egress.types import Location
from agent.egress.whoami_dns import ResolverSeen, reveal
from agent.net.dns_client import DnsErrorCode, query
from demo import name_servers
from demo.geo_map import GeoMap
from demo.name_servers import ZONE, serve_names
from model.endpoint import Endpoint

ATTEMPTS = 20
AUTHORITY, US, JP = "127.0.95.3", "127.0.95.4", "127.0.95.5"
ATLAS = GeoMap({US: "us", JP: "jp"}, {"page.internet.test": "203.0.113.2"}, AUTHORITY, (US, JP))


@pytest.fixture(autouse=True)
async def port(monkeypatch):
    """Where all of them serve: a port that is free on each of their addresses."""
    random = Random()
    async with AsyncExitStack() as stack:
        for _ in range(ATTEMPTS):
            chosen = random.randrange(1024, 32768)  # below those that Linux gives to whoever sends
            monkeypatch.setattr(name_servers, "_PORT", chosen)
            with suppress(OSError):  # somebody else has it on one of the addresses
                await stack.enter_async_context(serve_names(ATLAS))
                yield chosen
                return
    pytest.fail(f"none of {ATTEMPTS} ports is free on {AUTHORITY}, {US} and {JP}")


@pytest.mark.parametrize(("resolver", "country"), [(US, "us"), (JP, "jp")])
async def test_the_zone_reveals_the_resolver_and_its_country(resolver, country, port):
    asker = await reveal(ZONE, Endpoint(resolver, port))
    assert asker == ResolverSeen(resolver, Location(country, None, f"AS64500 {country.upper()} Network"))


async def test_who_asks_the_authority_himself_is_revealed_without_a_country(port):
    assert await reveal(ZONE, Endpoint(AUTHORITY, port)) == ResolverSeen("127.0.0.1")


async def test_names_have_addresses_and_of_other_kinds_nothing(port):
    found = await query("page.internet.test", "A", Endpoint(US, port))
    assert found.addresses == ("203.0.113.2",)
    assert (await query("page.internet.test", "AAAA", Endpoint(US, port))).addresses == ()
    found = await query(f"x.{ZONE}", "A", Endpoint(JP, port))
    assert found.addresses == (JP,)


async def test_what_nobody_knows_is_no_name(port):
    answer = await query("page.example.net", "A", Endpoint(US, port))
    with pytest.raises(DnsErrorCode, match="no such name"):
        answer.raise_for_rcode()


async def test_garbage_is_not_answered_and_breaks_nothing(port):
    authority = name_servers.AuthoritativeServer(ATLAS)
    for data in (b"", b"\xff" * 30, dns.message.make_query("a.", "A").to_wire()[:12]):
        authority.datagram_received(data, ("127.0.0.1", 1))
    assert (await query("page.internet.test", "A", Endpoint(US, port))).rcode == dns.rcode.NOERROR
