"""The networks that an exit does not connect to: its own host and the private networks around it.

Otherwise a client could reach, through an exit, the admin interface of the exit's Envoy, the control plane, or a cloud's
metadata service. A parent proxy may be in a private network, but neither on the exit's own link nor, by a name, on its own host.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Final

from envoy_data_plane.envoy.type.matcher.v3 import AddressMatcher
from envoy_data_plane.xds.core.v3 import CidrRange

from xds.translate.cidr import prefix_of

_LOOPBACK: Final = "127.0.0.1"
_THIS_HOST: Final = (
    *("0.0.0.0/8", "127.0.0.0/8"),
    "::/96",  # `::`, `::1`, and IPv4 addresses written as IPv6 (RFC 4291, 2.5.5.1)
)
_THIS_LINK: Final = (
    *("169.254.0.0/16", "224.0.0.0/3", "fe80::/10", "ff00::/8"),
    *("100.100.100.200/32", "168.63.129.16/32", "192.0.0.0/24", "fd00:ec2::/32"),  # clouds' metadata services
    *("::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"),  # IPv4 addresses within IPv6
)
_PRIVATE: Final = (
    *("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
    "fec0::/10",  # once site-local (RFC 3879)
)
"""IANA's special-purpose registries, without the ranges for documentation and benchmarks, which are not routed."""


def is_loopback(egress_address: str | None) -> bool:
    """Return whether connections from an egress address stay on this host."""
    return egress_address is not None and ip_address(egress_address).is_loopback


def sample_egress_address(egress_address: str | None) -> str | None:
    """Return one address for all egress addresses with the same forbidden networks: templates are made for it."""
    return _LOOPBACK if is_loopback(egress_address) else None


def forbidden_addresses(egress_address: str | None) -> AddressMatcher:
    """Match the addresses that are dropped from a target's resolved ones; a literal resolves to itself.

    An exit with a loopback egress address, as in a demo without tunnels, may connect to loopback.
    """
    here = () if is_loopback(egress_address) else _THIS_HOST
    return _match((*here, *_THIS_LINK, *_PRIVATE))


def forbidden_parents() -> AddressMatcher:
    """Match the addresses that are dropped from the resolved ones of a parent's name."""
    return _match((*_THIS_HOST, *_THIS_LINK))


def is_on_exit(address: str) -> bool:
    """Return whether an address literal of a parent is on the exit's own host or link; False for a name."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return any(found in ip_network(network) for network in (*_THIS_HOST, *_THIS_LINK))


def _match(networks: Iterable[str]) -> AddressMatcher:
    return AddressMatcher(
        ranges=[CidrRange(address_prefix=address, prefix_len=length) for address, length in map(prefix_of, networks)]
    )
