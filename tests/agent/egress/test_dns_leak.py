"""The evaluation of resolvers: in the exit's country, reached through its tunnel, or allowed."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from agent.egress.dns_leak import evaluate_resolvers
from agent.egress.types import Location
from agent.egress.whoami_dns import ResolverSeen
from tests.agent.egress.conftest import SEEN, an_exit

HERE = ResolverSeen("198.51.100.53", Location("us"))
ELSEWHERE = ResolverSeen("192.0.2.53", Location("jp"))
UNLOCATED = ResolverSeen("192.0.2.54")


def evaluated(*resolvers, egress=SEEN, route=lambda _: "wg0", allow=(), **more):
    exit_ = an_exit(dns_allow=tuple(map(ip_network, allow)), **more)
    return evaluate_resolvers([("10.0.0.1", each) for each in resolvers], exit_, egress, route)


def test_resolver_in_exit_country_is_accepted():
    found = evaluated(HERE)
    assert (found.leak, found.error, found.observed) == ("", "", "198.51.100.53 in us")


def test_resolver_elsewhere_is_leak_unless_allowed():
    assert (
        evaluated(ELSEWHERE).leak
        == "its names are resolved by 192.0.2.53 in jp, outside the tunnel, which comes out in us"
    )
    assert evaluated(ELSEWHERE, allow=["192.0.2.0/25"]).leak == ""
    assert evaluated(ELSEWHERE, allow=["2001:db8::/32"]).leak != ""


def test_one_of_several_resolvers_elsewhere_is_leak():
    assert "192.0.2.53" in evaluated(HERE, ELSEWHERE, HERE).leak


def test_resolver_at_egress_address_is_accepted():
    assert evaluated(ResolverSeen(SEEN.address)).leak == evaluated(ResolverSeen(SEEN.address)).error == ""


def test_resolver_at_host_address_is_leak_even_if_allowed():
    leak = "its names are resolved from the host's own address 198.51.100.53, outside the tunnel"
    assert evaluated(HERE, host_addresses=frozenset({HERE.address}), allow=["0.0.0.0/0"]).leak == leak
    assert evaluated(HERE, host_addresses=frozenset({HERE.address}), egress=None).leak == leak


def test_resolver_without_country_is_error():
    assert evaluated(UNLOCATED).error == "its names are resolved by 192.0.2.54, whose country is unknown"
    assert evaluated(UNLOCATED, allow=["192.0.2.54/32"]).error == ""


def test_silent_resolver_is_note_unless_all_are_silent():
    assert evaluated(HERE, "it does not answer in time").note == "resolver 10.0.0.1: it does not answer in time"
    assert evaluated(HERE, "it does not answer in time").error == ""
    assert evaluated("it does not answer in time").error == "resolver 10.0.0.1: it does not answer in time"
    assert evaluated().error == ""


@pytest.mark.parametrize("interface", ["wg0", "lo", None])
def test_resolver_reached_through_tunnel_is_accepted(interface):
    assert evaluated(HERE, tunnel_interface="wg0", route=lambda _: interface).leak == ""


def test_resolver_reached_outside_tunnel_is_leak_unless_allowed():
    leak = "its DNS queries to 10.0.0.1 leave by eth0, outside its tunnel wg0"
    assert evaluated(HERE, tunnel_interface="wg0", route=lambda _: "eth0").leak == leak
    assert evaluated(HERE, tunnel_interface="wg0", route=lambda _: "eth0", allow=["10.0.0.1/32"]).leak == ""
    # without a tunnel interface only the zone's answer is compared
    assert evaluated(HERE, route=lambda _: "eth0").leak == ""


def test_resolver_country_is_not_compared_without_egress_address():
    assert evaluated(ELSEWHERE, egress=None).leak == ""
