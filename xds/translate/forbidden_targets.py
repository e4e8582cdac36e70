"""The networks that an exit does not connect to: its own host and the private networks around it.

Otherwise a client could reach, through an exit, the admin interface of the exit's Envoy, the control plane, or a cloud's
metadata service.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from envoy_data_plane.envoy.type.matcher.v3 import AddressMatcher
from envoy_data_plane.xds.core.v3 import CidrRange

from xds.translate.cidr import prefix_of

_LOOPBACK: Final = "127.0.0.1"
_THIS_HOST: Final = ("0.0.0.0/8", "127.0.0.0/8", "::/128", "::1/128")
_AROUND: Final = (
    *("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/3"),
    *("fc00::/7", "fe80::/10", "ff00::/8"),
    *("::ffff:0:0/96", "64:ff9b::/96"),  # IPv4 addresses written as IPv6
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
    networks = _AROUND if is_loopback(egress_address) else (*_THIS_HOST, *_AROUND)
    ranges = [CidrRange(address_prefix=address, prefix_len=length) for address, length in map(prefix_of, networks)]
    return AddressMatcher(ranges=ranges)
