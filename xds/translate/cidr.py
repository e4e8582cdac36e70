"""Networks as Envoy takes them."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network


def prefix_of(network: str) -> tuple[str, int]:
    """The address and the prefix length of a network like `10.0.0.0/8`, written alike by every Python.

    Python 3.13 writes an IPv6 address that holds an IPv4 one with dots. A resource's version is a hash of its bytes, so control planes
    of two Pythons would send each other's resources anew.
    """
    found = ip_network(network)
    address = found.network_address
    held = None if isinstance(address, IPv4Address) else address.ipv4_mapped
    if held is None:
        return str(address), found.prefixlen
    high, low = divmod(int(held), 1 << 16)
    return f"::ffff:{high:x}:{low:x}", found.prefixlen
