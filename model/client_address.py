"""Addresses of clients, as limits count them."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network


@lru_cache(maxsize=4_096)
def client_network(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 network of an IPv6 address.

    A client that holds one address of a /64 holds all of them. Text that is no address is returned as it is.
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))
    return str(parsed)


def unmapped(address: str) -> str:
    """Return an IPv4 address that is written as an IPv6 one (`::ffff:192.0.2.1`) as itself, and others without their zone."""
    plain = address.partition("%")[0]
    mapped = IPv6Address(plain).ipv4_mapped if ":" in plain else None
    return str(mapped or plain)
