"""What may leave an exit's namespace: through its tunnel everything, and beside it a few packets that are not clients'.

Pure: a value becomes the text of one nftables table. Its chains drop what no rule names, of IPv4 and IPv6 alike, whatever
routes and other tables say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from agent.net.packet_marks import BYPASS_MARK

TABLE: Final = "exitplane"
FAMILY: Final = "inet"
OPEN: Final = f"add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n"
"""Removes the table; nothing there is fine."""


@dataclass(frozen=True, slots=True, order=True)
class AllowedPeer:
    """An IP address and a port that may be spoken to by `udp` or `tcp`."""

    address: str
    port: int
    protocol: str

    def __post_init__(self) -> None:
        ip_address(self.address)
        if self.protocol not in {"udp", "tcp"} or not 0 < self.port < 65_536:
            raise ValueError(f"no way out: {self}")


@dataclass(frozen=True, slots=True)
class AllowedTraffic:
    """All that may leave: through `interfaces`, to the provider's servers, to the control plane, and answers from `port`.

    What goes to the control plane carries BYPASS_MARK; `marked` is whether the tunnel's own packets do too.
    """

    interfaces: tuple[str, ...]
    port: int
    provider: frozenset[AllowedPeer]
    control: frozenset[AllowedPeer]
    marked: bool = True


def render(openings: AllowedTraffic) -> str:
    """The table, as `nft -f` reads it: it replaces the one that is there in one transaction, so no packet slips through."""
    rules = "".join(f"    {rule}\n" for rule in output_rules(openings))
    return (
        f"{OPEN}table {FAMILY} {TABLE} {{\n"
        f"  chain output {{\n    type filter hook output priority 0; policy drop;\n{rules}  }}\n"
        "  chain forward {\n    type filter hook forward priority 0; policy drop;\n  }\n"
        "}\n"
    )


def output_rules(openings: AllowedTraffic) -> list[str]:
    """What is let out; everything else is dropped."""
    mark = f" meta mark {BYPASS_MARK:#x}"
    return [
        'oifname "lo" accept',
        *(f'oifname "{_interface(each)}" accept' for each in openings.interfaces),
        *_to(openings.provider, mark if openings.marked else ""),
        *_to(openings.control, mark),
        # gateways' connections: what answers them, and nothing that begins here
        f"ct state established ct direction reply tcp sport {openings.port:d} accept",
        # who has which address on the link; neither these nor ARP, which is none of this family, go beyond it
        "ip6 hoplimit 255 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept",
    ]


def _to(ways: Iterable[AllowedPeer], mark: str) -> Iterator[str]:
    for way in sorted(ways):
        family = "ip6" if ":" in way.address else "ip"
        yield f"{family} daddr {ip_address(way.address)} {way.protocol} dport {way.port:d}{mark} accept"


def _interface(name: str) -> str:
    # nft reads a name that ends in * as a pattern
    if not name or set(name) & set('"\\*/ \n'):
        raise ValueError(f"{name!r} is no interface's name")
    return name
