"""Tests of the demo's name servers."""

from contextlib import AsyncExitStack, suppress
from random import Random

import dns.message
import dns.rcode
import pytest

from agent.egress.types import Location
from agent.egress.whoami_dns import ResolverSeen, identify_resolver
from agent.net.dns_client import DnsErrorCode, query
from demo import name_servers
from demo.geo_map import GeoMap
from demo.name_servers import ZONE, serve_names
from model.endpoint import Endpoint

ATTEMPTS = 20
AUTHORITY, US, JP = "127.0.95.3", "127.0.95.4", "127.0.95.5"
GEO_MAP = GeoMap({US: "us", JP: "jp"}, {"page.internet.test": "203.0.113.2"}, AUTHORITY, (US, JP))


@pytest.fixture(autouse=True)
async def port(monkeypatch):
    """Run the name servers on a port that is free on each of their addresses."""
    random = Random()
    async with AsyncExitStack() as stack:
        for _ in range(ATTEMPTS):
            chosen = random.randrange(1024, 32768)  # below the ports that Linux uses for outgoing connections
            monkeypatch.setattr(name_servers, "_PORT", chosen)
            with suppress(OSError):  # in use on one of the addresses
                await stack.enter_async_context(serve_names(GEO_MAP))
                yield chosen
                return
    pytest.fail(f"none of {ATTEMPTS} ports is free on {AUTHORITY}, {US} and {JP}")


@pytest.mark.parametrize(("resolver", "country"), [(US, "us"), (JP, "jp")])
async def test_zone_reveals_the_resolver_and_its_country(resolver, country, port):
    asker = await identify_resolver(ZONE, Endpoint(resolver, port))
    assert asker == ResolverSeen(resolver, Location(country, None, f"AS64500 {country.upper()} Network"))


async def test_zone_reveals_a_direct_client_without_a_country(port):
    assert await identify_resolver(ZONE, Endpoint(AUTHORITY, port)) == ResolverSeen("127.0.0.1")


async def test_names_have_only_a_records(port):
    found = await query("page.internet.test", "A", Endpoint(US, port))
    assert found.addresses == ("203.0.113.2",)
    assert (await query("page.internet.test", "AAAA", Endpoint(US, port))).addresses == ()
    found = await query(f"x.{ZONE}", "A", Endpoint(JP, port))
    assert found.addresses == (JP,)


async def test_unknown_name_does_not_exist(port):
    answer = await query("page.example.net", "A", Endpoint(US, port))
    with pytest.raises(DnsErrorCode, match="no such name"):
        answer.raise_for_rcode()


async def test_malformed_query_is_ignored(port):
    authority = name_servers.AuthoritativeServer(GEO_MAP)
    for data in (b"", b"\xff" * 30, dns.message.make_query("a.", "A").to_wire()[:12]):
        authority.datagram_received(data, ("127.0.0.1", 1))
    assert (await query("page.internet.test", "A", Endpoint(US, port))).rcode == dns.rcode.NOERROR
