"""The countries and names of the addresses on a demo's internet, for geolocation and DNS."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from demo.plan import PAGE_NAME, AddressPlan

HOST_COUNTRY: Final = "zz"
"""The country of this host and of everything outside the tunnels; ISO 3166 assigns this code to no country."""


@dataclass(frozen=True, slots=True)
class GeoMap:
    """`countries` maps addresses to countries, and `hosts` names to addresses.

    `authority` is the address of the authoritative name server, and `resolvers` those of the exits' resolvers. Without tunnels
    there are neither, because exits use the resolvers of this host.
    """

    countries: Mapping[str, str] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)
    authority: str | None = None
    resolvers: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> GeoMap:
        fields = json.loads(text)
        return cls(**fields | {"resolvers": tuple(fields["resolvers"])})


def build_geo_map(plan: AddressPlan) -> GeoMap:
    """Build the map of a demo's address plan."""
    countries = {str(site.address): HOST_COUNTRY for site in plan.sites}
    countries |= {str(site.egress_address): site.country for site in plan.sites}
    countries[str(plan.host_address)] = HOST_COUNTRY
    if plan.name_server is None:
        return GeoMap(countries)
    resolvers = {str(plan.resolver_of(site.country)): site.country for site in plan.sites}
    hosts = {PAGE_NAME: str(plan.page_address)}
    return GeoMap(countries | resolvers, hosts, str(plan.name_server), tuple(resolvers))
