"""Where an exit does not go: to its own host and the networks around it.

Without this a client could reach, through an exit, the admin interface of the exit's Envoy, the control plane, or a
cloud's metadata service.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from envoy_data_plane.envoy.type.matcher.v3 import AddressMatcher
from envoy_data_plane.xds.core.v3 import CidrRange

from xds.translate.cidr import prefix_of

LOOPBACK: Final = "127.0.0.1"
_THIS_HOST: Final = ("0.0.0.0/8", "127.0.0.0/8", "::/128", "::1/128")
_AROUND: Final = (
    *("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/3"),
    *("fc00::/7", "fe80::/10", "ff00::/8"),
    *("::ffff:0:0/96", "64:ff9b::/96"),  # IPv4 in disguise
)
"""IANA's special-purpose registries, without the ranges for documentation and benchmarks, which lead nowhere."""


def stays_here(egress_address: str | None) -> bool:
    """Whether what leaves from an address goes no further than this host."""
    return egress_address is not None and ip_address(egress_address).is_loopback


def forbidden_addresses(egress_address: str | None) -> AddressMatcher:
    """What is dropped from the addresses of a target; literals are resolved too, to themselves.

    An exit that leaves from loopback, as in a demo without tunnels, may reach loopback.
    """
    networks = _AROUND if stays_here(egress_address) else (*_THIS_HOST, *_AROUND)
    ranges = [CidrRange(address_prefix=address, prefix_len=length) for address, length in map(prefix_of, networks)]
    return AddressMatcher(ranges=ranges)
