"""CIDR networks in the form that Envoy takes."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network


def prefix_of(network: str) -> tuple[str, int]:
    """Split a network like `10.0.0.0/8` into its address and prefix length, written the same by every Python.

    Python 3.13 writes an IPv4-mapped IPv6 address with dots. A resource's version is a hash of its bytes, so that control planes
    on two Pythons would keep sending resources anew.
    """
    found = ip_network(network)
    address = found.network_address
    mapped = None if isinstance(address, IPv4Address) else address.ipv4_mapped
    if mapped is None:
        return str(address), found.prefixlen
    high, low = divmod(int(mapped), 1 << 16)
    return f"::ffff:{high:x}:{low:x}", found.prefixlen
