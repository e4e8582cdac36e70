"""What leaves beside the tunnel is seen: by IPv4 through another interface, and by IPv6."""

from __future__ import annotations

import pytest

from agent.egress.bypass import judge_ipv6, look_for_bypass, look_over_ipv6
from agent.egress.geolocation import Geolocator
from agent.egress.http_sources import EgressPath
from agent.egress.types import Location, SeenAddress
from agent.net.route_query import interface_towards
from tests.agent.egress.conftest import IPINFO, SEEN, an_exit


def always(way):
    return lambda *_: way


def by_ipv6(way):
    return lambda address, *_: way if ":" in address else "lo"


async def test_traffic_that_the_kernel_sends_into_the_tunnel_is_fine(source):
    found = await look_for_bypass(an_exit(source.url, tunnel_interface="lo"), always("lo"))
    assert (found.leak, found.trouble) == ("", "")
    assert source.asked == []


async def test_traffic_that_leaves_by_another_interface_is_a_leak(source):
    source.say(IPINFO | {"ip": "192.0.2.7"})
    found = await look_for_bypass(an_exit(source.url, tunnel_interface="wg0"), always("eth0"))
    assert found.leak == "its traffic leaves by eth0, outside its tunnel wg0, from 192.0.2.7"


async def test_one_part_of_the_internet_beside_the_tunnel_is_enough(source):
    found = await look_for_bypass(
        an_exit(source.url, tunnel_interface="wg0"), lambda address, _: "eth0" if address.startswith("208.") else "wg0"
    )
    assert "by eth0" in found.leak


async def test_a_way_beside_the_tunnel_that_is_shut_is_no_leak_and_not_verified(source):
    exit_ = an_exit(source.url.with_port(1), tunnel_interface="wg0")
    found = await look_for_bypass(exit_, always("eth0"))
    assert (found.leak, found.trouble) == ("", "its traffic would leave by eth0, not by its tunnel wg0")


async def test_no_way_into_the_tunnel_is_not_verified(source):
    found = await look_for_bypass(an_exit(source.url, tunnel_interface="wg0"), always(None))
    assert found.trouble == "nothing routes its traffic into its tunnel wg0"


async def test_part_of_the_internet_without_a_route_is_not_verified(source):
    found = await look_for_bypass(
        an_exit(source.url, tunnel_interface="wg0"), lambda address, _: None if address.startswith("77.") else "wg0"
    )
    assert (found.leak, found.trouble) == ("", "nothing routes its traffic into its tunnel wg0")
    assert source.asked == []


async def test_routes_are_those_of_the_address_that_traffic_leaves_from(source):
    exit_ = an_exit(source.url, tunnel_interface="wg0", egress_address="127.0.0.9")
    found = await look_for_bypass(exit_, lambda _, address: "wg0" if address == "127.0.0.9" else "eth0")
    assert (found.leak, found.trouble) == ("", "")


async def test_without_an_interface_there_is_nothing_to_compare(source):
    found = await look_for_bypass(an_exit(source.url), always("eth0"))
    assert (found.leak, found.trouble) == ("", "")


async def over_ipv6(exit_, route, *, seen=SEEN):
    answers, way = await look_over_ipv6(exit_, route)
    return await judge_ipv6(answers, way, exit_, seen, Geolocator(None, exit_.locate, EgressPath()))


@pytest.fixture
async def both(source, make_source):
    """Two sources, one by IPv4 and one by IPv6, which says that it sees 2001:db8::9 in us."""
    six = await make_source("::1", IPINFO | {"ip": "2001:db8::9"})
    return source, six


async def test_ipv6_through_the_tunnel_in_the_same_country_is_told_and_fine(both):
    four, six = both
    found = await over_ipv6(an_exit(four.url, six.url, tunnel_interface="lo"), always("lo"))
    assert (found.leak, found.trouble, found.seen) == ("", "", "2001:db8::9")
    assert (four.asked, six.asked) == ([], ["::1"])


async def test_ipv6_beside_the_tunnel_is_a_leak(both):
    four, six = both
    found = await over_ipv6(an_exit(four.url, six.url, tunnel_interface="wg0"), by_ipv6("eth0"))
    assert found.leak == "its IPv6 traffic leaves by eth0, outside its tunnel wg0, from 2001:db8::9"


async def test_ipv6_from_the_hosts_own_address_is_a_leak(both):
    four, six = both
    found = await over_ipv6(an_exit(four.url, six.url, host_addresses=frozenset({"2001:db8::9"})), always("lo"))
    assert found.leak == "its IPv6 traffic leaves from the host's own address 2001:db8::9"


async def test_ipv6_in_another_country_is_a_leak(both):
    four, six = both
    six.say(IPINFO | {"ip": "2001:db8::9", "country": "FR"})
    found = await over_ipv6(an_exit(four.url, six.url), always("lo"))
    assert found.leak == (
        "its IPv6 traffic leaves from 2001:db8::9 in fr, and its IPv4 traffic from 198.51.100.9 in us"
    )


async def test_ipv6_that_nobody_can_place_is_not_verified(both):
    four, six = both
    six.say({"ip": "2001:db8::9"})
    found = await over_ipv6(an_exit(four.url, six.url), always("lo"))
    assert found.trouble == "its IPv6 address is 2001:db8::9, and nobody says where that is"


async def test_without_a_way_for_ipv6_nobody_is_asked(both, monkeypatch):
    four, six = both
    monkeypatch.setattr("agent.egress.bypass._has_global_address", lambda: False)
    assert await look_over_ipv6(an_exit(four.url, six.url), by_ipv6(None)) == ((), None)
    monkeypatch.setattr("agent.egress.bypass._has_global_address", lambda: True)
    await look_over_ipv6(an_exit(four.url, six.url), by_ipv6(None))
    assert six.asked == ["::1"]


def test_the_kernel_names_the_interface_towards_an_address():
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("::1") == "lo"
    assert interface_towards("127.0.0.1", "127.0.0.9") == "lo"
    # from an address that is not this machine's nothing leaves
    assert interface_towards("127.0.0.1", "203.0.113.77") is None


async def test_sources_over_ipv6_alone_are_the_first_word(make_source):
    six = await make_source("::1", IPINFO | {"ip": "2001:db8::9"})
    exit_ = an_exit(six.url)
    assert (await look_over_ipv6(exit_, always("lo"))) == ((), None)
    found = await judge_ipv6(
        (), None, exit_, SeenAddress("2001:db8::9", Location("us")), Geolocator(None, None, EgressPath())
    )
    assert found.seen is None
