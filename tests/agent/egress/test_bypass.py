"""The check for bypasses: IPv4 traffic by another interface, and IPv6 traffic."""

from __future__ import annotations

import pytest

from agent.egress.bypass import check_bypass, evaluate_ipv6, query_over_ipv6
from agent.egress.geolocation import Geolocator
from agent.egress.http_sources import EgressPath
from agent.egress.types import Location, SeenAddress
from agent.net.route_query import interface_towards
from tests.agent.egress.conftest import IPINFO, SEEN, an_exit


def always(interface):
    return lambda *_: interface


def by_ipv6(interface):
    return lambda address, *_: interface if ":" in address else "lo"


async def test_bypass_check_accepts_route_into_tunnel(source):
    found = await check_bypass(an_exit(source.url, tunnel_interface="lo"), always("lo"))
    assert (found.leak, found.error) == ("", "")
    assert source.clients == []


async def test_bypass_check_reports_traffic_by_other_interface(source):
    source.respond(IPINFO | {"ip": "192.0.2.7"})
    found = await check_bypass(an_exit(source.url, tunnel_interface="wg0"), always("eth0"))
    assert found.leak == "its traffic leaves by eth0, outside its tunnel wg0, from 192.0.2.7"


async def test_bypass_check_reports_one_destination_outside_tunnel(source):
    found = await check_bypass(
        an_exit(source.url, tunnel_interface="wg0"), lambda address, _: "eth0" if address.startswith("208.") else "wg0"
    )
    assert "by eth0" in found.leak


async def test_blocked_path_outside_tunnel_is_error_not_leak(source):
    exit_ = an_exit(source.url.with_port(1), tunnel_interface="wg0")
    found = await check_bypass(exit_, always("eth0"))
    assert (found.leak, found.error) == ("", "its traffic would leave by eth0, not by its tunnel wg0")


async def test_missing_route_is_error(source):
    found = await check_bypass(an_exit(source.url, tunnel_interface="wg0"), always(None))
    assert found.error == "no route leads its traffic into its tunnel wg0"


async def test_missing_route_of_one_destination_is_error(source):
    found = await check_bypass(
        an_exit(source.url, tunnel_interface="wg0"), lambda address, _: None if address.startswith("77.") else "wg0"
    )
    assert (found.leak, found.error) == ("", "no route leads its traffic into its tunnel wg0")
    assert source.clients == []


async def test_bypass_check_looks_up_routes_of_egress_address(source):
    exit_ = an_exit(source.url, tunnel_interface="wg0", egress_address="127.0.0.9")
    found = await check_bypass(exit_, lambda _, address: "wg0" if address == "127.0.0.9" else "eth0")
    assert (found.leak, found.error) == ("", "")


async def test_bypass_check_without_interface_finds_nothing(source):
    found = await check_bypass(an_exit(source.url), always("eth0"))
    assert (found.leak, found.error) == ("", "")


async def evaluate_over_ipv6(exit_, route, *, ipv4=SEEN):
    answers, interface = await query_over_ipv6(exit_, route)
    return await evaluate_ipv6(answers, interface, exit_, ipv4, Geolocator(None, exit_.locate, EgressPath()))


@pytest.fixture
async def both(source, make_source):
    """Two sources, one on IPv4 and one on IPv6, which reports 2001:db8::9 in us."""
    ipv6 = await make_source("::1", IPINFO | {"ip": "2001:db8::9"})
    return source, ipv6


async def test_ipv6_through_tunnel_in_same_country_is_no_leak(both):
    ipv4, ipv6 = both
    found = await evaluate_over_ipv6(an_exit(ipv4.url, ipv6.url, tunnel_interface="lo"), always("lo"))
    assert (found.leak, found.error, found.observed) == ("", "", "2001:db8::9")
    assert (ipv4.clients, ipv6.clients) == ([], ["::1"])


async def test_ipv6_outside_tunnel_is_leak(both):
    ipv4, ipv6 = both
    found = await evaluate_over_ipv6(an_exit(ipv4.url, ipv6.url, tunnel_interface="wg0"), by_ipv6("eth0"))
    assert found.leak == "its IPv6 traffic leaves by eth0, outside its tunnel wg0, from 2001:db8::9"


async def test_ipv6_from_host_address_is_leak(both):
    ipv4, ipv6 = both
    found = await evaluate_over_ipv6(
        an_exit(ipv4.url, ipv6.url, host_addresses=frozenset({"2001:db8::9"})), always("lo")
    )
    assert found.leak == "its IPv6 traffic leaves from the host's own address 2001:db8::9"


async def test_ipv6_in_another_country_is_leak(both):
    ipv4, ipv6 = both
    ipv6.respond(IPINFO | {"ip": "2001:db8::9", "country": "FR"})
    found = await evaluate_over_ipv6(an_exit(ipv4.url, ipv6.url), always("lo"))
    assert found.leak == (
        "its IPv6 traffic leaves from 2001:db8::9 in fr, and its IPv4 traffic from 198.51.100.9 in us"
    )


async def test_ipv6_without_country_is_error(both):
    ipv4, ipv6 = both
    ipv6.respond({"ip": "2001:db8::9"})
    found = await evaluate_over_ipv6(an_exit(ipv4.url, ipv6.url), always("lo"))
    assert found.error == "its IPv6 address is 2001:db8::9, whose country is unknown"


async def test_ipv6_query_is_skipped_without_route_and_address(both, monkeypatch):
    ipv4, ipv6 = both
    monkeypatch.setattr("agent.egress.bypass._has_global_address", lambda: False)
    assert await query_over_ipv6(an_exit(ipv4.url, ipv6.url), by_ipv6(None)) == ((), None)
    monkeypatch.setattr("agent.egress.bypass._has_global_address", lambda: True)
    await query_over_ipv6(an_exit(ipv4.url, ipv6.url), by_ipv6(None))
    assert ipv6.clients == ["::1"]


def test_interface_towards_returns_outgoing_interface():
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("::1") == "lo"
    assert interface_towards("127.0.0.1", "127.0.0.9") == "lo"
    # nothing can leave from an address that is not this machine's
    assert interface_towards("127.0.0.1", "203.0.113.77") is None


async def test_ipv6_query_is_skipped_for_ipv6_only_sources(make_source):
    ipv6 = await make_source("::1", IPINFO | {"ip": "2001:db8::9"})
    exit_ = an_exit(ipv6.url)
    assert (await query_over_ipv6(exit_, always("lo"))) == ((), None)
    found = await evaluate_ipv6(
        (), None, exit_, SeenAddress("2001:db8::9", Location("us")), Geolocator(None, None, EgressPath())
    )
    assert found.observed is None
