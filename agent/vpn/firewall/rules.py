"""The rules of the kill switch: everything may leave through the tunnel, and a few packets of the agent outside it.

Connections of the exit's clients may not even use `lo`, by which packets reach all addresses of the exit's own host.

Pure: a value becomes the text of one nftables table. Its chains drop all other packets of IPv4 and IPv6, whatever routes and other
tables allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from agent.net.packet_marks import BYPASS_MARK, CLIENT_MARK

TABLE: Final = "exitplane"
FAMILY: Final = "inet"
REMOVE_TABLE: Final = f"add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n"
"""Removes the table, whether it exists or not."""


@dataclass(frozen=True, slots=True, order=True)
class AllowedPeer:
    """An IP address and a port to which packets may go by `udp` or `tcp`."""

    address: str
    port: int
    protocol: str

    def __post_init__(self) -> None:
        ip_address(self.address)
        if self.protocol not in {"udp", "tcp"} or not 0 < self.port < 65_536:
            raise ValueError(f"{self} is no peer")


@dataclass(frozen=True, slots=True)
class AllowedTraffic:
    """All that may leave: through `interfaces`, to the provider's servers and the control plane, and answers from `ports`.

    Packets to the control plane carry BYPASS_MARK; those to the provider's servers do too if `marked` is True.
    """

    interfaces: tuple[str, ...]
    ports: tuple[int, ...]
    provider: frozenset[AllowedPeer]
    control: frozenset[AllowedPeer]
    marked: bool = True


def render(allowed: AllowedTraffic) -> str:
    """Return the table as `nft -f` reads it. It replaces the present one in one transaction, so that no packet passes meanwhile."""
    rules = "".join(f"    {rule}\n" for rule in output_rules(allowed))
    return (
        f"{REMOVE_TABLE}table {FAMILY} {TABLE} {{\n"
        f"  chain output {{\n    type filter hook output priority 0; policy drop;\n{rules}  }}\n"
        "  chain forward {\n    type filter hook forward priority 0; policy drop;\n  }\n"
        "}\n"
    )


def output_rules(allowed: AllowedTraffic) -> list[str]:
    """Return the rules in order. Packets that none of them accepts are dropped."""
    interfaces = ", ".join(f'"{_interface(each)}"' for each in allowed.interfaces)
    mark = f" meta mark {BYPASS_MARK:#x}"
    return [
        f"meta mark {CLIENT_MARK:#x} oifname != {{ {interfaces} }} drop",
        'oifname "lo" accept',
        f"oifname {{ {interfaces} }} accept",
        *_accept_to(allowed.provider, mark if allowed.marked else ""),
        *_accept_to(allowed.control, mark),
        # answers to gateways and to readers of metrics, and no connection that begins here
        *(f"ct state established ct direction reply tcp sport {port:d} accept" for port in allowed.ports),
        # neighbour discovery, which does not leave the link; ARP is not of this family
        "ip6 hoplimit 255 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept",
    ]


def _accept_to(peers: Iterable[AllowedPeer], mark: str) -> Iterator[str]:
    for peer in sorted(peers):
        family = "ip6" if ":" in peer.address else "ip"
        yield f"{family} daddr {ip_address(peer.address)} {peer.protocol} dport {peer.port:d}{mark} accept"


def _interface(name: str) -> str:
    # nft reads a name that ends in * as a pattern
    if not name or set(name) & set('"\\*/ \n'):
        raise ValueError(f"{name!r} is no interface's name")
    return name
