"""Who has which name and address in a demo. Pure: nothing here looks at the machine.

Sixteen demos fit on one machine side by side; everything that could collide carries the demo's index.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from demo.errors import LabError

MAX_INSTANCES = 16
MAX_EXITS = 12
"""What a /28 underlay leaves after the host, the internet, the network and the broadcast address."""
PAGE_NAME = "page.internet.test"
"""A name that only the exits' namespaces can resolve: an answer to it proves who resolved."""
EXIT_PORT = 8443

# Each block is split into sixteen /28, one per demo. The underlay has a second choice (RFC 2544's block for bench
# networks) because some machines live in 192.0.2.0/24 themselves.
UNDERLAY_BLOCKS = (IPv4Network("192.0.2.0/24"), IPv4Network("198.18.0.0/24"))
PUBLIC_BLOCK = IPv4Network("198.51.100.0/24")
PAGE_BLOCK = IPv4Network("203.0.113.0/24")
# Without namespaces, demo i lives in 127.0.(64 + i).0/24.
LOOPBACK_BLOCK = IPv4Network("127.0.64.0/20")
_SHARE_BITS = 28


@dataclass(frozen=True, slots=True)
class ExitSite:
    """Where one exit stands.

    `address`:`port` is what gateways dial, `egress_address` what targets see. `namespace`, `ethernet` (its leg on the
    underlay), `port_interface` (the other end of that leg), `tunnel` and `tunnel_server` (the two ends of its WireGuard)
    are None where exits are plain processes.
    """

    name: str
    country: str
    address: IPv4Address
    port: int
    egress_address: IPv4Address
    namespace: str | None = None
    ethernet: str | None = None
    port_interface: str | None = None
    tunnel: str | None = None
    tunnel_server: str | None = None


@dataclass(frozen=True, slots=True)
class AddressPlan:
    """One demo's names and addresses. `underlay` and `page_network` are None where exits are plain processes.

    On the page's network live the page, the server of names, and a resolver for each country: a /28 has room for twelve.

    `host_address` is what the page sees of whoever reaches it without an exit: the mark of a leak.
    """

    index: int
    sites: tuple[ExitSite, ...]
    host_address: IPv4Address
    page_address: IPv4Address
    page_port: int
    underlay: IPv4Network | None = None
    page_network: IPv4Network | None = None

    @property
    def tunnels(self) -> bool:
        """Whether exits are namespaces with tunnels."""
        return self.underlay is not None

    @property
    def prefix(self) -> str:
        """How the names of this demo's namespaces begin."""
        return namespace_prefix(self.index)

    @property
    def internet(self) -> str | None:
        """The namespace of the page and of the far ends of the tunnels."""
        return f"{self.prefix}internet" if self.tunnels else None

    @property
    def internet_address(self) -> IPv4Address:
        """Where the internet's namespace stands on the underlay."""
        return self.underlay[-2] if self.underlay else self.page_address

    @property
    def name_server(self) -> IPv4Address | None:
        """Where the internet's names are known."""
        return self.page_network[3] if self.page_network else None

    def resolver_of(self, country: str) -> IPv4Address:
        """Who resolves for the exits of a country, from an address there. There is one behind tunnels only."""
        if self.page_network is None:
            raise ValueError("a plan without tunnels has no resolvers")
        countries = list(dict.fromkeys(site.country for site in self.sites))
        return self.page_network[4 + countries.index(country)]

    @property
    def uplink(self) -> str:
        """The host's own leg on the underlay: the one interface that a demo adds to the host."""
        return uplink_name(self.index)

    @property
    def bridge(self) -> str:
        """The underlay's bridge. It stands in the internet's namespace, where no firewall of the host filters it."""
        return f"{_interface_prefix(self.index)}br"

    @property
    def downlink(self) -> str:
        """The bridge's end of the host's leg."""
        return f"{_interface_prefix(self.index)}down"


def namespace_prefix(index: int) -> str:
    """How the names of the namespaces of demo `index` begin."""
    return f"exitplane{index}-"


def uplink_name(index: int) -> str:
    """The interface that demo `index` adds to the host."""
    return f"{_interface_prefix(index)}up"


def tunnel_prefix(index: int) -> str:
    """How the names of the WireGuard interfaces of demo `index` begin."""
    return f"{_interface_prefix(index)}wg"


def _interface_prefix(index: int) -> str:
    # At most 15 characters fit an interface's name: `xp15-port12` has 11.
    return f"xp{index}-"


def parse_countries(text: str) -> tuple[str, ...]:
    """`us,US,uk` -> ("us", "us", "gb"): one exit each. Raises SceneError for what is no list of two-letter codes."""
    countries = tuple(part.strip().lower() for part in text.split(","))
    for country in countries:
        if not re.fullmatch("[a-z]{2}", country):
            raise LabError(f"--exits: {country!r} is no two-letter country; write for example --exits us,gb,jp")
    if len(countries) > MAX_EXITS:
        raise LabError(f"--exits: {len(countries)} exits are too many, a demo has room for {MAX_EXITS}")
    return tuple("gb" if country == "uk" else country for country in countries)


def plan_tunnels(index: int, countries: Sequence[str], underlay_block: IPv4Network) -> AddressPlan:
    """The plan of demo `index` with one namespace and one tunnel per exit, on its share of `underlay_block`."""
    underlay, public, page = (_share(block, index) for block in (underlay_block, PUBLIC_BLOCK, PAGE_BLOCK))
    letters = _interface_prefix(index)
    sites = tuple(
        ExitSite(
            name=name,
            country=country,
            address=underlay[number + 1],
            port=EXIT_PORT,
            egress_address=public[number],
            namespace=f"{namespace_prefix(index)}{name}",
            ethernet=f"{letters}eth{number}",
            port_interface=f"{letters}port{number}",
            tunnel=f"{tunnel_prefix(index)}{number}",
            tunnel_server=f"{tunnel_prefix(index)}{number}s",
        )
        for number, (name, country) in enumerate(_named(countries), start=1)
    )
    return AddressPlan(index, sites, underlay[1], page[2], 80, underlay, page)


def plan_loopback(
    index: int, countries: Sequence[str], page_port: int = 8088, exit_port: int = EXIT_PORT
) -> AddressPlan:
    """The plan of demo `index` with exits as processes, each on a loopback address of its own."""
    block = IPv4Network((int(LOOPBACK_BLOCK[0]) + (index << 8), 24))
    sites = tuple(
        ExitSite(name=name, country=country, address=block[number], port=exit_port, egress_address=block[number])
        for number, (name, country) in enumerate(_named(countries), start=1)
    )
    return AddressPlan(index, sites, IPv4Address("127.0.0.1"), block[254], page_port)


def _share(block: IPv4Network, index: int) -> IPv4Network:
    return IPv4Network((int(block[0]) + index * 2 ** (32 - _SHARE_BITS), _SHARE_BITS))


def _named(countries: Sequence[str]) -> list[tuple[str, str]]:
    """("us", "us", "gb") -> [("us-1", "us"), ("us-2", "us"), ("gb-1", "gb")]."""
    seen: Counter[str] = Counter()
    named = []
    for country in countries:
        seen[country] += 1
        named.append((f"{country}-{seen[country]}", country))
    return named
