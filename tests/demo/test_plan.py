"""Tests of the demo's names and addresses."""

from itertools import combinations

import pytest

from demo.errors import LabError
from demo.plan import (
    LOOPBACK_BLOCK,
    MAX_EXITS,
    MAX_INSTANCES,
    UNDERLAY_BLOCKS,
    AddressPlan,
    parse_countries,
    plan_loopback,
    plan_tunnels,
)


def list_unique_names(plan: AddressPlan) -> list[object]:
    """List the names and addresses that must be unique on the machine."""
    sites = [
        value
        for site in plan.sites
        for value in (site.name and site.egress_address, site.namespace, site.ethernet, site.tunnel, site.tunnel_server)
    ]
    return [*sites, *(site.port_interface for site in plan.sites), plan.uplink, plan.bridge, plan.downlink]


@pytest.mark.parametrize("block", UNDERLAY_BLOCKS)
def test_demos_share_no_names_and_networks(block):
    plans = [plan_tunnels(index, ["us"] * MAX_EXITS, block) for index in range(MAX_INSTANCES)]
    names = [value for plan in plans for value in list_unique_names(plan)]
    assert len(names) == len(set(names))
    for one, other in combinations(plans, 2):
        assert not one.underlay.overlaps(other.underlay)
        assert not one.page_network.overlaps(other.page_network)


@pytest.mark.parametrize("block", UNDERLAY_BLOCKS)
def test_addresses_within_a_demo_are_unique(block):
    for index in range(MAX_INSTANCES):
        plan = plan_tunnels(index, ["us"] * MAX_EXITS, block)
        addresses = [site.address for site in plan.sites] + [plan.host_address, plan.internet_address]
        assert len(addresses) == len(set(addresses))
        assert all(address in set(plan.underlay.hosts()) for address in addresses)
        assert plan.page_address in set(plan.page_network.hosts())


def test_interface_names_have_at_most_15_characters():
    plan = plan_tunnels(MAX_INSTANCES - 1, ["us"] * MAX_EXITS, UNDERLAY_BLOCKS[0])
    interfaces = [plan.uplink, plan.downlink, plan.bridge]
    interfaces += [
        name for site in plan.sites for name in (site.ethernet, site.port_interface, site.tunnel, site.tunnel_server)
    ]
    assert max(map(len, interfaces)) <= 15


def test_prefix_matches_only_namespaces_of_its_demo():
    plans = [plan_tunnels(index, ["us"], UNDERLAY_BLOCKS[0]) for index in range(MAX_INSTANCES)]
    for one in plans:
        for other in plans:
            assert other.internet.startswith(one.prefix) is (one is other)


def test_plain_exits_have_unique_loopback_addresses():
    addresses = []
    for index in range(MAX_INSTANCES):
        plan = plan_loopback(index, ["us", "us", "jp"])
        assert not plan.tunnels
        addresses += [plan.page_address, *(site.egress_address for site in plan.sites)]
    assert len(addresses) == len(set(addresses))
    assert all(address in LOOPBACK_BLOCK for address in addresses)


def test_exits_are_named_by_country_and_number():
    plan = plan_loopback(0, ["us", "gb", "us"])
    assert [(site.name, site.country) for site in plan.sites] == [("us-1", "us"), ("gb-1", "gb"), ("us-2", "us")]


@pytest.mark.parametrize(
    ("text", "countries"),
    [("us", ("us",)), ("us,us,gb,jp", ("us", "us", "gb", "jp")), (" US , uk", ("us", "gb"))],
)
def test_parse_countries(text, countries):
    assert parse_countries(text) == countries


@pytest.mark.parametrize("text", ["", "us,", "usa", "u1", "us;gb", ",".join(["us"] * (MAX_EXITS + 1))])
def test_invalid_list_of_countries_is_refused(text):
    with pytest.raises(LabError, match="--exits"):
        parse_countries(text)
