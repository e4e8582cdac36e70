"""The names and addresses of a demo, computed without looking at the machine.

A machine has room for sixteen demos at once; all names and addresses that could collide depend on the demo's index.
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
"""The addresses of a /28 underlay without those of host, internet, network and broadcast."""
PAGE_NAME = "page.internet.test"
"""A name that only the exits' namespaces can resolve, so that an answer proves that an exit resolved it."""
EXIT_PORT = 8443

# Each block is split into sixteen /28, one per demo. The underlay has a second choice (the benchmark network of RFC 2544),
# because some machines use 192.0.2.0/24 themselves.
UNDERLAY_BLOCKS = (IPv4Network("192.0.2.0/24"), IPv4Network("198.18.0.0/24"))
PUBLIC_BLOCK = IPv4Network("198.51.100.0/24")
PAGE_BLOCK = IPv4Network("203.0.113.0/24")
# Without namespaces, demo i uses 127.0.(64 + i).0/24.
LOOPBACK_BLOCK = IPv4Network("127.0.64.0/20")
_SHARE_BITS = 28


@dataclass(frozen=True, slots=True)
class ExitSite:
    """The addresses and interfaces of one exit.

    Gateways connect to `address`:`port`; targets see `egress_address`. `namespace`, `ethernet` (its interface on the
    underlay), `port_interface` (the peer of that interface), `tunnel` and `tunnel_server` (the two ends of its WireGuard)
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
    """The names and addresses of one demo. `underlay` and `page_network` are None where exits are plain processes.

    The page's network, a /28, contains the page, the name server, and a resolver for each of up to twelve countries.
    The page sees `host_address` in requests without an exit, which reveals a leak.
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
        """True if exits are namespaces with tunnels."""
        return self.underlay is not None

    @property
    def prefix(self) -> str:
        """The prefix of the names of this demo's namespaces."""
        return namespace_prefix(self.index)

    @property
    def internet(self) -> str | None:
        """The namespace of the page and of the far ends of the tunnels."""
        return f"{self.prefix}internet" if self.tunnels else None

    @property
    def internet_address(self) -> IPv4Address:
        """The address of the internet's namespace on the underlay."""
        return self.underlay[-2] if self.underlay else self.page_address

    @property
    def name_server(self) -> IPv4Address | None:
        """The address of the authoritative name server; None without tunnels."""
        return self.page_network[3] if self.page_network else None

    def resolver_of(self, country: str) -> IPv4Address:
        """Return the address of the resolver of a country's exits. Raises ValueError without tunnels."""
        if self.page_network is None:
            raise ValueError("a plan without tunnels has no resolvers")
        countries = list(dict.fromkeys(site.country for site in self.sites))
        return self.page_network[4 + countries.index(country)]

    @property
    def uplink(self) -> str:
        """The host's interface on the underlay, the only one that a demo adds to the host."""
        return uplink_name(self.index)

    @property
    def bridge(self) -> str:
        """The underlay's bridge, in the internet's namespace, where the host's firewall does not filter it."""
        return f"{_interface_prefix(self.index)}br"

    @property
    def downlink(self) -> str:
        """The peer of `uplink`, at the bridge."""
        return f"{_interface_prefix(self.index)}down"


def namespace_prefix(index: int) -> str:
    """Return the prefix of the names of the namespaces of demo `index`."""
    return f"exitplane{index}-"


def uplink_name(index: int) -> str:
    """Return the name of the interface that demo `index` adds to the host."""
    return f"{_interface_prefix(index)}up"


def tunnel_prefix(index: int) -> str:
    """Return the prefix of the names of the WireGuard interfaces of demo `index`."""
    return f"{_interface_prefix(index)}wg"


def _interface_prefix(index: int) -> str:
    # an interface's name has at most 15 characters; `xp15-port12` has 11
    return f"xp{index}-"


def parse_countries(text: str) -> tuple[str, ...]:
    """Parse a list of countries: `us,US,uk` -> ("us", "us", "gb"). Raises LabError for other text."""
    countries = tuple(part.strip().lower() for part in text.split(","))
    for country in countries:
        if not re.fullmatch("[a-z]{2}", country):
            raise LabError(
                f"--exits: {country!r} is not a two-letter country code", hint="write, for example, --exits us,gb,jp"
            )
    if len(countries) > MAX_EXITS:
        raise LabError(f"--exits: {len(countries)} exits are too many", hint=f"name at most {MAX_EXITS}")
    return tuple("gb" if country == "uk" else country for country in countries)


def plan_tunnels(index: int, countries: Sequence[str], underlay_block: IPv4Network) -> AddressPlan:
    """Plan demo `index` with a namespace and a tunnel for each exit, on its share of `underlay_block`."""
    underlay, public, page = (_share(block, index) for block in (underlay_block, PUBLIC_BLOCK, PAGE_BLOCK))
    prefix = _interface_prefix(index)
    sites = tuple(
        ExitSite(
            name=name,
            country=country,
            address=underlay[number + 1],
            port=EXIT_PORT,
            egress_address=public[number],
            namespace=f"{namespace_prefix(index)}{name}",
            ethernet=f"{prefix}eth{number}",
            port_interface=f"{prefix}port{number}",
            tunnel=f"{tunnel_prefix(index)}{number}",
            tunnel_server=f"{tunnel_prefix(index)}{number}s",
        )
        for number, (name, country) in enumerate(_name_exits(countries), start=1)
    )
    return AddressPlan(index, sites, underlay[1], page[2], 80, underlay, page)


def plan_loopback(
    index: int, countries: Sequence[str], page_port: int = 8088, exit_port: int = EXIT_PORT
) -> AddressPlan:
    """Plan demo `index` with exits as processes, each on its own loopback address."""
    block = IPv4Network((int(LOOPBACK_BLOCK[0]) + (index << 8), 24))
    sites = tuple(
        ExitSite(name=name, country=country, address=block[number], port=exit_port, egress_address=block[number])
        for number, (name, country) in enumerate(_name_exits(countries), start=1)
    )
    return AddressPlan(index, sites, IPv4Address("127.0.0.1"), block[254], page_port)


def _share(block: IPv4Network, index: int) -> IPv4Network:
    return IPv4Network((int(block[0]) + index * 2 ** (32 - _SHARE_BITS), _SHARE_BITS))


def _name_exits(countries: Sequence[str]) -> list[tuple[str, str]]:
    """Name exits by country and number: ("us", "us", "gb") -> [("us-1", "us"), ("us-2", "us"), ("gb-1", "gb")]."""
    counts: Counter[str] = Counter()
    exits = []
    for country in countries:
        counts[country] += 1
        exits.append((f"{country}-{counts[country]}", country))
    return exits
