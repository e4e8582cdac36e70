"""Which resolvers are as they should be: in the exit's country, inside its tunnel, or allowed."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from agent.egress.dns_leak import judge
from agent.egress.types import Location
from agent.egress.whoami_dns import ResolverSeen
from tests.agent.egress.conftest import SEEN, an_exit

HERE = ResolverSeen("198.51.100.53", Location("us"))
ELSEWHERE = ResolverSeen("192.0.2.53", Location("jp"))
NOWHERE = ResolverSeen("192.0.2.54")


def judged(*asked, seen=SEEN, route=lambda _: "wg0", allow=(), **more):
    exit_ = an_exit(dns_allow=tuple(map(ip_network, allow)), **more)
    return judge([("10.0.0.1", each) for each in asked], exit_, seen, route)


def test_a_resolver_in_the_exits_country_is_fine():
    found = judged(HERE)
    assert (found.leak, found.trouble, found.seen) == ("", "", "198.51.100.53 in us")


def test_a_resolver_elsewhere_is_a_leak_unless_it_is_allowed():
    assert (
        judged(ELSEWHERE).leak
        == "its names are resolved by 192.0.2.53 in jp, outside the tunnel, which comes out in us"
    )
    assert judged(ELSEWHERE, allow=["192.0.2.0/25"]).leak == ""
    assert judged(ELSEWHERE, allow=["2001:db8::/32"]).leak != ""


def test_one_of_several_that_is_elsewhere_is_a_leak():
    assert "192.0.2.53" in judged(HERE, ELSEWHERE, HERE).leak


def test_the_exit_itself_may_resolve():
    assert judged(ResolverSeen(SEEN.address)).leak == judged(ResolverSeen(SEEN.address)).trouble == ""


def test_the_hosts_own_address_is_a_leak_even_when_it_is_allowed_and_in_the_country():
    leak = "its names are resolved from the host's own address 198.51.100.53, outside the tunnel"
    assert judged(HERE, host_addresses=frozenset({HERE.address}), allow=["0.0.0.0/0"]).leak == leak
    assert judged(HERE, host_addresses=frozenset({HERE.address}), seen=None).leak == leak


def test_a_resolver_that_nobody_can_place_is_trouble():
    assert judged(NOWHERE).trouble == "its names are resolved by 192.0.2.54, and nobody says where that is"
    assert judged(NOWHERE, allow=["192.0.2.54/32"]).trouble == ""


def test_a_resolver_that_says_nothing_is_told_and_only_without_any_other_trouble():
    assert judged(HERE, "it does not answer in time").told == "resolver 10.0.0.1: it does not answer in time"
    assert judged(HERE, "it does not answer in time").trouble == ""
    assert judged("it does not answer in time").trouble == "resolver 10.0.0.1: it does not answer in time"
    assert judged().trouble == ""


@pytest.mark.parametrize("way", ["wg0", "lo", None])
def test_a_resolver_that_is_asked_through_the_tunnel_is_fine(way):
    assert judged(HERE, tunnel_interface="wg0", route=lambda _: way).leak == ""


def test_a_resolver_that_is_asked_beside_the_tunnel_is_a_leak_wherever_it_is():
    leak = "its names are asked of 10.0.0.1 by eth0, outside its tunnel wg0"
    assert judged(HERE, tunnel_interface="wg0", route=lambda _: "eth0").leak == leak
    assert judged(HERE, tunnel_interface="wg0", route=lambda _: "eth0", allow=["10.0.0.1/32"]).leak == ""
    # without an interface to compare with, the zone's word counts alone
    assert judged(HERE, route=lambda _: "eth0").leak == ""


def test_while_it_is_not_known_where_the_exit_comes_out_no_country_is_wrong():
    assert judged(ELSEWHERE, seen=None).leak == ""
