"""The addresses that exits do not connect to, as targets and as parents."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from xds.translate.forbidden_targets import forbidden_addresses, forbidden_parents, is_on_exit

LOCAL = (
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "::1", "::", "::127.0.0.1", "169.254.169.254", "fe80::1", "224.0.0.1"),
    *("255.255.255.255", "ff02::1", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254"),
)
EMBEDDED = (
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::",
    "2001:0:7f00:1::",
    "::10.0.0.1",
)
PRIVATE = ("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "fec0::1")
PUBLIC = ("8.8.8.8", "192.0.1.1", "168.63.129.17", "2001:db8::1", "2606:4700::1111", "2003::1", "64:ff9c::1")


def matches(matcher, address: str) -> bool:
    networks = [ip_network((each.address_prefix, each.prefix_len)) for each in matcher.ranges]
    return any(ip_address(address) in network for network in networks)


@pytest.mark.parametrize("address", [*LOCAL, *EMBEDDED, *PRIVATE])
def test_exit_does_not_connect_to_targets_around_it(address):
    assert matches(forbidden_addresses(None), address)


@pytest.mark.parametrize("address", PUBLIC)
def test_exit_connects_to_public_targets(address):
    assert not matches(forbidden_addresses(None), address)


@pytest.mark.parametrize("address", [*LOCAL, *EMBEDDED])
def test_parent_is_not_on_the_exits_host_or_link(address):
    assert is_on_exit(address)
    assert matches(forbidden_parents(), address)


@pytest.mark.parametrize("address", [*PRIVATE, *PUBLIC])
def test_parent_may_be_in_a_private_network(address):
    assert not is_on_exit(address)
    assert not matches(forbidden_parents(), address)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_exit_that_leaves_from_loopback_connects_to_loopback(address):
    assert not matches(forbidden_addresses("127.0.0.9"), address)
